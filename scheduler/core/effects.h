// What a step of the core wants done. The shell persists `jobs`, `nodes` and the erased first, and
// only then sends the rest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "scheduler/core/job.h"

namespace graft::scheduler {

// Publish an upload session as a version of the job's fileset. Idempotent at the fileservice, so it
// is asked for again after a restart.
struct PublishCall {
  int64_t id = 0;
  JobKey job;
  int attempt = 0;
  std::string session;
  bool result = false;  // else a checkpoint
  bool report = false;  // then neither
  int64_t step = 0;
  absl::Time deadline;
};

// For the audit trail: why this gang went where.
struct Decision {
  JobKey job;
  std::string text;
};

struct Effects {
  // Of the event itself. When it is not OK nothing else is set.
  absl::Status status;
  absl::btree_set<JobKey> jobs;  // to be written as they are now
  absl::btree_set<JobKey> jobs_erased;
  absl::btree_set<std::string> nodes;  // to be written as they are now
  absl::btree_set<std::string> nodes_erased;
  // Nodes where a part of an attempt has begun or ended: who holds them is to be written anew.
  absl::btree_set<std::string> holders_changed;
  absl::btree_set<std::string> desired_changed;  // nodes whose desired state is another now
  std::vector<PublishCall> calls;
  std::vector<Decision> decisions;
  bool pass_wanted = false;  // a PassDue
  // When the core wants a Ticked next; every step says it anew.
  absl::Time wake_at = absl::InfiniteFuture();
};

}  // namespace graft::scheduler
