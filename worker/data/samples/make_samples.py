#!/usr/bin/env python3
"""Writes the small sample sets, one folder each with training and validation rows:

    classification   prompt/completion: a review and its label
    extractive_qa    prompt/completion: a passage with a question, and the answer as the passage words it
    simplification   prompt/completion: an official sentence and the same in plain words
    conversation     chat: several turns about a journey, with a system message
    tools            chat: calls of tools, their results, and the answer

The text is made here from parts of our own and is free to use. The same script always writes the same files;
support_tickets comes from make_support_tickets.py.
"""
import json
import os
import random

TRAINING, VALIDATION = 60, 12

THINGS = ["kettle", "desk lamp", "rain jacket", "headset", "bread knife", "bike light", "notebook", "garden hose"]
PRAISE = ["It does what it should, every single day", "Better than the one that cost twice as much",
          "Arrived early and works at once", "My whole family wants one now", "Well made, and quiet too"]
BLAME = ["It broke after two days", "The instructions are of no use", "Much smaller than in the picture",
         "It smells of glue and will not go away", "The seller never answered"]
PLAIN = ["It is a {thing}, neither more nor less", "Good idea, poor finish; it evens out", "Too early to say anything",
         "Fine for the price, no more than that", "Some days it works well and some days it does not"]


def classification(rng):
    label, pool = rng.choice([("positive", PRAISE), ("negative", BLAME), ("neutral", PLAIN)])
    first, second = rng.sample(pool, 2)
    thing = rng.choice(THINGS)
    text = f"About the {thing}: {first.format(thing=thing)}. {second.format(thing=thing)}."
    return {"prompt": f"Is this review positive, negative or neutral?\n\n{text}\n\nLabel:", "completion": f" {label}"}


PLACES = ["Alder Bridge", "Fenwick Mill", "the North Pier", "Corrie Lighthouse", "Tannen Station", "Hollow Market"]
BUILDERS = ["Ada Lindqvist", "Tomas Okoro", "Mirela Popa", "Henrik Sand", "Yumi Arai", "Carlos Vidal"]
REASONS = ["a flood had carried the old one away", "the harbour had grown too small",
           "travellers had asked for it for years", "the council had found coal nearby"]
MATERIALS = ["red brick", "oak beams", "grey granite", "riveted iron"]


def extractive_qa(rng):
    place, builder = rng.choice(PLACES), rng.choice(BUILDERS)
    reason, material = rng.choice(REASONS), rng.choice(MATERIALS)
    year, cost = str(rng.randint(1801, 1939)), f"{rng.randint(12, 90)},000 crowns"
    passage = (f"{place[0].upper() + place[1:]} was finished in {year} under {builder}, because {reason}. It was made of "
               f"{material} and cost {cost}, most of which came from local merchants.")
    question, answer = rng.choice([
        ("When was it finished?", year), ("Who led the work?", builder), ("What was it made of?", material),
        ("How much did it cost?", cost), ("Why was it made?", reason)])
    return {"prompt": f"{passage}\n\nQuestion: {question}\nAnswer in the words of the text:", "completion": f" {answer}"}


ACTS = [("submit the completed form", "send us the form"), ("effect payment of the outstanding amount", "pay what you owe"),
        ("furnish proof of residence", "show us where you live"), ("retain the present notice", "keep this letter"),
        ("notify the office of any alteration in your circumstances", "tell us when something changes")]
LIMITS = [("prior to the expiry of {n} working days", "within {n} working days"),
          ("not later than the {n}th day of the month", "by the {n}th of the month"),
          ("upon the elapse of {n} weeks at the latest", "in {n} weeks at the latest")]
ELSE = [("failing which the application shall be deemed withdrawn", "Otherwise your application ends"),
        ("in default of which a surcharge may be levied", "Otherwise you may have to pay more"),
        ("without prejudice to your right of appeal", "You can still appeal")]


def simplification(rng):
    (act, plain_act), (limit, plain_limit), (other, plain_other) = rng.choice(ACTS), rng.choice(LIMITS), rng.choice(ELSE)
    n = rng.randint(5, 28)
    return {"prompt": f"Say this in plain words:\n\nYou are hereby requested to {act} {limit.format(n=n)}, {other}.\n\n",
            "completion": f"Please {plain_act} {plain_limit.format(n=n)}. {plain_other}."}


CITIES = ["Bern", "Porto", "Graz", "Ghent", "Turin", "Cork", "Lyon", "Tartu"]


def conversation(rng):
    start, end = rng.sample(CITIES, 2)
    hour, price, day = rng.randint(6, 19), rng.randint(19, 140), rng.choice(["Monday", "Tuesday", "Friday", "Sunday"])
    turns = [
        ("user", f"I need to get from {start} to {end} on {day}."),
        ("assistant", f"There is a direct train from {start} to {end} on {day} at {hour}:15. Shall I hold a seat?"),
        ("user", rng.choice(["How much is it?", "What does it cost?", "Is it expensive?"])),
        ("assistant", f"A seat is {price} euros in second class, and {price * 2} in first."),
    ]
    if rng.random() < 0.6:
        turns += [("user", rng.choice(["Second class, please.", "Then second class."])),
                  ("assistant", f"Done: {start} to {end}, {day} at {hour}:15, second class, {price} euros.")]
    return {"messages": [{"role": "system", "content": "You are a travel desk. Answer in at most two sentences."}] +
                        [{"role": role, "content": text} for role, text in turns]}


def function(name, description, **properties):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": properties, "required": list(properties)}}}


TOOLS = [
    function("get_weather", "The weather of a city today", city={"type": "string", "description": "Name of the city"}),
    function("set_timer", "Starts a timer", minutes={"type": "integer", "description": "How long"}),
    function("convert_length", "Converts metres to feet", metres={"type": "number", "description": "Length in metres"}),
]


def tools(rng):
    kind = rng.randrange(3)
    if kind == 0:
        city, degrees = rng.choice(CITIES), rng.randint(-5, 33)
        ask, name, arguments = f"What is it like in {city} today?", "get_weather", {"city": city}
        result, answer = {"degrees": degrees, "sky": "clear"}, f"It is {degrees} degrees in {city}, with a clear sky."
    elif kind == 1:
        minutes = rng.randint(2, 90)
        ask, name, arguments = f"Wake me in {minutes} minutes.", "set_timer", {"minutes": minutes}
        result, answer = {"started": True}, f"The timer runs for {minutes} minutes."
    else:
        metres = rng.randint(2, 400)
        feet = round(metres * 3.28084, 1)
        ask, name, arguments = f"How many feet are {metres} metres?", "convert_length", {"metres": metres}
        result, answer = {"feet": feet}, f"{metres} metres are {feet} feet."
    call = {"id": f"call{rng.randint(1000, 9999)}", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"messages": [
        {"role": "user", "content": ask},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "name": name, "content": json.dumps(result)},
        {"role": "assistant", "content": answer}], "tools": TOOLS}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    for make in (classification, extractive_qa, simplification, conversation, tools):
        rng, seen = random.Random(make.__name__), set()
        folder = os.path.join(here, make.__name__)
        os.makedirs(folder, exist_ok=True)
        for part, count in (("training", TRAINING), ("validation", VALIDATION)):
            with open(os.path.join(folder, part + ".jsonl"), "w", encoding="utf-8") as out:
                written = 0
                while written < count:
                    line = json.dumps(make(rng), ensure_ascii=False)
                    if line not in seen:
                        seen.add(line)
                        out.write(line + "\n")
                        written += 1


if __name__ == "__main__":
    main()
