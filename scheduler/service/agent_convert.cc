#include "scheduler/service/agent_convert.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/session_records.h"

namespace graft::scheduler {
namespace {

namespace agent = graft::agent::v1;
namespace v1 = graft::v1;

PartState StateOf(agent::ActualAttempt::State state) {
  switch (state) {
    case agent::ActualAttempt::STATE_STARTING:
      return PartState::kStarting;
    case agent::ActualAttempt::STATE_RUNNING:
    case agent::ActualAttempt::STATE_STOPPING:
    case agent::ActualAttempt::STATE_UPLOADING:
      return PartState::kRunning;
    case agent::ActualAttempt::STATE_ENDED:
    case agent::ActualAttempt::STATE_FAILED:
      return PartState::kEnded;
    default:
      return PartState::kAssigned;
  }
}

PartReport ToReport(const agent::ActualAttempt& actual) {
  PartReport report;
  std::tie(report.job, report.attempt) = ParseAttemptName(actual.attempt());
  report.state = StateOf(actual.state());
  // ENDED is success where the attempt was to run to its end; the core turns it into "stopped"
  // where it was told to stop, because it knows what it told.
  if (actual.state() == agent::ActualAttempt::STATE_ENDED) report.end = AttemptEnd::kSucceeded;
  if (actual.state() == agent::ActualAttempt::STATE_FAILED) {
    report.end = actual.retryable() ? AttemptEnd::kFailed : AttemptEnd::kHopeless;
  }
  report.message = actual.message();
  report.rendezvous = actual.rendezvous_address();
  for (const agent::Upload& upload : actual.uploads()) {
    if (upload.kind() == agent::Upload::KIND_CHECKPOINT) {
      if (upload.step() < report.checkpoint.step) continue;
      report.checkpoint = {
          .step = upload.step(), .session = upload.session(), .bytes = upload.size_bytes()};
      if (upload.has_val_loss()) report.checkpoint.val_loss = upload.val_loss();
    } else if (upload.kind() == agent::Upload::KIND_ADAPTER ||
               upload.kind() == agent::Upload::KIND_MODEL) {
      report.result_session = upload.session();
    } else if (upload.kind() == agent::Upload::KIND_REPORT) {
      report.report_session = upload.session();
    }
  }
  report.step = actual.progress().steps_done();
  report.steps_total = actual.progress().steps_total();
  const int64_t left = report.steps_total - report.step;
  if (left > 0 && actual.progress().has_eta()) {
    report.step_seconds =
        static_cast<double>(actual.progress().eta().seconds()) / static_cast<double>(left);
  }
  return report;
}

}  // namespace

Node ToNode(const std::string& name, const agent::Inventory& inventory) {
  Node node{.name = name};
  for (const v1::Device& device : inventory.devices()) {
    const bool cpu = device.kind() == v1::Device::KIND_CPU;
    const bool slice = device.kind() == v1::Device::KIND_CUDA_SLICE;
    node.devices.push_back({.index = device.index(),
                            .kind = cpu ? "cpu" : (slice ? "gpu-slice" : "gpu"),
                            .memory_bytes = device.memory_bytes(),
                            .nvlink_domain = device.nvlink_domain(),
                            .healthy = device.health() == v1::Device::HEALTH_OK});
  }
  node.rack = inventory.topology().rack();
  node.spine = inventory.topology().spine();
  return node;
}

NodeSynced ToSynced(const std::string& node, const agent::SynchronizeRequest& request) {
  NodeSynced synced{.node = node,
                    .epoch = request.epoch(),
                    .desired_revision = request.revision(),
                    .leaving = request.leaving()};
  for (const agent::ActualAttempt& actual : request.attempts()) {
    PartReport report = ToReport(actual);
    if (!report.job.empty()) synced.parts.push_back(std::move(report));
  }
  return synced;
}

std::pair<JobKey, int> ParseAttemptName(absl::string_view name) {
  // A session has one attempt, which goes by its name.
  if (const JobKey session = SessionKeyOf(name); !session.empty()) return {session, 1};
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  int number = 0;
  if (parts.size() != 6 || parts[4] != "attempts" || !absl::SimpleAtoi(parts[5], &number)) {
    return {"", 0};
  }
  return {JobKeyOf(name), number};
}

bool Leads(const agent::ActualAttempt& actual) {
  const auto& ranks = actual.ranks();
  return ranks.empty() ||
         std::any_of(ranks.begin(), ranks.end(), [](const auto& rank) { return rank.rank() == 0; });
}

std::string AttemptName(const JobKey& job, int attempt) {
  const std::string session = SessionNameOf(job);
  return session.empty() ? absl::StrCat(JobNameOf(job), "/attempts/", attempt) : session;
}

}  // namespace graft::scheduler
