// What ended attempts have used, kept apart from jobs so that accounting outlives their deletion.
//
//   usage/{end, microseconds in 16 hexadecimal digits}/{w}/{j}/{attempt} -> JSON
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "graft/v1/job.pb.h"
#include "scheduler/service/turn.h"

namespace graft::scheduler {

struct Job;

struct UsageEntry {
  std::string workspace;
  std::string user;  // "users/{u}"
  std::string queue;
  std::string project;  // empty: none
  std::string job;      // the job's name
  std::string product;  // of the devices
  int devices = 0;
  absl::Time begin;
  absl::Time end;
  double queued_seconds = 0;     // before it began
  double lost_seconds = 0;       // trained and not kept, when it was lost
  double preempted_seconds = 0;  // from the request to its end
  int64_t tokens = 0;
};

// An attempt that has just ended.
void KeepUsage(Turn& turn, const graft::v1::Job& body, const graft::v1::Attempt& attempt,
               bool lost);
// Those that ended after `since`, in the order of their ends.
absl::StatusOr<std::vector<UsageEntry>> ReadUsage(const Store& store, absl::Time since);
// The entry of an attempt that runs still, as of `now`.
UsageEntry RunningUsage(const graft::v1::Job& body, const Job& job, const std::string& product,
                        absl::Time now);
// The product of the device that a rank has: "NVIDIA H200", or its kind where it has none.
std::string ProductOf(const absl::StatusOr<Record>& node_record, int device);

}  // namespace graft::scheduler
