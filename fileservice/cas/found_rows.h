// What FindMissing has just seen that sessions hold, and where it lies: an upload that names the
// same chunks a moment later need not look again. Forgets all when it is full. A row may have been
// moved by a compaction since. Thread-safe.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "fileservice/cas/chunk_row.h"

namespace graft::fileservice {

class FoundRows {
 public:
  // `lease`: LeaseKey of the chunk and the session.
  void Put(std::string lease, const ChunkRow& row) {
    MutexLock lock(mu_);
    if (rows_.size() >= kMaxRows) rows_.clear();
    rows_.insert_or_assign(std::move(lease), row);
  }
  std::optional<ChunkRow> Take(const std::string& lease) {
    MutexLock lock(mu_);
    const auto found = rows_.find(lease);
    if (found == rows_.end()) return std::nullopt;
    const ChunkRow row = found->second;
    rows_.erase(found);
    return row;
  }

 private:
  static constexpr size_t kMaxRows = 16384;  // 3 MB; an upload asks for 256 at a time

  Mutex mu_;
  absl::flat_hash_map<std::string, ChunkRow> rows_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::fileservice
