// The socket on which the ranks of a gang find each other, opened by the agent of rank 0 and
// inherited by that rank.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/file.h"

namespace graft::agent {

struct Rendezvous {
  UniqueFd socket;
  std::string address;  // host:port, as peers dial it
};

// Listens on a free port of an IPv4 address. INVALID_ARGUMENT when that is none.
absl::StatusOr<Rendezvous> OpenRendezvous(const std::string& fabric_address);

}  // namespace graft::agent
