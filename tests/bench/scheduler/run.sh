#!/bin/bash
# Placement and the core by themselves, without a store or a wire; then the server with gRPC and RocksDB on this
# folder's disk; then Slurm on the same mix, where it is installed. $1: the build folder, `benches` built.
status=0
here=$(dirname "$0")
lines=$(mktemp) || exit 1
folder=$(mktemp -d "${TMPDIR:-/var/tmp}/graft-scheduler-bench.XXXXXX") || exit 1
trap 'rm -rf "$folder" "$lines"' EXIT
"$1/bin/scheduler_placement_bench" || status=1
"$1/bin/scheduler_core_bench" || status=1
"$1/bin/scheduler_server_bench" "$folder" "$1/bin/graft-scheduler" | tee "$lines"
[ "${PIPESTATUS[0]}" = 0 ] || status=1
# 500 times kill -9 under 200 submits a second.
GRAFT_TIER=soak "$1/tests/scheduler_crash_test" | grep '^{'
[ "${PIPESTATUS[0]}" = 0 ] || status=1
"$here/slurm.sh" | tee -a "$lines"
[ "${PIPESTATUS[0]}" = 0 ] || status=1

figure() { sed -n "s/.*\"metric\":\"$1\",\"value\":\([0-9.e+]*\).*/\1/p" "$lines" | tail -n 1; }
if [ -n "$(figure slurm_submits)" ]; then
  printf '\n%-44s %12s %12s\n' 'beside Slurm on this machine' graft Slurm
  printf '%-44s %12s %12s\n' 'submit to start, idle, p50, ms' "$(figure submit_to_start_p50)" "$(figure slurm_submit_to_start_p50)" \
    'submits acknowledged, /s' "$(figure durable_creates)" "$(figure slurm_submits)" \
    '100 jobs on 16 nodes, last start, ms' "$(figure burst_100_on_16_nodes_last_start)" "$(figure slurm_burst_last_start)"
fi
exit $status
