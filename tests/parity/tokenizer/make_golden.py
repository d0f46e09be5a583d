"""Small tokenizers that together use every component of tokenizer.json, and what the reference says of texts.

    make_golden.py golden              writes golden/NAME.json, for golden_test
    make_golden.py live DRIVER COUNT   compares each with the driver on COUNT generated texts
"""
import json
import os
import sys
import tempfile

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

import compare
import texts

GOLDEN_TEXTS = 120
CORPUS = texts.generate(400, 77)
SPECIALS = [AddedToken("<s>", special=True, normalized=False), AddedToken("</s>", special=True, normalized=False)]
ADDED = [
    AddedToken("[LEFT]", lstrip=True, normalized=False),
    AddedToken("[RIGHT]", rstrip=True, normalized=False),
    AddedToken("[BOTH]", lstrip=True, rstrip=True, normalized=False),
    AddedToken("word", single_word=True, normalized=False),
    AddedToken("Éclair", normalized=True),
    AddedToken("<|x|>", normalized=False),
    AddedToken("<|x|>>", normalized=False),
]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = QWEN2.replace(r"\p{L}+|\p{N}|", r"[\p{L}\p{M}]+|\p{N}|").replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + r"+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?" + UPPER +
         "+" + LOWER + r"*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
SCRIPTS = "Han Hiragana Latin Greek Arabic Common".split()


def bpe(pre=None, norm=None, post=None, dec=None, size=480, byte_level=True, added=True, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    if norm:
        tokenizer.normalizer = norm
    if pre:
        tokenizer.pre_tokenizer = pre
    if post:
        tokenizer.post_processor = post
    if dec:
        tokenizer.decoder = dec
    extra = {}
    if options.get("continuing_subword_prefix"):
        extra["continuing_subword_prefix"] = options["continuing_subword_prefix"]
    if options.get("end_of_word_suffix"):
        extra["end_of_word_suffix"] = options["end_of_word_suffix"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIALS + [AddedToken("<unk>", special=True)], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if byte_level else [], limit_alphabet=300, **extra)
    tokenizer.train_from_iterator(CORPUS, trainer)
    if added:
        tokenizer.add_tokens(ADDED)
    return tokenizer


def with_model(tokenizer, **members):
    """The same tokenizer with members of its model replaced."""
    data = json.loads(tokenizer.to_str())
    data["model"].update(members)
    return Tokenizer.from_str(json.dumps(data))


def byte_tokens(tokenizer, **members):
    """Adds the tokens <0x00> to <0xFF> to the vocabulary of a BPE model."""
    data = json.loads(tokenizer.to_str())
    vocab = data["model"]["vocab"]
    for byte in range(256):
        vocab.setdefault("<0x%02X>" % byte, len(vocab))
    data["model"].update(members)
    for token in data["added_tokens"]:  # their ids moved
        token["id"] = vocab.get(token["content"], len(vocab) + token["id"])
    return Tokenizer.from_str(json.dumps(data))


def unigram(byte_fallback=False, norm=None, pre=None, dec=None):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = norm
    tokenizer.pre_tokenizer = pre or pre_tokenizers.Metaspace()
    tokenizer.decoder = dec or decoders.Metaspace()
    tokenizer.train_from_iterator([" ".join(texts.WORDS)] * 3, trainers.UnigramTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    if byte_fallback:
        data = json.loads(tokenizer.to_str())
        data["model"]["vocab"] += [["<0x%02X>" % byte, -20.0] for byte in range(256)]
        data["model"]["byte_fallback"] = True
        tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_tokens(ADDED)
    return tokenizer


def word_piece(norm=None, **options):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", **options))
    tokenizer.normalizer = norm or normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.add_tokens(ADDED)
    return tokenizer


def word_level(pre, norm=None, dec=None):
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre
    if norm:
        tokenizer.normalizer = norm
    if dec:
        tokenizer.decoder = dec
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(vocab_size=300, special_tokens=["<unk>", "<s>"],
                                                                    show_progress=False))
    tokenizer.add_tokens(ADDED)
    return tokenizer


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def llama_template():
    return processors.TemplateProcessing(single="<s> $A", pair="<s> $A </s> $B:1", special_tokens=[("<s>", 0), ("</s>", 1)])


def byte_level_cases():
    seq, dec = pre_tokenizers.Sequence, decoders.ByteLevel()
    yield "gpt2", bpe(byte_level(regex=True), dec=dec, post=processors.ByteLevel(trim_offsets=True))
    yield "gpt2_prefix", bpe(byte_level(True, True), dec=dec, post=processors.ByteLevel(trim_offsets=True))
    yield "roberta", bpe(byte_level(True, True), dec=dec,
                         post=processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=True))
    yield "smollm", bpe(seq([pre_tokenizers.Digits(True), byte_level(regex=True)]), dec=dec)
    yield "starcoder", bpe(seq([pre_tokenizers.Digits(False), byte_level(regex=True)]), dec=dec)
    yield "falcon", bpe(seq([pre_tokenizers.Punctuation("contiguous"), byte_level(regex=True), pre_tokenizers.Digits(False),
                             split("[0-9][0-9][0-9]")]), dec=dec)
    sequence_post = processors.Sequence([processors.ByteLevel(trim_offsets=False), llama_template()])
    llama3 = bpe(seq([split(LLAMA3), byte_level()]), dec=dec, post=sequence_post)
    yield "llama3", with_model(llama3, ignore_merges=True)
    yield "qwen2", bpe(seq([split(QWEN2), byte_level()]), norm=normalizers.NFC(), dec=dec)
    yield "qwen35", bpe(seq([split(QWEN35), byte_level()]), norm=normalizers.NFC(), dec=dec)
    yield "o200k", bpe(seq([split(O200K), byte_level()]), dec=dec)
    yield "deepseek", bpe(seq([split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK), byte_level()]), dec=dec)
    yield "byte_normalizer", bpe(split(r"Ġ?\w+|."), norm=normalizers.ByteLevel(), dec=dec)


