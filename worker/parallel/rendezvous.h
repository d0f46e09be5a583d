// How the ranks of an attempt find each other: a store of keys in rank 0's process, under a prefix
// that only this attempt knows, where every rank first proves that it has the attempt's secret. Two
// attempts can therefore not mix. It is no encryption: the traffic is plain TCP on the address that
// was configured for it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "absl/status/statusor.h"

namespace graft::parallel {

using StorePtr = c10::intrusive_ptr<c10d::Store>;

struct RendezvousOptions {
  int64_t rank = 0;
  int64_t world = 1;
  std::string address;  // host:port of rank 0's store
  int listen_fd = -1;   // rank 0: a socket that listens there already; -1: it is bound here
  std::string secret;   // of the attempt; may be empty where a person starts the ranks by hand
  std::string attempt;
  std::chrono::milliseconds timeout = std::chrono::minutes(5);
};

// Returns when every rank is there. UNAVAILABLE when that took too long, naming the ranks that did
// not come; PERMISSION_DENIED when one has another secret.
absl::StatusOr<StorePtr> Join(const RendezvousOptions& options);

// The half of Join behind the connection, for stores of another kind: threads of one process.
absl::StatusOr<StorePtr> Prove(const StorePtr& store, const RendezvousOptions& options);

}  // namespace graft::parallel
