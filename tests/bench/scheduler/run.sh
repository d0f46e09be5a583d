#!/bin/sh
# Placement and the core by themselves, without a store or a wire; then the server with gRPC and RocksDB on this
# folder's disk; then Slurm on the same mix, where it is installed. $1: the build folder.
status=0
"$1/bin/scheduler_placement_bench" || status=1
"$1/bin/scheduler_core_bench" || status=1
folder=$(mktemp -d "${TMPDIR:-/var/tmp}/graft-scheduler-bench.XXXXXX") || exit 1
"$1/bin/scheduler_server_bench" "$folder" "$1/bin/graft-scheduler" || status=1
rm -rf "$folder"
"$(dirname "$0")/slurm.sh" || status=1
exit $status