def bpe_cases():
    seq = pre_tokenizers.Sequence
    spm_norm = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spm_dec = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                 decoders.Strip(" ", 1, 0)])
    llama = bpe(norm=spm_norm, dec=spm_dec, byte_level=False, unk_token="<unk>", fuse_unk=True, post=llama_template())
    yield "llama2", byte_tokens(llama, byte_fallback=True)
    meta = bpe(pre_tokenizers.Metaspace(prepend_scheme="first", split=False), dec=spm_dec, byte_level=False,
               unk_token="<unk>", fuse_unk=True)
    yield "mistral", byte_tokens(meta, byte_fallback=True)
    gemma = bpe(pre_tokenizers.Split(" ", "merged_with_previous"), norm=normalizers.Replace(" ", "▁"), byte_level=False,
                unk_token="<unk>", fuse_unk=True,
                dec=decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]))
    yield "gemma", byte_tokens(gemma, byte_fallback=True)
    yield "unk", bpe(pre_tokenizers.WhitespaceSplit(), byte_level=False, unk_token="<unk>", size=90)
    yield "fuse_unk", bpe(pre_tokenizers.WhitespaceSplit(), byte_level=False, unk_token="<unk>", fuse_unk=True, size=90)
    yield "suffix", bpe(pre_tokenizers.BertPreTokenizer(), byte_level=False, unk_token="<unk>", end_of_word_suffix="</w>",
                        dec=decoders.BPEDecoder())
    yield "continuing", bpe(pre_tokenizers.Whitespace(), byte_level=False, unk_token="<unk>", continuing_subword_prefix="##",
                            dec=decoders.WordPiece())
    yield "no_unk", bpe(seq([pre_tokenizers.UnicodeScripts(), pre_tokenizers.WhitespaceSplit()]), byte_level=False, size=120)


