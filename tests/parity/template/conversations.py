"""Conversations that exercise what chat templates look at."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather at a place, \"as is\" <b>&</b> é.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["C", "F"], "description": "unit"},
                "days": {"type": "integer", "description": "how many"},
                "flags": {"type": "array", "items": {"type": "string"}, "description": "flags"},
            },
            "required": ["place"],
        },
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "number", "description": "first"},
                           "b": {"type": "number", "description": "second"}},
            "required": ["a", "b"],
        },
    },
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def call(name, arguments, id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "one": [user("Hello")],
    "plain": [user("Hi there"), assistant("Hello! How can I help?"), user("What is 2+2?"), assistant("4")],
    "system": [system("You are terse."), user("Hi"), assistant("Yes?"), user("Bye"), assistant("Bye.")],
    "spaces": [user("  padded \n"), assistant("\n\n answer with spaces  \n"), user("\tq\n\n"), assistant(" x ")],
    "unicode": [system("Üben 你好"), user("Grüße 🎉 \u2028 \u00a0"), assistant("naïve — “quotes” 𝄞\u00a0")],
    "empty": [user(""), assistant(""), user("again"), assistant("ok")],
    "markup": [user("<|im_end|> & <b> \"q\" 'a' \\n {{ x }}"), assistant("</s> [INST] <think> & <i> \\ \u0007")],
    "reasoning": [user("Why?"), assistant("Because.", reasoning_content="Let me think.\nYes."),
                  user("Sure?"), assistant("Sure.", reasoning_content="Hm.")],
    "think_inline": [user("Why?"), assistant("<think>\nLet me see.\n</think>\n\nBecause."), user("ok"),
                     assistant("<think>\nfine\n</think>\n\nGood.")],
    "tools": [user("Weather in Bern?"),
              assistant("", tool_calls=[call("get_weather", {"place": "Bern", "days": 3, "flags": ["a", "b"], "deep": {"x": None, "y": [1.5, True]}})]),
              {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"temp\": 21}"},
              assistant("It is 21 degrees."), user("Thanks"), assistant("Welcome.")],
    "tools_two": [system("Use tools."), user("Add and look."),
                  assistant("I will.", tool_calls=[call("add", {"a": 1, "b": 2.0}, "call00001"),
                                                   call("get_weather", {"place": "Genève"}, "call00002")]),
                  {"role": "tool", "name": "add", "tool_call_id": "call00001", "content": "3"},
                  {"role": "tool", "name": "get_weather", "tool_call_id": "call00002", "content": "sunny"},
                  assistant("3 and sunny.")],
    "tools_none_content": [user("Add"), {"role": "assistant", "content": None, "tool_calls": [call("add", {"a": 1, "b": 2})]},
                           {"role": "tool", "name": "add", "tool_call_id": "call00001", "content": "3"}, assistant("3")],
    "tool_arguments_string": [user("Add"), assistant("", tool_calls=[call("add", "{\"a\": 1}")]),
                              {"role": "tool", "name": "add", "tool_call_id": "call00001", "content": "3"}, assistant("3")],
    "tool_reasoning": [user("Add"), assistant("", reasoning_content="I should add.", tool_calls=[call("add", {"a": 1, "b": 2})]),
                       {"role": "tool", "name": "add", "tool_call_id": "call00001", "content": "3"},
                       assistant("3", reasoning_content="Done.")],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Look "}, {"type": "text", "text": "here"}]},
              {"role": "assistant", "content": [{"type": "text", "text": "I see."}]}],
    "two_users": [user("a"), user("b"), assistant("c")],
    "two_assistants": [user("a"), assistant("b"), assistant("c")],
    "assistant_first": [assistant("Welcome."), user("hi"), assistant("yes")],
    "system_late": [user("a"), system("Be nice."), assistant("b")],
    "long": [m for i in range(10) for m in (user(f"question number {i}"), assistant(f"answer number {i}"))],
}
TOOLS = [WEATHER, ADD]


def cases():
    """(name, messages, tools, add_generation_prompt, kwargs)"""
    for name, messages in CONVERSATIONS.items():
        for prompt in (False, True):
            yield f"{name}/{prompt}", messages, None, prompt, {}
            if name in ("plain", "system", "one") or name.startswith("tool"):
                yield f"{name}/tools/{prompt}", messages, TOOLS, prompt, {}
    yield "plain/nothink", CONVERSATIONS["plain"], None, True, {"enable_thinking": False}
    yield "reasoning/think", CONVERSATIONS["reasoning"], None, True, {"enable_thinking": True, "thinking": True}
