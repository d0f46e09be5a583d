# What every end-to-end test begins with: a home of its own that is gone afterwards, and words to ask
# the daemons with. Sourced with the test's own arguments; sets `bin`, `source`, `work` and `graft`.
#
# A test may define `tidy`, which runs before its folder is removed.
set -euo pipefail
bin=$1 source=$2
work=$(mktemp -d)
export GRAFT_HOME="$work/home" GRAFT_CONFIG="$work/contexts.json" NO_COLOR=1
graft="$bin/graft"

workers=()  # processes that end with the test
tidy() { :; }
finish() {
  local status=$?
  if [ ${#workers[@]} != 0 ]; then
    kill "${workers[@]}" 2>/dev/null || true
    wait "${workers[@]}" 2>/dev/null || true  # what they still write is in the folder that goes
  fi
  "$graft" down >/dev/null 2>&1 || true
  if [ $status != 0 ] && [ $status != 77 ]; then
    echo "--- logs"; tail -n 15 "$work"/home/logs/*.log 2>/dev/null || true
  fi
  tidy
  rm -rf "$work"
}
trap finish EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }
skip() { echo "skipped: $*"; exit 77; }

# until_true TENTHS COMMAND...: true as soon as the command is; false after so many tenths of a second
until_true() {
  local tries=$1
  shift
  for ((; tries > 0; --tries)); do
    "$@" && return 0
    sleep 0.1
  done
  return 1
}

# refused WANTED COMMAND...: it fails, and says WANTED
refused() {
  local wanted=$1
  shift
  "$@" >"$work/out" 2>"$work/err" && fail "accepted: $*"
  grep -q -- "$wanted" "$work/err" || fail "'$*' said: $(cat "$work/err")"
}

# The tiny random llama and the sample tickets, as `tiny` and `tickets`.
import_samples() {
  "$graft" model import tiny --from "$source/tests/e2e/tiny_llama" >/dev/null
  "$graft" dataset upload tickets "$source/worker/data/samples/support_tickets" >/dev/null
}

# job_field JOB FIELD: the first value of that name in the job's JSON
job_field() { "$graft" job get "$1" -o json | sed -n "s/.*\"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" | sed -n 1p; }
message_of() { "$graft" job get "$1" -o json | sed -n 's/^ *"message": "\(.*\)",\{0,1\}$/\1/p' | sed -n 1p; }
state_of() { "$graft" job get "$1" -o json | sed -n 's/.*"state": "JOB_STATE_\([A-Z]*\)".*/\1/p' | sed -n 1p; }
is_state() { [ "$(state_of "$1" 2>/dev/null)" = "$2" ]; }
# settled JOB STATE: it is there, or where it can never leave for it
settled() {
  local now
  now=$(state_of "$1" 2>/dev/null)
  case $now in "$2" | COMPLETED | FAILED | CANCELLED) ;; *) return 1 ;; esac
}
# wait_state JOB STATE: within two minutes
wait_state() {
  until_true 1200 settled "$1" "$2" && is_state "$1" "$2" && return 0
  fail "job $1 is $(state_of "$1"), not $2: $(message_of "$1")"
}
# The step at which the newest attempt of a job began, by its trainer.
first_step() { "$graft" job logs "$1" --level debug | sed -n 's/.*"event":"run".*"first_step":\([0-9]*\).*/\1/p' | tail -n 1; }
steps_done() { job_field "$1" steps_done; }
has_steps() { local at; at=$(steps_done "$1" 2>/dev/null) && [ -n "$at" ] && [ "$at" -ge "$2" ]; }
wait_steps() { until_true 600 has_steps "$1" "$2" || fail "job $1 did not reach step $2"; }
# last_of JOB METRIC: its newest value
last_of() { "$graft" job metrics "$1" --metrics "$2" -o json | sed -n 's/.*"value": \([0-9.e-]*\).*/\1/p' | tail -n 1; }
# The first adapter of a model, by its id.
adapter_of() { local name; name=$("$graft" adapter list "$1" -o name | sed -n 1p); echo "${name##*/}"; }

pid_of() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$GRAFT_HOME/state.json" | sed -n 1p; }
has_new_pid() { [ "$(pid_of "$1")" != "$2" ] && [ "$(pid_of "$1")" != 0 ]; }
# kill_daemon NAME: with -9, and waits until the supervisor has started it again
kill_daemon() {
  local old
  old=$(pid_of "$1")
  kill -9 "$old"
  until_true 200 has_new_pid "$1" "$old" || fail "$1 was not started again"
}

# add_worker NODE DEVICES [LINES]: one more worker with so many CPU devices beside those of `graft up`,
# its folder "$work/NODE"; LINES are more of its configuration. Ends with the test.
add_worker() {
  mkdir -p "$work/$1"
  "$graft" node join-token "$1" >"$work/$1/join-token"
  cat >"$work/$1/worker.textproto" <<END
node_id: "$1"
scheduler_address: "$("$graft" context list -o json | sed -n 's/.*"address": "\(.*\)",*/\1/p' | sed -n 1p)"
server_ca_file: "$GRAFT_HOME/tls/ca.pem"
join_token_file: "$work/$1/join-token"
state_folder: "$work/$1/state"
devices { kind: "cpu" cpu_devices: $2 }
${3:-}
END
  "$bin/graft-worker" --config "$work/$1/worker.textproto" >"$work/$1/log" 2>&1 &
  workers+=($!)
  until_true 200 node_is_ready "$1" || fail "worker $1: $(tail -n 3 "$work/$1/log")"
}
node_is_ready() { "$graft" node list | grep -q "^$1 .*ready"; }
