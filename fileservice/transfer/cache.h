// Folders of content kept on this machine's disk, shared by its processes, bounded in bytes and in
// files. What an entry is made of is the caller's business (`fill`): mostly a version by its
// digest.
//
//   GRAFT_ASSIGN_OR_RETURN(auto cache, FolderCache::Open({.folder = dir, .max_bytes = 1 << 40}));
//   GRAFT_ASSIGN_OR_RETURN(FolderCache::Pin pin, cache->Get(digest, {bytes, files}, fill));
//   ... use pin.path() for as long as `pin` lives ...
//
// An entry that is pinned, by whichever process, stays; a pin ends with its process, however that
// ends. Room is made before anything is written, the least recently used first. An entry whose
// filling was cut short is taken up by the next Get: `fill` finds what was there.
//
// On the disk: KEY/ the content, KEY.lock (flock: shared by users, exclusive by who fills or
// removes), KEY.size what it has or will have ("BYTES FILES"), KEY.complete once it is whole, its
// mtime when it was used last; `lock` while room is made. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"

namespace graft::fileservice {

class FolderCache {
 public:
  struct Options {
    std::string folder;
    int64_t max_bytes = 0;
    int64_t max_files = 10'000'000;
  };
  struct Size {
    int64_t bytes = 0;
    int64_t files = 0;
  };

  // Keeps an entry from going. Movable; may outlive the cache.
  class Pin {
   public:
    const std::string& path() const { return path_; }

   private:
    friend class FolderCache;
    Pin(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
    std::string path_;
    UniqueFd lock_;
  };

  static absl::StatusOr<std::unique_ptr<FolderCache>> Open(Options options);

  // The entry `key` ([A-Za-z0-9._-], at most 200 characters), made by `fill(path)` unless it is
  // there; waits while another thread or process fills it. RESOURCE_EXHAUSTED when what is pinned
  // leaves too little room for `expected`; CANCELLED once `cancelled` says so; what `fill` fails
  // with.
  absl::StatusOr<Pin> Get(const std::string& key, Size expected,
                          const std::function<absl::Status(const std::string& path)>& fill,
                          const std::function<bool()>& cancelled = nullptr);

  // Of all entries, with those that are being filled at their expected size.
  absl::StatusOr<Size> Used() const;

 private:
  explicit FolderCache(Options options) : options_(std::move(options)) {}
  std::string PathOf(const std::string& key, const char* suffix = "") const;
  absl::StatusOr<UniqueFd> OpenLock(const std::string& key) const;
  absl::StatusOr<UniqueFd> Lock(const std::string& key, int operation,
                                const std::function<bool()>& cancelled) const;
  absl::StatusOr<bool> Remove(const std::string& key) const;
  absl::Status Reserve(const std::string& key, Size expected) const;

  const Options options_;
};

}  // namespace graft::fileservice
