// Whole chunks that were read for a part of them, so that a client that takes a chunk in small
// pieces does not make the store read and check all of it for each. Thread-safe.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "fileservice/cas/pack.h"

namespace graft::fileservice {

class ChunkCache {
 public:
  // shared: with readers that still copy from a chunk when it leaves the cache.
  using Bytes = std::shared_ptr<const std::string>;

  explicit ChunkCache(size_t max_bytes) : max_bytes_(max_bytes) {}

  // Null when it is not here.
  Bytes Find(const ChunkId& id) {
    MutexLock lock(mu_);
    const auto found = chunks_.find(id);
    if (found == chunks_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second.second);
    return found->second.first;
  }

  void Put(const ChunkId& id, Bytes bytes) {
    MutexLock lock(mu_);
    if (bytes->size() > max_bytes_ || chunks_.contains(id)) return;
    held_ += bytes->size();
    while (held_ > max_bytes_) {
      const auto oldest = chunks_.find(order_.back());
      held_ -= oldest->second.first->size();
      chunks_.erase(oldest);
      order_.pop_back();
    }
    order_.push_front(id);
    chunks_[id] = {std::move(bytes), order_.begin()};
  }

 private:
  const size_t max_bytes_;
  Mutex mu_;
  size_t held_ GRAFT_GUARDED_BY(mu_) = 0;
  std::list<ChunkId> order_ GRAFT_GUARDED_BY(mu_);  // the latest first
  absl::flat_hash_map<ChunkId, std::pair<Bytes, std::list<ChunkId>::iterator>> chunks_
      GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::fileservice
