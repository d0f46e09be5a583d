// Job files: YAML or JSON that people write, read strictly into the API's messages.
//
// An unknown key, a value of the wrong type or an unknown word of an enumeration is refused with
// the path, line and column and the nearest known name; nothing is guessed. Short forms:
// enumeration values without their prefix ("lora"), durations as "30m", a text where a message's
// first field is a text ("training: tickets"), a `oneof` of messages by its name alone ("method:
// sft"), and intervals as 0.25 (epochs), 100 (steps) or "10m".
//
// The command line and every door that takes text go through here, so that one file means the same
// thing everywhere.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "graft/v1/job.pb.h"

namespace graft::client {

// Largest job file that is read.
inline constexpr size_t kMaxJobFileBytes = 1 << 20;

// A whole job: `name`, `description`, `labels`, `project` and the sections of its spec side by
// side.
struct JobFile {
  std::string job_id;
  v1::Job job;
};
absl::StatusOr<JobFile> ParseJobFile(absl::string_view text, absl::string_view file_name);

// Any message, by the same rules.
absl::Status ParseMessage(absl::string_view text, absl::string_view file_name,
                          google::protobuf::Message& message);

// Sets one field by its path: "optimizer.learning_rate", "1e-4". As in `--set`.
absl::Status SetField(absl::string_view path, absl::string_view value,
                      google::protobuf::Message& message);

}  // namespace graft::client
