// How many devices each account may hold. An account is guaranteed a number and may borrow more, up
// to its ceiling, while nobody needs them: what is borrowed can be reclaimed by accounts that are
// within their guarantee. Whoever borrows is served after those who do not.
//
// Copied into a queue pass, which charges what it starts. An account without a quota is not
// limited and guaranteed nothing.
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
  void Set(absl::string_view account, int guaranteed, int ceiling = kNoCeiling);
  // Another guarantee for an account that has one; it may borrow as much as before.
  void SetGuarantee(absl::string_view account, int guaranteed);
  void Remove(absl::string_view account);
  // Negative: they are given back.
  void Charge(absl::string_view account, int devices) { used_[std::string(account)] += devices; }

  // RESOURCE_EXHAUSTED with the numbers when `devices` more are too many.
  absl::Status Admit(absl::string_view account, int devices) const;
  bool Admits(absl::string_view account, int devices) const;
  int Used(absl::string_view account) const;
  // Devices above the guarantee; an account without a quota has none.
  int Borrowed(absl::string_view account) const;
  // Whether `devices` more stay within its guarantee: then it may reclaim what is lent.
  bool WithinGuarantee(absl::string_view account, int devices) const;
  // Whether it would borrow for `devices` more.
  bool Borrows(absl::string_view account, int devices) const;
  bool Has(absl::string_view account) const { return quotas_.contains(account); }
  const absl::btree_map<std::string, int>& used() const { return used_; }

 private:
  struct Quota {
    int guaranteed = 0;
    int ceiling = kNoCeiling;
  };
  absl::btree_map<std::string, Quota> quotas_;
  absl::btree_map<std::string, int> used_;
};

}  // namespace graft::scheduler
