// How much one caller may ask for: calls a second, with a burst of one second's worth, and streams
// at once. Callers are told apart by the subject of their token, so that a second token buys
// nothing. Thread-safe; nothing is called under its lock.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace graft::rpc {

class CallerLimits {
 public:
  // Callers that are remembered; those without a stream or a debt are forgotten first.
  static constexpr size_t kMaxCallers = 10'000;

  struct Options {
    double calls_per_second = 0;  // 0: no bound
    int concurrent_streams = 0;   // 0: no bound
  };
  explicit CallerLimits(Options options) : options_(options) {}

  // Counts a call. RESOURCE_EXHAUSTED (RATE_LIMITED, with a delay) beyond the bound.
  absl::Status Admit(const std::string& subject, absl::Time now);
  // Counts a stream, which CloseStream gives back. RESOURCE_EXHAUSTED beyond the bound.
  absl::Status OpenStream(const std::string& subject);
  void CloseStream(const std::string& subject);

 private:
  struct Caller {
    double calls = 0;  // left in the bucket at `filled`
    absl::Time filled = absl::InfinitePast();
    int streams = 0;
  };
  Caller& Find(const std::string& subject) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  Mutex mu_;
  std::map<std::string, Caller> callers_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::rpc
