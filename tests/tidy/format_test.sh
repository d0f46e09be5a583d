#!/usr/bin/env bash
# Every source file is as clang-format writes it.
set -euo pipefail
cd "$1"
git ls-files -z '*.cc' '*.h' | xargs -0 -r clang-format-14 --dry-run -Werror
