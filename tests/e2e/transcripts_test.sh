#!/usr/bin/env bash
# What the CLI says, word for word: tests/e2e/transcripts/*.txt hold commands ("$ graft ...") with
# their outputs and exit codes, from real daemons with a simulated trainer. Times, ports and sizes of
# this machine are made equal first.
#
#   transcripts_test.sh BIN_DIR SOURCE_DIR [--update]
. "$(dirname "$0")/lib.sh"
mode=${3:-check}
export COLUMNS=80 TZ=UTC HOME="$work"
PATH="$bin:$PATH"

"$graft" up --fake-trainer --speed 200 --devices cpu >/dev/null 2>&1
import_samples 2>/dev/null
cp -r "$source/worker/data/samples/support_tickets" "$work/rows"
"$graft" lora tiny tickets --name first --max-steps 20 --seed 1 --watch >/dev/null 2>&1
"$graft" lora tiny tickets --name second --max-steps 20 --seed 1 --lr 5e-4 --watch >/dev/null 2>&1

# What differs between two runs and machines.
same_for_all() {
  sed -E -e "s|$work|WORK|g" -e "s|$source|SOURCE|g" \
    -e 's/request: .*/request: ID/' \
    -e 's/127\.0\.0\.1:[0-9]+/127.0.0.1:PORT/g' \
    -e 's/\b[0-9]+(\.[0-9]+)? (kB|MB|GB|TB)\b/SIZE/g' \
    -e 's/\b[0-9]+ %/SHARE/g' \
    -e 's/\b[0-9]+(\.[0-9]+)? ?(ms|cores)\b/NUMBER \2/g' \
    -e 's/\b[0-9]+(\.[0-9]+)?[smhd]\b/AGE/g' \
    -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/TIME/g' \
    -e 's/[0-9]{2}:[0-9]{2}:[0-9]{2}/TIME/g' \
    -e 's/ +/ /g' -e 's/ $//'
}
# replay FILE: runs its commands and prints what they said
replay() {
  local line code
  while IFS= read -r line; do
    case $line in
      '$ '*)
        printf '%s\n' "$line"
        code=0
        (cd "$work" && eval "${line#\$ }") >"$work/said" 2>&1 </dev/null || code=$?
        same_for_all <"$work/said"
        [ $code = 0 ] || printf '[exit %d]\n' $code
        ;;
      '#'*) printf '%s\n' "$line" ;;
    esac
  done <"$1"
}
failed=0
for transcript in "$source"/tests/e2e/transcripts/*.txt; do
  replay "$transcript" >"$work/replayed"
  if [ "$mode" = --update ]; then
    cp "$work/replayed" "$transcript"
  elif ! diff -u "$transcript" "$work/replayed"; then
    failed=1
  fi
done
[ $failed = 0 ] || fail "the transcripts differ; --update writes them anew, to be read before they are kept"
echo "transcripts passed"
