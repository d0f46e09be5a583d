#!/bin/sh
# Events of 8 ranks through the agent's spool, gRPC and the scheduler's store. $1: the build folder.
exec "$1/bin/relay_bench"
