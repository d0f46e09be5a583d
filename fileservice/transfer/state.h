// Inside of transfer/: what Client's functions share.
#pragma once

#include <functional>
#include <memory>

#include "fileservice/transfer/client.h"
#include "fileservice/transfer/link.h"

namespace graft::fileservice {

struct Client::State {
  Options options;
  std::unique_ptr<Link> link;
};

// Runs `attempt` until it succeeds, fails for good, or has failed `attempts` times in a row without
// progress; `made_progress` is asked, and forgets, after each failure.
absl::Status WithRetries(int attempts, const std::function<bool()>& made_progress,
                         const std::function<absl::Status()>& attempt);

}  // namespace graft::fileservice
