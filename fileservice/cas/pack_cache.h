// Open packs for reading, the least recently used closed first. Thread-safe.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "fileservice/cas/files.h"
#include "fileservice/cas/pack.h"

namespace graft::fileservice {

class PackCache {
 public:
  PackCache(Files& files, std::string directory, size_t capacity)
      : files_(files), directory_(std::move(directory)), capacity_(capacity) {}

  // shared: a reader keeps its pack while the cache, or a collection, lets go of it.
  absl::StatusOr<std::shared_ptr<const ReadableFile>> Open(uint32_t pack) {
    {
      MutexLock lock(mu_);
      const auto found = files_by_pack_.find(pack);
      if (found != files_by_pack_.end()) {
        order_.splice(order_.begin(), order_, found->second.second);
        return found->second.first;
      }
    }
    GRAFT_ASSIGN_OR_RETURN(std::shared_ptr<const ReadableFile> file,
                           files_.OpenForRead(directory_ + "/" + PackFileName(pack)));
    MutexLock lock(mu_);
    const auto found = files_by_pack_.find(pack);
    if (found != files_by_pack_.end()) return found->second.first;
    order_.push_front(pack);
    files_by_pack_[pack] = {file, order_.begin()};
    if (order_.size() > capacity_) {
      files_by_pack_.erase(order_.back());
      order_.pop_back();
    }
    return file;
  }

  void Forget(uint32_t pack) {
    MutexLock lock(mu_);
    const auto found = files_by_pack_.find(pack);
    if (found == files_by_pack_.end()) return;
    order_.erase(found->second.second);
    files_by_pack_.erase(found);
  }

 private:
  Files& files_;
  const std::string directory_;
  const size_t capacity_;
  Mutex mu_;
  std::list<uint32_t> order_ GRAFT_GUARDED_BY(mu_);  // the latest first
  absl::flat_hash_map<uint32_t,
                      std::pair<std::shared_ptr<const ReadableFile>, std::list<uint32_t>::iterator>>
      files_by_pack_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::fileservice
