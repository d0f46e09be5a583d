// How far running jobs are: what moves too fast to be a record. Filled by what workers say, read by
// Get and List, lost with the process and soon said again.
//
// Thread-safe.
#pragma once

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "graft/v1/job.pb.h"

namespace graft::scheduler {

class ProgressBoard {
 public:
  // Of a gang on several nodes the one with rank 0 knows the most: what it says of an attempt
  // stays.
  void Put(const std::string& job, int attempt, bool leads,
           const graft::v1::JobProgress& progress) {
    MutexLock lock(mu_);
    Entry& entry = progress_[job];
    if (entry.led && !leads && attempt <= entry.attempt) return;
    entry = {attempt, leads, progress};
  }
  // Overlays what is known of the job onto its record; a terminal job keeps the record's.
  void Overlay(absl::string_view job, graft::v1::JobStatus& status) const {
    MutexLock lock(mu_);
    const auto it = progress_.find(job);
    if (it == progress_.end()) return;
    const int64_t done = status.progress().steps_done();
    const int64_t total = status.progress().steps_total();
    *status.mutable_progress() = it->second.progress;
    if (status.progress().steps_done() < done) status.mutable_progress()->set_steps_done(done);
    if (status.progress().steps_total() == 0) status.mutable_progress()->set_steps_total(total);
  }
  int64_t StepsDone(absl::string_view job) const {
    MutexLock lock(mu_);
    const auto it = progress_.find(job);
    return it == progress_.end() ? 0 : it->second.progress.steps_done();
  }
  void Remove(absl::string_view job) {
    MutexLock lock(mu_);
    progress_.erase(job);
  }

 private:
  struct Entry {
    int attempt = 0;
    bool led = false;
    graft::v1::JobProgress progress;
  };
  mutable Mutex mu_;
  absl::flat_hash_map<std::string, Entry> progress_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::scheduler
