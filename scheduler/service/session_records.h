// Inference sessions as records, kept in step with the core like jobs are.
//
//   session/{w}/{s}   session.time/{w}/{newest first}/{s}
//
// To the core a session is a job with the key "w/inferenceSessions/s", which no job can have.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "graft/v1/inference.pb.h"
#include "scheduler/core/job_state.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/turn.h"

namespace graft::scheduler {

struct Job;

// "w/inferenceSessions/s" of "workspaces/w/inferenceSessions/s", and back; empty when it is none.
JobKey SessionKeyOf(absl::string_view name);
std::string SessionNameOf(const JobKey& key);
std::string SessionRecordKey(absl::string_view workspace, absl::string_view session);
std::string SessionTimeKey(absl::string_view workspace, absl::string_view session,
                           absl::Time created);

// From a store or a turn. NOT_FOUND by name.
template <typename Source>
absl::StatusOr<graft::v1::InferenceSession> ReadSession(Source& source, const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (SessionKeyOf(name).empty()) return NoSuchResource(name);
  const std::string key = SessionRecordKey(parts[1], parts[3]);
  const absl::StatusOr<Record> record = source.Get(Family::kRecords, key);
  if (absl::IsNotFound(record.status())) return NoSuchResource(name);
  if (!record.ok()) return record.status();
  graft::v1::InferenceSession session;
  GRAFT_RETURN_IF_ERROR(DecodeResource(key, record->value, session));
  return session;
}

void PutSession(Turn& turn, const graft::v1::InferenceSession& session);

// Writes what the core says of a session into its record.
void WriteSessionStatus(Turn& turn, const Job& job);

}  // namespace graft::scheduler