def model_cases():
    seq = pre_tokenizers.Sequence
    yield "unigram", unigram(norm=normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(),
                                                        normalizers.Replace(Regex(" {2,}"), " ")]))
    yield "unigram_bytes", unigram(True, norm=normalizers.NFKD(), dec=decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace()]))
    yield "unigram_first", unigram(pre=pre_tokenizers.Metaspace(prepend_scheme="first"), norm=normalizers.Sequence(
        [normalizers.Strip(), normalizers.Lowercase(), normalizers.StripAccents()]))
    yield "unigram_never", unigram(pre=pre_tokenizers.Metaspace("_", "never", True), dec=decoders.Metaspace("_", "never"))
    yield "bert", word_piece()
    yield "bert_cased", word_piece(normalizers.BertNormalizer(True, True, False, False), max_input_chars_per_word=7)
    yield "bert_accents", word_piece(normalizers.BertNormalizer(False, False, True, False))
    yield "words", word_level(pre_tokenizers.Whitespace(), normalizers.NFD())
    yield "words_ctc", word_level(pre_tokenizers.CharDelimiterSplit("|"), dec=decoders.CTC("<s>", "|"))
    yield "words_length", word_level(pre_tokenizers.FixedLength(3), normalizers.Strip(True, False))
    yield "words_punctuation", word_level(seq([pre_tokenizers.Punctuation("merged_with_previous"),
                                               pre_tokenizers.WhitespaceSplit()]), normalizers.Strip(False, True))


def regex_cases():
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            yield "split_%s%s" % (behavior, "_invert" if invert else ""), word_level(split(r"\s+|[a-f]", behavior, invert))
    patterns = {
        "possessive": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        "lookahead": r"(?=(\d{3})+(?!\d))|\d{1,3}(?=(?:\d{3})*\b)",
        "lookbehind": r"(?<=[a-z])(?=[A-Z])|(?<!\s)\s(?!\s)",
        "boundary": r"\b\w+?\b|\B\W{2,}",
        "classes": r"[[a-z]&&[^aeiou]]+|[^[:alpha:]\s]|[\p{^L}\d]|[\x{1F300}-\x{1FAFF}]+",
        "anchors": r"^\s*\S|.$|\A.|.\z",
        "scripts": "|".join(r"\p{%s}+" % s for s in SCRIPTS),
        "lazy": r"a*?b|(?>a+)b|(?:ab|a)+?\s|x{2,3}?|(?m:.+?)!",
        "empty": r"\d*|(?:a|b*)*c",
        "folding": r"(?i)[k-s]+|straße|ω",
        "tabs": r"\t|\h+|[\]\-\\^]|\u0041",
    }
    for name, pattern in patterns.items():
        yield "regex_" + name, word_level(split(pattern))
    yield "regex_replace", word_level(pre_tokenizers.WhitespaceSplit(), normalizers.Sequence(
        [normalizers.Replace(Regex(r"\d+"), "#"), normalizers.Replace(Regex(r"(?<=a)"), "é"), normalizers.NFC()]))


def cases():
    for group in (byte_level_cases, bpe_cases, model_cases, regex_cases):
        for name, tokenizer in group():
            yield name, Tokenizer.from_str(tokenizer.to_str())  # what counts is what the file says


def write_golden(folder):
    os.makedirs(folder, exist_ok=True)
    for name, tokenizer in cases():
        added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
        rows = []
        for text in texts.generate(GOLDEN_TEXTS, 5, added, max_pieces=6):
            try:
                plain, full = (tokenizer.encode(text, add_special_tokens=special) for special in (False, True))
            except Exception:  # noqa: BLE001
                continue
            at = [0]
            for c in text:
                at.append(at[-1] + len(c.encode()))
            rows.append([text, plain.ids, [[at[b], at[e]] for b, e in plain.offsets], full.ids, tokenizer.decode(plain.ids)])
        data = {"tokenizer": json.loads(tokenizer.to_str(pretty=False)), "rows": rows}
        path = os.path.join(folder, name + ".json")
        with open(path, "w") as f:
            json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
        assert os.path.getsize(path) <= 200 << 10, (path, os.path.getsize(path))


def run_live(binary, count):
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed, (name, tokenizer) in enumerate(cases()):
            path = os.path.join(folder, name + ".json")
            tokenizer.save(path)
            failed += compare.compare(name, compare.Driver(binary, "json", path), tokenizer, count, seed,
                                      streams=not name.startswith("words_ctc"))
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "golden":
        write_golden(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden"))
    else:
        sys.exit(1 if run_live(sys.argv[2], int(sys.argv[3])) else 0)
