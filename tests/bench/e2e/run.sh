#!/bin/sh
# $1: the build folder, `benches` built. What the platform costs beside the trainer, and events of 8 ranks through the
# agent's spool, gRPC and the scheduler's store.
status=0
"$1/bin/relay_bench" || status=1
python3 "$(dirname "$0")/platform_bench.py" "$1/bin" "$(cd "$(dirname "$0")/../../.." && pwd)" || status=1
exit $status
