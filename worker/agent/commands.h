// The commands that an attempt's processes are started with.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "worker/agent/rank_process.h"
#include "worker/agent/runner.h"

namespace graft::agent {

// One rank of a training attempt; its run file is written to the attempt's folder, the inputs'
// folders by their keys in it.
absl::StatusOr<RankCommand> TrainCommand(const RunnerEnvironment& environment,
                                         const v1::DesiredAttempt& desired,
                                         const std::map<std::string, std::string>& inputs,
                                         const v1::LocalRank& local);

struct GenerateTarget {
  std::string model;          // folder
  std::string adapter;        // folder, or empty
  std::string chat_template;  // its text, or empty for the model's own
};
// A trainer that answers on its standard input, on the attempt's first device.
absl::StatusOr<RankCommand> GenerateCommand(const RunnerEnvironment& environment,
                                            const v1::DesiredAttempt& desired,
                                            const GenerateTarget& target);

}  // namespace graft::agent
