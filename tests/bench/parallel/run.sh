#!/bin/sh
# Two ranks of one thread against one rank of one thread. $1: the build folder, `benches` built; then the parts to
# measure (measure.py names them; all but gloo without one).
exec python3 "$(dirname "$0")/measure.py" "$@"
