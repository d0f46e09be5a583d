// The core's own records as they stand in the store: versioned JSON, so that what is there can be
// read by a person with the store's dump.
//
//   core.job/{workspace}/{job}   core.node/{node}   core.queue/{queue}   core.quota/{workspace}
//
// Beside them, for readers alone (the core makes it anew from the jobs): core.holders/{node}.
//
// A version that is newer than this program's is refused, never guessed at.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "scheduler/core/core.h"

namespace graft::scheduler {

inline constexpr absl::string_view kCoreJobPrefix = "core.job/";
inline constexpr absl::string_view kCoreNodePrefix = "core.node/";
inline constexpr absl::string_view kCoreHoldersPrefix = "core.holders/";
inline constexpr absl::string_view kCoreQueuePrefix = "core.queue/";

std::string EncodeJob(const Job& job);
absl::StatusOr<Job> DecodeJob(absl::string_view bytes);

std::string EncodeNode(const NodeState& state, const Node& node);
absl::StatusOr<std::pair<NodeState, Node>> DecodeNode(absl::string_view bytes);

// What has a part on a node, by the key of its job.
struct Holder {
  JobKey job;
  int attempt = 0;
  std::vector<int> devices;  // ascending; none: it reads inputs through
};
std::vector<Holder> HoldersOf(const Core& core, const NodeState& node);
std::string EncodeHolders(const std::vector<Holder>& holders);
absl::StatusOr<std::vector<Holder>> DecodeHolders(absl::string_view bytes);

std::string EncodeQueue(const Queue& queue);
absl::StatusOr<Queue> DecodeQueue(absl::string_view bytes);

}  // namespace graft::scheduler
