#!/usr/bin/env bash
# Builds and runs the tests.
#
#   tests/run.sh [full|soak] [GROUP [PART]] [--preset release|debug|asan|tsan|clang] [--no-deps] [--seed N]
#
#   GROUP  unit, sim, scenarios, e2e, parity, bench, fuzz, tidy; without one: all but bench and fuzz
#   PART   a part of the group: `bench scheduler`, `unit cas` (matches the tests' names)
#   --seed N  `sim` runs that one seed and prints its trace and the trace's hash
#   full   every count that is promised, and the live references from PyPI; soak has no limit
#
# Ends with the line "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

tier=default group="" part="" preset=release deps=1
while [ $# -gt 0 ]; do
  case "$1" in
    full|soak) tier=$1 ;;
    unit|sim|scenarios|e2e|parity|bench|fuzz|tidy) group=$1 ;;
    --preset) preset=${2:?--preset needs a name}; shift ;;
    --preset=*) preset=${1#--preset=} ;;
    --no-deps) deps=0 ;;
    --seed) group=sim; export GRAFT_SEED=${2:?--seed needs a number}; shift ;;
    -h|--help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "run.sh: unknown option '$1'" >&2; exit 2 ;;
    *) [ -n "$group" ] || { echo "run.sh: unknown group '$1' (unit, sim, scenarios, e2e, parity, bench, fuzz, tidy)" >&2; exit 2; }
       part=$1 ;;
  esac
  shift
done
export GRAFT_TIER=$tier

[ $deps = 0 ] || deploy/deps.sh
[ "$group" != fuzz ] || preset=fuzz

components="scheduler;fileservice;worker;client;tests"
build="$root/build/$preset"
started=$SECONDS
cmake --preset "$preset" -DGRAFT_COMPONENTS="$components" >"$root/build.log" 2>&1 \
  || { cat "$root/build.log"; rm -f "$root/build.log"; echo "0 passed, 1 failed"; exit 1; }
rm -f "$root/build.log"
targets=(all)
case "$group" in ""|bench) targets+=(benches) ;; fuzz) targets=(fuzzers) ;; esac
cmake --build "$build" -j "${GRAFT_JOBS:-$(nproc)}" --target "${targets[@]}" -- -k 0 | { grep -vE '^\[[0-9]+/[0-9]+\] (Building|Linking|protoc|Running)' || true; } \
  || { echo "run.sh: the build failed" >&2; echo "0 passed, 1 failed"; exit 1; }
echo "run.sh: built $preset in $((SECONDS - started)) s"

# The ten slowest files of the last build that took place.
slowest_files() {
  [ -f "$build/.ninja_log" ] || return 0
  echo "slowest files of the last builds (seconds):"
  awk 'NR>1 && $4 ~ /\.o$/ {t[$4]=($2-$1)/1000} END {for (f in t) printf "%8.1f %s\n", t[f], f}' "$build/.ninja_log" \
    | sort -rn | head -n 10
}

run_benches() {
  local passed=0 failed=0 bench
  for bench in tests/bench/*/run.sh; do
    [ -e "$bench" ] || continue
    local name; name=$(basename "$(dirname "$bench")")
    if [ -n "$part" ] && [ "$part" != "$name" ]; then continue; fi
    echo "== bench $name (load $(cut -d' ' -f1-3 /proc/loadavg))"
    if "$bench" "$build"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  done
  echo "$passed passed, $failed failed"
  [ $failed = 0 ]
}

run_fuzzers() {
  local passed=0 failed=0 target seconds=${GRAFT_FUZZ_SECONDS:-60}
  for target in "$build"/fuzz/*; do
    [ -x "$target" ] && [ -f "$target" ] || continue
    case "$(basename "$target")" in *"$part"*) ;; *) continue ;; esac
    echo "== fuzz $(basename "$target") for $seconds s"
    mkdir -p "$build/corpus/$(basename "$target")"
    local seeds="tests/fuzz/seeds/$(basename "$target")"
    if "$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=0 \
        -artifact_prefix="$build/corpus/" "$build/corpus/$(basename "$target")" \
        $([ ! -d "$seeds" ] || echo "$seeds") >"$build/fuzz.log" 2>&1; then
      passed=$((passed + 1))
    else
      failed=$((failed + 1)); tail -n 30 "$build/fuzz.log"
    fi
  done
  echo "$passed passed, $failed failed"
  [ $failed = 0 ]
}

case "$group" in
  bench) run_benches; exit $? ;;
  fuzz) run_fuzzers; exit $? ;;
esac

args=(--test-dir "$build" --output-on-failure -j 2)
[ -z "$group" ] || args+=(-L "^$group\$")
# `live` needs the references from PyPI, `full` takes too long for every change.
if [ "$tier" = default ]; then args+=(-LE '^(bench|fuzz|live|full)$'); else args+=(-LE '^(bench|fuzz)$'); fi
[ -z "$part" ] || args+=(-R "$part")
[ -z "${GRAFT_SEED:-}" ] || args+=(-V -R '^sim_test$')
set +e
ctest "${args[@]}" | tee "$build/ctest.log"
status=${PIPESTATUS[0]}
set -e
[ "$group" != tidy ] || slowest_files
total=$(sed -n 's/.*tests failed out of \([0-9]*\).*/\1/p' "$build/ctest.log" | tail -n 1)
failed=$(sed -n 's/.* \([0-9]*\) tests failed out of.*/\1/p' "$build/ctest.log" | tail -n 1)
if [ -z "$total" ] || [ "$total" = 0 ]; then
  echo "run.sh: no test matched" >&2
  echo "0 passed, 1 failed"
  exit 1
fi
echo "$((total - failed)) passed, $failed failed"
exit "$status"
