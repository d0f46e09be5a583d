"""The tokenizer metadata of a GGUF file as a JSON object, for tokenizer_driver's kind `gguf`."""
import json
import sys

import gguf


def fields(path):
    reader = gguf.GGUFReader(path)
    out = {}
    for name, field in reader.fields.items():
        if name == "tokenizer.chat_template":
            out["chat_template"] = field.contents()
        if name.startswith("tokenizer.ggml."):
            key = name[len("tokenizer.ggml."):]
            value = field.contents()
            out[key] = value
    return out


if __name__ == "__main__":
    with open(sys.argv[2], "w") as f:
        json.dump(fields(sys.argv[1]), f)
