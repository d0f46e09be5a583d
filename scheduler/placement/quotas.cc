#include "scheduler/placement/quotas.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace graft::scheduler {

void Quotas::Set(absl::string_view workspace, int guaranteed, int ceiling) {
  quotas_[std::string(workspace)] = {guaranteed, ceiling};
}

void Quotas::Remove(absl::string_view workspace) { quotas_.erase(std::string(workspace)); }

int Quotas::Used(absl::string_view workspace) const {
  const auto it = used_.find(workspace);
  return it == used_.end() ? 0 : it->second;
}

int Quotas::Borrowed(absl::string_view workspace) const {
  const auto it = quotas_.find(workspace);
  return it == quotas_.end() ? 0 : std::max(0, Used(workspace) - it->second.guaranteed);
}

bool Quotas::WithinGuarantee(absl::string_view workspace, int devices) const {
  const auto it = quotas_.find(workspace);
  return it != quotas_.end() && Used(workspace) + devices <= it->second.guaranteed;
}

absl::Status Quotas::Admit(absl::string_view workspace, int devices) const {
  const auto own = quotas_.find(workspace);
  if (own == quotas_.end()) return absl::OkStatus();
  const int after = Used(workspace) + devices;
  if (after <= own->second.guaranteed) return absl::OkStatus();
  if (own->second.ceiling != kNoCeiling && after > own->second.ceiling) {
    return absl::ResourceExhaustedError(absl::StrCat("needs ", devices, " devices; workspace ",
                                                     workspace, " uses ", Used(workspace),
                                                     " of at most ", own->second.ceiling));
  }
  // What it may borrow is what others do not use of their guarantees.
  int spare = 0;
  for (const auto& [name, quota] : quotas_) spare += quota.guaranteed - Used(name);
  if (devices <= spare) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "needs ", devices, " devices; workspace ", workspace, " uses ", Used(workspace), " of ",
      own->second.guaranteed, " guaranteed, and all workspaces together leave ", std::max(0, spare),
      " to borrow"));
}

}  // namespace graft::scheduler
