#!/usr/bin/env bash
# Tokenizers, chat templates and dataset passes beside PyPI's libraries, one thread each, in one run.
# $1: the build folder, `benches` built; then, to run a part alone: tokenizer, chat or dataset.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath "$1"); shift
python=$("$here/../../parity/setup.sh")
cache=$("$here/../../parity/tokenizer/assets.sh" "$python")
exec "$python" "$here/bench.py" "$build" "$cache" "$@"
