// The settings of graft-fileservice: fileservice_config.proto has each with its unit and reason.
// Here is what follows from them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fileservice/fileservice_config.pb.h"

namespace graft::fileservice {

using Settings = config::FileserviceConfig;

// The command line of the daemon, and of a command with the settings it needs, over a file that
// --config names. Gives the words that are no options. INVALID_ARGUMENT with the place of what is
// wrong, and the nearest name; also for a number below zero and where `data` is missing.
absl::StatusOr<std::vector<std::string>> ReadSettings(const std::vector<std::string>& arguments,
                                                      Settings& settings);

std::string IndexFolder(const Settings& settings);
std::string PackFolder(const Settings& settings);
std::string WatermarkFolder(const Settings& settings);

}  // namespace graft::fileservice
