#!/usr/bin/env python3
"""Writes support_tickets/{training,validation}.jsonl: customers' tickets, each answered in one fixed
format (Category, Priority, Reply). The text is made here from parts of our own and is free to use.
The same script always writes the same files."""
import json
import os
import random

PRODUCTS = ["Lumen desk lamp", "Aero office chair", "Pulse smart watch", "Brew coffee machine",
            "Nimbus air purifier", "Trail backpack", "Echo headphones", "Harbor dock station",
            "Vista monitor", "Glide keyboard", "Terra plant sensor", "Swift router"]
NAMES = ["Anna", "Ben", "Chiara", "Deniz", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kemi",
         "Lena", "Marco", "Nora", "Omar", "Priya", "Quentin", "Rosa", "Sven", "Tara", "Umut", "Vera",
         "Wei", "Yara", "Zoe"]
CITIES = ["Bern", "Porto", "Leeds", "Graz", "Malmo", "Ghent", "Turin", "Cork", "Lyon", "Tartu"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
BROWSERS = ["Firefox", "Chrome", "Safari", "Edge"]

# category -> [(ticket, reply)]; {urgent} marks tickets that cannot wait.
SCENARIOS = {
    "Billing": [
        ("I was charged twice for order {order}: {amount} euros appear two times on my card statement.",
         "I have found the second charge of {amount} euros for order {order} and started the refund. It will reach your card within 3 to 5 working days."),
        ("Invoice {order} shows a company name that we no longer use. Could you issue it again for {name} Trading Ltd?",
         "I have corrected the company name on invoice {order} and sent the new PDF to your e-mail address."),
        ("Why did my monthly plan go up to {amount} euros? Nobody told me about a change.",
         "Your plan moved from the introductory price to the regular {amount} euros this month. I have added one month at the old price as an apology for the missing notice."),
        ("The discount code from your newsletter was not applied to order {order}.",
         "I have applied the code to order {order} now and returned the difference to your payment method."),
    ],
    "Shipping": [
        ("My {product} should have arrived on {day}. The tracking page has not moved since it left {city}.",
         "I have asked the carrier to search for your {product} in {city}. If there is no scan within two days, we send a replacement at no cost."),
        ("I moved last week. Can order {order} still be sent to my new address in {city}?",
         "Order {order} has not left the warehouse, so I have changed the delivery address to {city}. You will receive a new confirmation today."),
        ("The parcel for order {order} says delivered, but my neighbours and I have not seen it.",
         "I am sorry that order {order} is missing. I have opened a case with the carrier and will write to you by {day} with a replacement or a refund."),
        ("Do you deliver the {product} to {city}, and how long does it take?",
         "Yes, we deliver the {product} to {city}. It takes 3 to 4 working days, and you can follow the parcel in your account."),
    ],
    "Technical issue": [
        ("My {product} stopped turning on this morning. I tried another socket and a new cable.",
         "Thank you for testing the socket and the cable. Please hold the power button of your {product} for ten seconds; if it stays off, I will send a replacement right away."),
        ("After the last update the {product} loses its connection every few minutes.",
         "The connection drops come from version 4.2. Please install version 4.3 in the settings of your {product}; it is out since {day}."),
        ("Your website shows an empty page in {browser} whenever I open my basket.",
         "We could reproduce the empty basket in {browser} and our developers are fixing it. Until then, please clear the site data once or use another browser."),
        ("There is a crackling noise from the {product} and it smells burnt. {urgent}",
         "Please unplug the {product} now and do not use it again. A replacement leaves our warehouse today, and a courier will collect the faulty one."),
    ],
    "Account access": [
        ("I cannot log in any more. The password reset e-mail never arrives, not even in the spam folder.",
         "The reset e-mails went to an old address. I have sent a new link to the address you wrote from; it is valid for one hour."),
        ("I have a new phone and the two-factor codes are gone. How do I get into my account?",
         "I have sent you a form to prove your identity. Once it is returned, we switch off the old codes and you can set up your new phone."),
        ("Somebody changed the e-mail address of my account and ordered a {product}. {urgent}",
         "I have locked your account and stopped the order of the {product}. Please set a new password with the link I sent; nothing will be charged."),
        ("Please change the name on my account to {name}. I got married last month.",
         "Congratulations! I have changed the name on your account to {name}. Your orders and points stay as they are."),
    ],
    "Returns": [
        ("The {product} is too large for my room. I would like to send it back; it is still in its box.",
         "No problem. I have sent you a return label for the {product}. We refund the full price within two days of its arrival."),
        ("Order {order} contained the wrong colour. I ordered grey and received green.",
         "I am sorry for the mix-up in order {order}. The grey one leaves today, and the label for the green one is in your inbox."),
        ("My {product} arrived with a cracked case. Photos are attached.",
         "Thank you for the photos. A new {product} is on its way, and you do not need to return the damaged one."),
        ("How long do I have to return a gift? I bought the {product} in {city} five weeks ago.",
         "Gifts can be returned within 60 days, so there is still time for your {product}. Please bring the receipt to the shop in {city}."),
    ],
    "Cancellation": [
        ("Please cancel order {order}. I chose the wrong model by mistake.",
         "Order {order} is cancelled and {amount} euros go back to your card. You can order the other model whenever you like."),
        ("I want to end my subscription at the end of this month.",
         "Your subscription ends on the last day of this month. You keep access until then and will not be charged again."),
        ("I cancelled my plan on {day}, but you still took {amount} euros today. {urgent}",
         "Your cancellation from {day} was not processed, which is our fault. The plan is closed now and the {amount} euros are on their way back."),
    ],
    "Product question": [
        ("Does the {product} work with {browser} on a work laptop without administrator rights?",
         "Yes, the {product} is set up in the browser, so {browser} without administrator rights is enough."),
        ("How often should the filter of the {product} be cleaned?",
         "Please rinse the filter of the {product} once a month and replace it after a year. A light on the front reminds you."),
        ("Is the {product} covered by a warranty if I use it in my office in {city}?",
         "Yes, the warranty of two years also covers use in your office in {city}. Please keep the invoice."),
        ("Can I buy spare parts for the {product}? A small screw is missing.",
         "Spare parts for the {product} are in our shop under Accessories. I am sending you the missing screw for free."),
    ],
    "Feature request": [
        ("It would be great if the app for the {product} had a dark mode.",
         "Thank you for the idea. I have added your vote for a dark mode to our list; the team of the {product} reviews it every quarter."),
        ("Could you add an export of all invoices as one file? I need it for my tax adviser.",
         "A yearly export of all invoices is planned for the next release. Until then, I have sent you the files for this year."),
        ("Please let us choose a delivery time in the evening. I am never at home before six.",
         "Evening delivery starts in your area next month. I have noted your address so that you hear about it first."),
    ],
}
PRIORITY = {"Billing": "Medium", "Shipping": "Medium", "Technical issue": "High",
            "Account access": "High", "Returns": "Medium", "Cancellation": "Medium",
            "Product question": "Low", "Feature request": "Low"}
URGENT = ["Please act at once!", "This is urgent.", "I need help right now.", "Please answer today."]
OPENINGS = ["", "Hello, ", "Hi team, ", "Good morning, ", "Dear support, ", "Hi, "]
CLOSINGS = ["", " Thanks, {name}", " Regards, {name}", " Best, {name}", "\n\n{name}", " Thank you!"]


def ticket(random, category, scenario):
    text, reply = scenario
    slots = {"product": random.choice(PRODUCTS), "name": random.choice(NAMES),
             "city": random.choice(CITIES), "day": random.choice(DAYS),
             "browser": random.choice(BROWSERS), "order": f"{random.randint(10000, 99999)}",
             "amount": f"{random.randint(9, 180)}", "urgent": random.choice(URGENT)}
    opening = random.choice(OPENINGS)
    if opening and not text.startswith("I ") and not text.startswith("{"):
        text = text[0].lower() + text[1:]
    closing = random.choice(CLOSINGS)
    user = (opening + text + closing).format(**slots)
    greeting = f"Hello {slots['name']}," if "{name}" in closing else "Hello,"
    priority = "Urgent" if "{urgent}" in text else PRIORITY[category]
    answer = f"Category: {category}\nPriority: {priority}\nReply: {greeting} {reply.format(**slots)}"
    return user, answer


def rows(random, count, seen):
    scenarios = [(c, s) for c in SCENARIOS for s in SCENARIOS[c]]
    out = []
    while len(out) < count:
        random.shuffle(scenarios)
        for category, scenario in scenarios:
            user, answer = ticket(random, category, scenario)
            if user in seen or len(out) == count:
                continue
            seen.add(user)
            out.append({"messages": [{"role": "user", "content": user},
                                     {"role": "assistant", "content": answer}]})
    return out


def main():
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "support_tickets")
    generator = random.Random(2026)
    seen = set()
    for name, count in (("training", 240), ("validation", 40)):
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, name + ".jsonl"), "w", encoding="utf-8") as out:
            for row in rows(generator, count, seen):
                out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
