#include "rpc/caller_limits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

// A stream's end cannot be foreseen; a client that tries again after this finds out soon enough.
constexpr absl::Duration kStreamRetry = absl::Seconds(5);

absl::Status Limited(const std::string& what, absl::Duration retry_after) {
  return ErrorBuilder(absl::StatusCode::kResourceExhausted, what)
      .Reason("RATE_LIMITED")
      .RetryAfter(retry_after)
      .Build();
}

}  // namespace

CallerLimits::Caller& CallerLimits::Find(const std::string& subject) {
  const auto it = callers_.find(subject);
  if (it != callers_.end()) return it->second;
  if (callers_.size() >= kMaxCallers) {
    const auto idle = std::find_if(callers_.begin(), callers_.end(),
                                   [](const auto& one) { return one.second.streams == 0; });
    if (idle != callers_.end()) callers_.erase(idle);
  }
  return callers_.emplace(subject, Caller{}).first->second;
}

absl::Status CallerLimits::Admit(const std::string& subject, absl::Time now) {
  if (options_.calls_per_second <= 0) return absl::OkStatus();
  const double burst = std::max(1.0, options_.calls_per_second);
  MutexLock lock(mu_);
  Caller& caller = Find(subject);
  const double gained = absl::ToDoubleSeconds(now - caller.filled) * options_.calls_per_second;
  caller.calls = std::min(burst, caller.calls + std::max(0.0, gained));
  caller.filled = std::max(caller.filled, now);
  if (caller.calls >= 1) {
    caller.calls -= 1;
    return absl::OkStatus();
  }
  return Limited(
      absl::StrCat(subject, " makes more than ", options_.calls_per_second, " calls a second"),
      absl::Seconds((1 - caller.calls) / options_.calls_per_second));
}

absl::Status CallerLimits::OpenStream(const std::string& subject) {
  if (options_.concurrent_streams <= 0) return absl::OkStatus();
  MutexLock lock(mu_);
  Caller& caller = Find(subject);
  if (caller.streams >= options_.concurrent_streams) {
    return Limited(
        absl::StrCat(subject, " has ", caller.streams, " streams open, as many as are allowed"),
        kStreamRetry);
  }
  ++caller.streams;
  return absl::OkStatus();
}

void CallerLimits::CloseStream(const std::string& subject) {
  if (options_.concurrent_streams <= 0) return;
  MutexLock lock(mu_);
  --Find(subject).streams;
}

}  // namespace graft::rpc
