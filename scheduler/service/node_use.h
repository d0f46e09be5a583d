// How busy the nodes are: what moves too fast to be a record. Filled by what workers say, read by
// Get and List and by the watch for idle jobs, lost with the process and soon said again.
//
// Thread-safe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "graft/agent/v1/agent.pb.h"
#include "graft/v1/node.pb.h"

namespace graft::scheduler {

inline constexpr absl::Duration kUseAveragedOver = absl::Minutes(1);

class NodeUseBoard {
 public:
  void Put(const std::string& node, const graft::agent::v1::SynchronizeRequest& report,
           absl::Time now);
  // Lays it over the node's record.
  void Overlay(const std::string& node, absl::Time now, graft::v1::Node& body) const;
  // Of the node's devices in the order of its inventory; nothing where it is not known.
  std::optional<double> Utilisation(absl::string_view node, size_t device, absl::Time now) const;

 private:
  struct DeviceUse {
    std::optional<double> utilisation;  // averaged
    int64_t memory_used_bytes = 0;
  };
  struct NodeUse {
    std::vector<DeviceUse> devices;
    int64_t disk_free_bytes = 0;
    absl::Time told;
  };
  // Null for a node that has not been heard of for a while.
  const NodeUse* Find(absl::string_view node, absl::Time now) const
      GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable Mutex mu_;
  absl::flat_hash_map<std::string, NodeUse> nodes_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::scheduler
