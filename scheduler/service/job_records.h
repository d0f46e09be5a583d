// The API's view of jobs: bodies with their status, attempts, checkpoints and outputs, kept in step
// with the core in the very commit in which the core changes.
//
//   job/{w}/{j}   job.time/{w}/{newest first}/{j}   job.newest/{newest first}/{w}/{j}
//   job.deleted/{seconds}/{w}/{j}   attempt/{w}/{j}/{n}   checkpoint/{w}/{j}/{step}
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "graft/v1/job.pb.h"
#include "scheduler/core/job_state.h"
#include "scheduler/service/turn.h"

namespace graft::scheduler {

struct Attempt;
struct Job;

std::string JobRecordKey(absl::string_view workspace, absl::string_view job);
std::string JobTimeKey(absl::string_view workspace, absl::string_view job, absl::Time created);
std::string JobNewestKey(absl::string_view workspace, absl::string_view job, absl::Time created);
// Marks a job that is deleted as soon as it is over.
std::string DoomedJobKey(const JobKey& job);
std::string DeletedJobKey(absl::string_view workspace, absl::string_view job, absl::Time deleted);
// Which job a key of any of these kinds is of.
struct JobPlace {
  std::string workspace;
  std::string job;
};
absl::optional<JobPlace> PlaceOfJob(absl::string_view key);
std::string ModelRecordKey(absl::string_view workspace, absl::string_view model);
std::string AdapterRecordKey(absl::string_view workspace, absl::string_view model,
                             absl::string_view adapter);
std::string AttemptRecordKey(const JobKey& job, int attempt);
std::string CheckpointRecordKey(const JobKey& job, int64_t step);
// "workspaces/{w}/jobs/{j}" of "w/j", and back (empty when it is none).
std::string JobNameOf(const JobKey& job);
JobKey JobKeyOf(absl::string_view job_name);

// Takes the job out of everything but the records of deleted jobs, which keep it for a while.
// FAILED_PRECONDITION unless it is over.
absl::Status EraseJob(Turn& turn, Store& store, const JobKey& job, const graft::v1::Job& body);

// Writes what the core says of the job into its body: state, history, results, attempt, checkpoint;
// makes the adapter or model of a job that has just completed. Whether it has just been given a
// place.
bool WriteJobStatus(Turn& turn, const Job& job);

// Where the attempt's ranks are, with the devices' own ids as their nodes have told them.
void WriteRanks(Turn& turn, const Attempt& attempt,
                google::protobuf::RepeatedPtrField<graft::v1::RankPlacement>& ranks);

graft::v1::JobState ToApi(JobState state);
graft::v1::Explanation::Code CauseCode(absl::string_view code);

}  // namespace graft::scheduler
