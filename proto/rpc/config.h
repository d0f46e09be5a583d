// Configuration files: one proto message as protobuf text or as JSON, read strictly.
//
//   SchedulerConfig config;
//   GRAFT_RETURN_IF_ERROR(rpc::ReadConfig("/etc/graft/scheduler.json", config));
//
// A key that the message does not have, or a value of another type, stops the reading with the
// file, the line, the path of the key and the nearest name that there is:
//   scheduler.json:4: store.pth: there is no such key; did you mean 'path'?
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace graft::rpc {

inline constexpr int64_t kMaxConfigBytes = 1 << 20;

// Files whose name ends in .json, or whose first character is '{', are JSON; others protobuf text.
// NOT_FOUND and the like for the file, INVALID_ARGUMENT for what is in it.
absl::Status ReadConfig(const std::string& path, google::protobuf::Message& config);

// The same for text at hand; `source` stands in its messages. Keys of JSON are the field's names as
// the .proto has them, or in lowerCamelCase.
absl::Status ParseJsonConfig(absl::string_view text, absl::string_view source,
                             google::protobuf::Message& config);
absl::Status ParseTextConfig(absl::string_view text, absl::string_view source,
                             google::protobuf::Message& config);

// A command line over such a message: each string, number and switch at its top is an option too
// (`--port-file F`, `--port-file=F`, `--insecure`, '-' for '_'), and `--config FILE` reads a file
// that the options stand above. Gives the words that are no options. INVALID_ARGUMENT names the
// nearest option.
absl::StatusOr<std::vector<std::string>> ReadArguments(const std::vector<std::string>& arguments,
                                                       google::protobuf::Message& config);

}  // namespace graft::rpc
