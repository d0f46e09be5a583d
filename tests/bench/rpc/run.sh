#!/bin/sh
# Loopback echo through proto/rpc, with and without TLS, beside gRPC alone. $1: the build folder, `benches` built.
exec "$1/bin/rpc_bench"
