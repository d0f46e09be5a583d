"""Rendering of chat templates beside jinja2's compiled render and transformers, one thread each.

  template_bench.py TEMPLATE_BENCH_BINARY

Run it with the python that tests/parity/setup.sh prints. One JSON line a template.
"""
import json
import os
import subprocess
import sys
import time

import trl
from transformers.utils import chat_template_utils

MESSAGES = [{"role": "user" if i % 2 == 0 else "assistant",
             "content": f"This is message number {i}. " + "Some words to read, more or less. " * 6}
            for i in range(20)]
NAMES = ["llama3.jinja", "qwen3.jinja", "qwen2_5.jinja", "phi3.jinja", "gemma3.jinja"]


def best(call, rounds=7, calls=200):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls)
    return min(times) * 1e6


def main():
    for name in NAMES:
        path = os.path.join(os.path.dirname(trl.__file__), "chat_templates", name)
        template = open(path, encoding="utf-8").read()
        ours = json.loads(subprocess.run([sys.argv[1]], input=json.dumps({"template": template, "messages": MESSAGES}).encode(),
                                         stdout=subprocess.PIPE, check=True).stdout)
        compiled = chat_template_utils._compile_jinja_template(template)
        jinja = best(lambda: compiled.render(messages=MESSAGES, tools=None, documents=None,
                                             add_generation_prompt=False, bos_token="<s>", eos_token="</s>"))
        whole = best(lambda: chat_template_utils.render_jinja_template(
            conversations=[MESSAGES], chat_template=template, bos_token="<s>", eos_token="</s>"))
        print(json.dumps({"template": name, **{k: round(v, 1) for k, v in ours.items()},
                          "jinja2_us": round(jinja, 1), "transformers_us": round(whole, 1),
                          "times_jinja2": round(jinja / ours["render_us"], 1),
                          "times_transformers": round(whole / ours["render_us"], 1)}))


if __name__ == "__main__":
    main()
