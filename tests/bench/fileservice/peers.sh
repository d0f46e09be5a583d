# Sourced by put_get.sh: the deduplicating peers, once each, on the same pair of files.
peer_restic() {
  export RESTIC_PASSWORD=bench RESTIC_CACHE_DIR="$work/restic-cache"
  restic -q init -r "$work/repo" --repository-version 2 >/dev/null
  note restic_put_v1 "$(seconds restic -q -r "$work/repo" backup "$files/v1.bin")"
  before=$(du -sm "$work/repo" | cut -f 1)
  note restic_put_v2 "$(seconds restic -q -r "$work/repo" backup "$files/v2.bin")"
  note restic_added_v2 "$(($(du -sm "$work/repo" | cut -f 1) - before))"
  "$bench" cold "$work/repo"
  note restic_get_v2 "$(seconds restic -q -r "$work/repo" restore latest --target "$work/target")"
}
peer_borg() {
  export BORG_BASE_DIR="$work/borg" BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
  borg init -e none "$work/repo"
  note borg_put_v1 "$(seconds borg create -C none "$work/repo::one" "$files/v1.bin")"
  before=$(du -sm "$work/repo" | cut -f 1)
  note borg_put_v2 "$(seconds borg create -C none "$work/repo::two" "$files/v2.bin")"
  note borg_added_v2 "$(($(du -sm "$work/repo" | cut -f 1) - before))"
  "$bench" cold "$work/repo"
  mkdir "$work/target"
  note borg_get_v2 "$(seconds sh -c "cd '$work/target' && borg extract '$work/repo::two'")"
}
peer_casync() {
  note casync_put_v1 "$(seconds casync make --store="$work/repo" "$work/one.caibx" "$files/v1.bin")"
  before=$(du -sm "$work/repo" | cut -f 1)
  note casync_put_v2 "$(seconds casync make --store="$work/repo" "$work/two.caibx" "$files/v2.bin")"
  note casync_added_v2 "$(($(du -sm "$work/repo" | cut -f 1) - before))"
  "$bench" cold "$work/repo"
  note casync_get_v2 "$(seconds casync extract --store="$work/repo" "$work/two.caibx" "$work/out")"
}
for peer in restic borg casync; do
  if command -v "$peer" >/dev/null; then
    "peer_$peer"
  else
    echo "skipped: $peer is not installed"
  fi
  rm -rf "$work/repo" "$work/target" "$work/out" "$work"/*.caibx
done
