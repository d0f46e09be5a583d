#!/bin/sh
# The fileservice's benches. $1: the build folder, `benches` built.
status=0
here=$(dirname "$0")
for bench in wire put_get fanout fanout_netns slow_clients store; do
  "$here/$bench.sh" "$1" || status=1
done
exit $status
