// What a rank has said (events, metrics, log lines) and the scheduler has not yet acknowledged.
//
// Records are numbered from 1 and kept in files, so that nothing is lost while the scheduler is
// away or the agent restarts. Records up to the acknowledged number are dropped file by file.
// Without a sync: losing the machine ends the attempt anyway. When the spool has grown to its
// limit, Append refuses with RESOURCE_EXHAUSTED, and the caller drops the record and counts it.
//
// Thread-safe: readers of a rank's pipes append, the stream to the scheduler reads.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/file.h"
#include "base/mutex.h"

namespace graft::agent {

struct SpoolOptions {
  int64_t segment_bytes = 4 << 20;
  int64_t max_bytes = 256 << 20;
};

struct SpoolRecord {
  int64_t sequence = 0;
  std::string payload;
};

class Spool {
 public:
  // Opens the spool in `folder` (made if missing). A record that was torn by a crash, and what
  // follows it in its file, is dropped.
  static absl::StatusOr<std::unique_ptr<Spool>> Open(const std::string& folder,
                                                     SpoolOptions options = {});

  // Returns the record's number.
  absl::StatusOr<int64_t> Append(absl::string_view payload);
  // Records after `sequence`, up to about `max_bytes` of payload but at least one if there is one.
  absl::StatusOr<std::vector<SpoolRecord>> ReadAfter(int64_t sequence, int64_t max_bytes);
  // Everything up to `sequence` may go.
  absl::Status Acknowledge(int64_t sequence);
  // Waits until there is a record after `sequence`, for at most `timeout`.
  bool WaitForMore(int64_t sequence, absl::Duration timeout);

  int64_t last_sequence();
  int64_t acknowledged();

 private:
  struct Segment {
    int64_t first = 0;  // number of its first record
    int64_t bytes = 0;
    UniqueFd fd;
    std::vector<int64_t> offsets;  // of each record
  };

  Spool(std::string folder, SpoolOptions options) : folder_(std::move(folder)), options_(options) {}
  absl::Status Load() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status LoadSegment(const std::string& name, int64_t first)
      GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status StartSegment() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<std::string> ReadRecord(const Segment& segment, size_t index) const;
  std::string PathOf(int64_t first) const;

  const std::string folder_;
  const SpoolOptions options_;
  Mutex mu_;
  CondVar grown_;
  std::deque<Segment> segments_ GRAFT_GUARDED_BY(mu_);
  int64_t total_bytes_ GRAFT_GUARDED_BY(mu_) = 0;
  int64_t next_ GRAFT_GUARDED_BY(mu_) = 1;
  int64_t acknowledged_ GRAFT_GUARDED_BY(mu_) = 0;
};

}  // namespace graft::agent
