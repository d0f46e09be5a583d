// What `graft help` prints: the commands by subject, one subject's commands, and pages on a topic.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace graft::cli {

// graft help [TOPIC]: everything, a command's first word ("job"), "choose" or "exit-codes".
// INVALID_ARGUMENT names the nearest topic.
absl::Status PrintHelp(const std::vector<std::string>& topic);
// The commands that begin with this word, one a line; empty where there are none.
std::string HelpOfNoun(absl::string_view noun);

}  // namespace graft::cli
