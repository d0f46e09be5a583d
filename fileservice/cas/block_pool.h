// Memory for direct reads and writes and for windows of files, used again: to get it anew from the
// kernel, which clears it, takes half as long as to hash it. Keeps a few buffers, so that a store
// at rest stays small.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "fileservice/cas/files.h"

namespace graft::fileservice {

class BlockPool {
 public:
  static constexpr size_t kBufferBytes = 4 << 20;

  class GiveBack {
   public:
    GiveBack() = default;
    explicit GiveBack(BlockPool* pool) : pool_(pool) {}
    void operator()(char* buffer) const {
      if (pool_ == nullptr || !pool_->Keep(buffer)) std::free(buffer);
    }

   private:
    BlockPool* pool_ = nullptr;  // null: of a size of its own
  };
  using Buffer = std::unique_ptr<char, GiveBack>;

  // Buffers have `buffer_bytes`, whole blocks; more is got anew each time.
  explicit BlockPool(size_t buffer_bytes = kBufferBytes) : buffer_bytes_(buffer_bytes) {}
  ~BlockPool() {
    for (char* buffer : free_) std::free(buffer);
  }
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // At least `bytes`, beginning at a block. The pool must outlive it.
  Buffer Take(size_t bytes) {
    if (bytes > buffer_bytes_) {
      return Buffer(Allocate((bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes), GiveBack());
    }
    MutexLock lock(mu_);
    if (free_.empty()) return Buffer(Allocate(buffer_bytes_), GiveBack(this));
    Buffer buffer(free_.back(), GiveBack(this));
    free_.pop_back();
    return buffer;
  }

 private:
  static constexpr size_t kMostFree = 4;

  static char* Allocate(size_t bytes) {
    auto* const buffer = static_cast<char*>(std::aligned_alloc(kBlockBytes, bytes));
    GRAFT_CHECK(buffer != nullptr) << bytes << " bytes for the disk";
    return buffer;
  }
  bool Keep(char* buffer) {
    MutexLock lock(mu_);
    if (free_.size() >= kMostFree) return false;
    free_.push_back(buffer);
    return true;
  }

  const size_t buffer_bytes_;
  Mutex mu_;
  std::vector<char*> free_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::fileservice
