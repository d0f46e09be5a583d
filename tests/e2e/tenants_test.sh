#!/usr/bin/env bash
# Two workspaces that cannot see each other: each has a user with a token of its own, and neither may
# list, read, download or use what is the other's.
#
#   tenants_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"

"$graft" up --fake-trainer --speed 200 >/dev/null
for team in red blue; do
  "$graft" workspace create $team >/dev/null
done
printf 'name,role,workspace\nred-user,user,red\nblue-user,user,blue\n' >"$work/people.csv"
"$graft" user apply "$work/people.csv" --dry-run 2>&1 | grep -q '2 users and 2 roles would be made' || fail "the plan"
"$graft" user apply "$work/people.csv" >/dev/null 2>&1
"$graft" user apply "$work/people.csv" 2>&1 | grep -q '0 users and 0 roles were made' || fail "applied twice"
for team in red blue; do
  "$graft" token create $team-user >"$work/$team.token" 2>/dev/null
done
eval "$("$graft" context env)"
# as TEAM COMMAND...: the command as that team's user
as() {
  local team=$1
  shift
  GRAFT_TOKEN=$(cat "$work/$team.token") GRAFT_WORKSPACE=$team "$graft" "$@"
}
for team in red blue; do
  as $team model import base --from "$source/tests/e2e/tiny_llama" >/dev/null 2>&1
  as $team dataset upload rows "$source/worker/data/samples/support_tickets" >/dev/null 2>&1
  as $team lora base rows --name job --max-steps 5 --watch >/dev/null 2>&1
done

echo "== each sees its own"
for team in red blue; do
  [ "$(as $team job list -o name)" = "workspaces/$team/jobs/job" ] || fail "$team sees $(as $team job list -o name)"
  [ "$(as $team workspace list -o name)" = "workspaces/$team" ] || fail "$team sees $(as $team workspace list -o name)"
done

echo "== and nothing of the other's"
for theirs in "job get blue/job" "job logs blue/job" "job metrics blue/job" "job cancel blue/job" "model get blue/base" \
    "model export blue/base $work/stolen" "adapter list blue/base" "fileset download blue/rows $work/stolen" \
    "dataset preview blue/rows" "job list -w blue" "model list -w blue" "complete blue/base -p x" \
    "lora blue/base blue/rows" "lora base blue/rows" "job rerun blue/job"; do
  as red $theirs >"$work/out" 2>"$work/err" && fail "red may: $theirs"
  ! grep -q 'tokens_done\|"spec"' "$work/out" || fail "$theirs told: $(cat "$work/out")"
done
[ ! -e "$work/stolen/config.json" ] || fail "files of the other workspace were downloaded"

echo "== a revoked token opens nothing"
token=$("$graft" token list red-user -o name | sed -n 1p)
"$graft" token revoke "$token" 2>/dev/null
as red job list >/dev/null 2>"$work/err" && fail "a revoked token was taken"
as blue job list >/dev/null || fail "blue was shut out too"
echo "tenants passed"
