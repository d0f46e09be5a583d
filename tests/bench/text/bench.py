"""bench.py BUILD_DIR CACHE [tokenizer|chat|dataset]: all figures of text and data, or those of one part. Fails where one misses its bar."""
import os
import sys

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import chat_bench  # noqa: E402
import dataset_bench  # noqa: E402
import figures  # noqa: E402
import tokenizer_bench  # noqa: E402


def main():
    build, cache, parts = sys.argv[1], sys.argv[2], sys.argv[3:] or ["tokenizer", "chat", "dataset"]
    binary = lambda name: os.path.join(build, "bin", name)  # noqa: E731
    for part in parts:
        if part == "tokenizer":
            tokenizer_bench.run(binary("tokenizer_driver"), cache)
        elif part == "chat":
            chat_bench.run(binary("chat_bench"), cache)
        elif part == "dataset":
            dataset_bench.run(binary("dataset_bench"), cache)
        else:
            sys.exit(f"bench.py: unknown part {part}")
    sys.exit(1 if figures.table() else 0)


if __name__ == "__main__":
    main()
