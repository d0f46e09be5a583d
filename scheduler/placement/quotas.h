// How many devices each workspace may hold. A workspace is guaranteed a number, and may borrow what
// others leave unused of theirs up to its ceiling; what is borrowed can be reclaimed by its owner.
//
// Copied into a queue pass, which charges what it starts. A workspace without a quota is not
// limited, and lends nothing.
#pragma once

#include <string>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace graft::scheduler {

class Quotas {
 public:
  static constexpr int kNoCeiling = -1;

  // `ceiling` is at least `guaranteed`: equal to it, nothing is borrowed.
  void Set(absl::string_view workspace, int guaranteed, int ceiling = kNoCeiling);
  void Remove(absl::string_view workspace);
  void Charge(absl::string_view workspace, int devices) {
    used_[std::string(workspace)] += devices;
  }

  // RESOURCE_EXHAUSTED with the numbers when `devices` more are too many.
  absl::Status Admit(absl::string_view workspace, int devices) const;
  int Used(absl::string_view workspace) const;
  // Devices above the guarantee.
  int Borrowed(absl::string_view workspace) const;
  // Whether `devices` more stay within its guarantee: then it may reclaim what is lent.
  bool WithinGuarantee(absl::string_view workspace, int devices) const;

 private:
  struct Quota {
    int guaranteed = 0;
    int ceiling = kNoCeiling;
  };
  absl::btree_map<std::string, Quota> quotas_;
  absl::btree_map<std::string, int> used_;
};

}  // namespace graft::scheduler
