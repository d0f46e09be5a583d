// Files whose bytes came through an upload stream in their order, and were hashed then: staging
// them need not read them again, nor look up its chunks, which the session was seen to hold. A file
// is known by its list of chunks, and to the session that sent it alone. Thread-safe; forgets the
// oldest, which are then read.
#pragma once

#include <list>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/digest.h"
#include "base/mutex.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {

// What a list of chunks is known by.
class ChunkListHash {
 public:
  // The next chunk: 32 bytes of id, and its length.
  void Add(absl::string_view id, size_t bytes) {
    hash_.Update(Encoder().Raw(id).Fixed32(static_cast<uint32_t>(bytes)).bytes());
  }
  Sha256Digest Finish() { return hash_.Finish(); }

 private:
  Sha256 hash_;
};

class VerifiedFiles {
 public:
  // `chunks`: a ChunkListHash.
  void Put(const std::string& session, const Sha256Digest& chunks, const Sha256Digest& file) {
    MutexLock lock(mu_);
    const auto [at, inserted] = files_.emplace(Key(session, chunks), file);
    if (!inserted) return;
    order_.push_back(at);
    if (order_.size() <= kMaxFiles) return;
    files_.erase(order_.front());
    order_.pop_front();
  }
  std::optional<Sha256Digest> Find(const std::string& session, const Sha256Digest& chunks) {
    MutexLock lock(mu_);
    const auto found = files_.find(Key(session, chunks));
    if (found == files_.end()) return std::nullopt;
    return found->second;
  }

 private:
  static constexpr size_t kMaxFiles = 65536;  // 10 MB
  using Key = std::pair<std::string, Sha256Digest>;
  Mutex mu_;
  std::map<Key, Sha256Digest> files_ GRAFT_GUARDED_BY(mu_);
  std::list<std::map<Key, Sha256Digest>::iterator> order_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::fileservice
