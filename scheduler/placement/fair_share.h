// Who has had how much of the cluster lately: device-seconds by workspace, halved every half-life.
// The queue tries the workspace first that has had least for its weight.
//
// Owned by the scheduler's loop; reads no clock. Times may not go back by more than nothing: an
// earlier `now` counts as the latest one seen.
#pragma once

#include <string>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace graft::scheduler {

class FairShare {
 public:
  explicit FairShare(absl::Duration half_life = absl::Hours(24 * 7)) : half_life_(half_life) {}

  // Greater weights are entitled to more. Must be above 0; 1 unless set.
  void SetWeight(absl::string_view workspace, double weight);
  // Above 0; the constructor's unless set. What was used before counts by it too.
  void SetHalfLife(absl::string_view workspace, absl::Duration half_life);
  // `devices` were held for `held` until `now`.
  void Charge(absl::string_view workspace, int devices, absl::Duration held, absl::Time now);
  // Decayed device-seconds.
  double Usage(absl::string_view workspace, absl::Time now) const;
  // Usage by weight: the order of workspaces, least first.
  double Level(absl::string_view workspace, absl::Time now) const;
  // The entitled part of all usage less the real part, in -1 .. 1; above 0: it is owed.
  double Deficit(absl::string_view workspace, absl::Time now) const;

 private:
  struct Account {
    double weight = 1;
    absl::Duration half_life = absl::ZeroDuration();  // 0: as all
    double usage = 0;                                 // at `at`
    absl::Time at = absl::InfinitePast();
  };
  double Decayed(const Account& account, absl::Time now) const;

  absl::Duration half_life_;
  absl::btree_map<std::string, Account> accounts_;
};

}  // namespace graft::scheduler
