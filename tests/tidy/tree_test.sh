#!/usr/bin/env bash
# The top of the tree holds the components and nothing else, each with a README of at most 80 lines; golden files
# stay small: 200 KB a case, 20 MB in all.
set -euo pipefail
cd "$1"
components="client deploy fileservice proto scheduler tests worker"
failed=0
fail() { echo "tree_test: $1"; failed=1; }

for name in $(git ls-files | cut -d/ -f1 | sort -u); do
  case " $components CMakeLists.txt CMakePresets.json README.md bazel-free-notes.md " in
    *" $name "*) ;;
    *) [[ $name == .* ]] || fail "$name does not belong at the top" ;;
  esac
done
for component in $components; do
  lines=$(wc -l <"$component/README.md") || { fail "$component has no README.md"; continue; }
  [ "$lines" -le 80 ] || fail "$component/README.md has $lines lines, 80 are allowed"
done

# A case is a file or a folder right under a folder named golden or goldens.
while read -r bytes name; do
  [ "$bytes" -le 204800 ] || fail "the golden case $name has $bytes bytes, 204800 are allowed"
done < <(git ls-files -z 'tests/parity/*/golden*' | xargs -0 stat -c '%s %n' |
  awk '{n = split($2, p, "/"); c = p[1]; for (i = 2; i <= (n < 5 ? n : 5); ++i) c = c "/" p[i]; s[c] += $1} END {for (c in s) print s[c], c}')
total=$(git ls-files -z 'tests/parity/*' | xargs -0 stat -c %s | awk '{sum += $1} END {print sum + 0}')
[ "$total" -le 20971520 ] || fail "tests/parity has $total bytes, 20971520 are allowed"
exit $failed
