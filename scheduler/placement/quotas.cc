#include "scheduler/placement/quotas.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace graft::scheduler {

void Quotas::Set(absl::string_view account, int guaranteed, int ceiling) {
  quotas_[std::string(account)] = {guaranteed, ceiling};
}

void Quotas::SetGuarantee(absl::string_view account, int guaranteed) {
  Quota& own = quotas_[std::string(account)];
  if (own.ceiling != kNoCeiling) own.ceiling += guaranteed - own.guaranteed;
  own.guaranteed = guaranteed;
}

void Quotas::Remove(absl::string_view account) { quotas_.erase(std::string(account)); }

int Quotas::Used(absl::string_view account) const {
  const auto it = used_.find(account);
  return it == used_.end() ? 0 : it->second;
}

int Quotas::Borrowed(absl::string_view account) const {
  const auto it = quotas_.find(account);
  return it == quotas_.end() ? 0 : std::max(0, Used(account) - it->second.guaranteed);
}

bool Quotas::WithinGuarantee(absl::string_view account, int devices) const {
  const auto it = quotas_.find(account);
  return it != quotas_.end() && Used(account) + devices <= it->second.guaranteed;
}

bool Quotas::Borrows(absl::string_view account, int devices) const {
  return Has(account) && !WithinGuarantee(account, devices);
}

bool Quotas::Admits(absl::string_view account, int devices) const {
  const auto own = quotas_.find(account);
  return own == quotas_.end() || own->second.ceiling == kNoCeiling ||
         Used(account) + devices <= own->second.ceiling;
}

absl::Status Quotas::Admit(absl::string_view account, int devices) const {
  if (Admits(account, devices)) return absl::OkStatus();
  const Quota& own = quotas_.find(account)->second;
  return absl::ResourceExhaustedError(
      absl::StrCat("needs ", devices, " devices; workspace ", account, " uses ", Used(account),
                   " of at most ", own.ceiling, " (", own.guaranteed, " guaranteed)"));
}

}  // namespace graft::scheduler
