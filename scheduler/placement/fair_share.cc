#include "scheduler/placement/fair_share.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace graft::scheduler {

double FairShare::Decayed(const Account& account, absl::Time now) const {
  if (account.usage == 0 || now <= account.at) return account.usage;
  const absl::Duration half_life =
      account.half_life > absl::ZeroDuration() ? account.half_life : half_life_;
  return account.usage * std::exp2(-absl::FDivDuration(now - account.at, half_life));
}

void FairShare::SetWeight(absl::string_view workspace, double weight) {
  GRAFT_CHECK(weight > 0) << workspace;
  accounts_[std::string(workspace)].weight = weight;
}

void FairShare::SetHalfLife(absl::string_view workspace, absl::Duration half_life) {
  GRAFT_CHECK(half_life > absl::ZeroDuration()) << workspace;
  accounts_[std::string(workspace)].half_life = half_life;
}

void FairShare::Charge(absl::string_view workspace, int devices, absl::Duration held,
                       absl::Time now) {
  Account& account = accounts_[std::string(workspace)];
  now = std::max(now, account.at);
  account.usage = Decayed(account, now) + devices * absl::ToDoubleSeconds(held);
  account.at = now;
}

double FairShare::Usage(absl::string_view workspace, absl::Time now) const {
  const auto it = accounts_.find(workspace);
  return it == accounts_.end() ? 0 : Decayed(it->second, now);
}

double FairShare::Level(absl::string_view workspace, absl::Time now) const {
  const auto it = accounts_.find(workspace);
  return it == accounts_.end() ? 0 : Decayed(it->second, now) / it->second.weight;
}

double FairShare::Deficit(absl::string_view workspace, absl::Time now) const {
  double weights = 0, usage = 0, own_weight = 1;
  for (const auto& [name, account] : accounts_) {
    weights += account.weight;
    usage += Decayed(account, now);
    if (name == workspace) own_weight = account.weight;
  }
  if (!accounts_.contains(workspace)) weights += own_weight;
  const double real = usage == 0 ? 0 : Usage(workspace, now) / usage;
  return own_weight / weights - real;
}

}  // namespace graft::scheduler
