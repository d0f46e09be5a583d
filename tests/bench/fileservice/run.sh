#!/bin/sh
# The fileservice's benches. $1: the build folder.
status=0
here=$(dirname "$0")
"$here/wire.sh" "$1" || status=1
"$here/put_get.sh" "$1" || status=1
"$here/fanout.sh" "$1" || status=1
for store in "$here"/store_*.sh; do
  [ ! -e "$store" ] || "$store" "$1" || status=1
done
exit $status
