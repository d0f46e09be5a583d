#!/bin/sh
# Placement by itself, without a store or a wire. $1: the build folder.
status=0
"$1/bin/scheduler_placement_bench" || status=1
exit $status
