#!/bin/sh
# Eight workers of 20 MB/s each (token buckets) fetch 400 MiB together. $1: the build folder.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$1/bin/fileservice_fanout_bench" "$work"
