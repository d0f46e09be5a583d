// Makes the before/after report of a job that has finished: asks the base and the result the same
// validation rows, each through a `graft-trainer --generate` of its own, and writes the pages.
//
// Blocks; runs on a thread of its own.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/agent/links.h"
#include "worker/agent/rank_process.h"
#include "worker/trainer/report.h"

namespace graft::agent {

struct ReportRequest {
  RankCommand base;  // `--generate` with the model, and with what the job has made of it
  RankCommand tuned;
  trainer::RunConfig config;
  std::vector<int64_t> split_rows;  // as the run told them
  trainer::Report report;           // names and losses; the rest is filled in
  std::string folder;               // of the pages
  // For each of the two, loading included; rows that it does not suffice for are left out.
  absl::Duration limit = absl::Seconds(60);
};

// OK when the pages are there. CANCELLED, or whatever kept a model from answering at all.
absl::Status MakeReport(ReportRequest request, const CancelFlag& cancel);

}  // namespace graft::agent
