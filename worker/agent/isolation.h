// What keeps a rank that has no peers away from the network and from its user's rights: a user and
// a network namespace of its own, in which there is not even a loopback address.
//
// Files and devices are reached as before: the user stays the same number, with no capability
// outside. Ranks with peers need the fabric's network and get no namespace.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace graft::agent {

// Whether this process may put children into such namespaces: tried once, with a child that does it
// and leaves. FAILED_PRECONDITION says what the machine answered.
absl::Status TryIsolation();

// Made before a fork, entered by the child.
class Namespaces {
 public:
  Namespaces();
  // Async-signal-safe; 0, or the errno of what failed. What depends on the process' credentials
  // (PR_SET_PDEATHSIG) is set after it.
  int Enter() const;

 private:
  std::string uid_map_, gid_map_;
};

}  // namespace graft::agent
