#include "scheduler/service/session_records.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "scheduler/core/job.h"
#include "scheduler/service/job_records.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
constexpr absl::string_view kCollection = "inferenceSessions";

v1::InferenceSession::State StateOf(JobState state) {
  switch (state) {
    case JobState::kCreated:
    case JobState::kQueued:
      return v1::InferenceSession::STATE_QUEUED;
    case JobState::kStarting:
      return v1::InferenceSession::STATE_LOADING;
    case JobState::kRunning:
    case JobState::kPreempting:
    case JobState::kCancelling:
      return v1::InferenceSession::STATE_READY;
    default:
      return v1::InferenceSession::STATE_ENDED;
  }
}

v1::Reason ReasonOf(absl::string_view code) {
  static constexpr std::pair<absl::string_view, v1::Reason> kReasons[] = {
      {"DRAINING", v1::REASON_NODE_DRAINING},
      {"PREEMPTING", v1::REASON_PREEMPTED},
      {"WORKER_LOST", v1::REASON_WORKER_LOST},
      {"CANCELLED", v1::REASON_CANCELLED_BY_USER}};
  for (const auto& [known, reason] : kReasons) {
    if (code == known) return reason;
  }
  return v1::REASON_RANK_FAILED;
}

}  // namespace

JobKey SessionKeyOf(absl::string_view name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() != 4 || parts[0] != "workspaces" || parts[2] != kCollection) return "";
  return absl::StrCat(parts[1], "/", kCollection, "/", parts[3]);
}

std::string SessionNameOf(const JobKey& key) {
  const std::vector<std::string> parts = absl::StrSplit(key, '/');
  return parts.size() == 3 && parts[1] == kCollection ? absl::StrCat("workspaces/", key) : "";
}

std::string SessionRecordKey(absl::string_view workspace, absl::string_view session) {
  return absl::StrCat("session/", workspace, "/", session);
}

std::string SessionTimeKey(absl::string_view workspace, absl::string_view session,
                           absl::Time created) {
  const uint64_t inverted = ~static_cast<uint64_t>(absl::ToUnixMicros(created));
  return absl::StrCat("session.time/", workspace, "/", absl::StrFormat("%016x", inverted), "/",
                      session);
}

void PutSession(Turn& turn, const v1::InferenceSession& session) {
  const std::vector<std::string> parts = absl::StrSplit(session.name(), '/');
  turn.Put(Family::kRecords, SessionRecordKey(parts[1], parts[3]), EncodeResource(session));
}

void WriteSessionStatus(Turn& turn, const Job& job) {
  absl::StatusOr<v1::InferenceSession> session = ReadSession(turn, SessionNameOf(job.request.key));
  if (!session.ok()) return;  // a session of the simulation has no record
  session->set_state(StateOf(job.state));
  session->set_message(job.reason);
  // Who ended it has said why.
  if (IsTerminal(job.state) && session->reason() == v1::REASON_UNSPECIFIED) {
    session->set_reason(ReasonOf(job.reason_code));
  }
  if (job.attempt.live()) {
    session->clear_ranks();
    WriteRanks(turn, job.attempt, *session->mutable_ranks());
  }
  PutSession(turn, *session);
}

}  // namespace graft::scheduler
