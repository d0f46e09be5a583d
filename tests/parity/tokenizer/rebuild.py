"""Tokenizers of the reference library, put together from the vocabularies that llama.cpp ships as GGUF files.

A GGUF file names its pre-tokenizer only; how each model's tokenizer.json spells it stands below. What is put
together must give the ids that the file's vectors (.inp, .out) ask for before its tokenizer.json is written,
so that it can serve as a reference for any other text.
"""
import glob
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import generate_merges

import gguf_fields
from make_golden import LLAMA3, QWEN2, QWEN35

SEPARATOR = "\n__ggml_vocab_test__\n"
SPACE = "\u2581"
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # tokenizer.ggml.token_type
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


# name of the file's pre-tokenizer -> normalizer, pre-tokenizers, whether whole words skip the merges
BYTE_LEVEL = {
    "gpt-2": (None, [GPT2], False),
    "mpt": (normalizers.NFC(), [GPT2], False),
    "qwen2": (normalizers.NFC(), [split(QWEN2), BYTES], False),
    "qwen35": (None, [split(QWEN35), BYTES], False),
    "llama-bpe": (None, [split(LLAMA3), BYTES], True),
    "starcoder": (None, [pre_tokenizers.Digits(True), GPT2], False),
    "refact": (None, [pre_tokenizers.Digits(True), GPT2], False),
    "smollm": (None, [pre_tokenizers.Digits(True), GPT2], False),
    "command-r": (normalizers.NFC(), [pre_tokenizers.Digits(True), GPT2], False),
    "falcon": (None, [pre_tokenizers.Punctuation("contiguous"), GPT2, pre_tokenizers.Digits(False),
                      split("[0-9][0-9][0-9]")], False),
}


def merges_of(fields):
    """Pairs; a token may hold a space itself, so the first one behind a character cuts."""
    return [(m[:m.index(" ", 1)], m[m.index(" ", 1) + 1:]) for m in fields["merges"]]


def byte_level(fields):
    normalizer, steps, whole_words = BYTE_LEVEL[fields["pre"]]
    vocab = {token: i for i, token in enumerate(fields["tokens"])}
    tokenizer = Tokenizer(models.BPE(vocab, merges_of(fields), ignore_merges=whole_words))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def character_level(fields, merges, prefix):
    """SentencePiece's BPE, and Gemma's: spaces are marked, characters unknown become bytes."""
    vocab = {token: i for i, token in enumerate(fields["tokens"])}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    marks = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), marks]) if prefix else marks
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return tokenizer


def rebuild(fields):
    """The tokenizer, or None where how the model spelled it is not known here."""
    if fields["model"] == "gpt2" and fields.get("pre") in BYTE_LEVEL:
        tokenizer = byte_level(fields)
    elif fields["model"] == "gemma4":
        tokenizer = character_level(fields, merges_of(fields), False)
    elif fields["model"] == "llama":
        vocab = {token: i for i, token in enumerate(fields["tokens"])}
        scores = dict(zip(fields["tokens"], fields["scores"]))
        tokenizer = character_level(fields, generate_merges(vocab, scores), True)
    else:
        return None
    added = [AddedToken(token, special=kind != USER_DEFINED, normalized=False)
             for token, kind in zip(fields["tokens"], fields["token_type"]) if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    tokenizer.add_tokens(added)
    if fields.get("add_bos_token"):
        bos = fields["bos_token_id"]
        token = fields["tokens"][bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{token} $A", pair=f"{token} $A $B", special_tokens=[(token, bos)])
    return tokenizer


def wrong_vectors(tokenizer, path):
    with open(path + ".inp", encoding="utf-8", newline="") as f:
        inputs = f.read().split(SEPARATOR)
    with open(path + ".out") as f:
        wanted = [[int(i) for i in line.split()] for line in f.read().split("\n")]
    return [t for t, want in zip(inputs, wanted) if tokenizer.encode(t, add_special_tokens=False).ids != want]


def make_all(vectors, folder):
    """Writes FOLDER/NAME/tokenizer.json for the files of VECTORS (fetch.py made both)."""
    for path in sorted(glob.glob(os.path.join(vectors, "*.gguf"))):
        if not os.path.exists(path + ".out"):
            continue
        name = os.path.basename(path)[len("ggml-vocab-"):-len(".gguf")]
        tokenizer = rebuild(gguf_fields.fields(path))
        if tokenizer is None:
            print("%s: not rebuilt, its vectors alone are compared" % name)
            continue
        wrong = wrong_vectors(tokenizer, path)
        if wrong:
            sys.exit("%s: the reference itself does not give its vectors, as for %r" % (name, wrong[0]))
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        tokenizer.save(os.path.join(folder, name, "tokenizer.json"))
