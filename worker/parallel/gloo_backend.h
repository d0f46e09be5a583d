// The one door to c10d's Gloo backend, whose headers are included in gloo_backend.cc alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace graft::parallel {

// Makes the backends of a rank's groups, which share one connection loop over the interface of
// `address` (an IPv4 address or a host's name). Everything throws c10::Error when it fails.
class GlooBackends {
 public:
  GlooBackends(const std::string& address, std::chrono::milliseconds timeout);
  // Connects `size` ranks that call it with the same `store`.
  c10::intrusive_ptr<c10d::Backend> Make(const c10::intrusive_ptr<c10d::Store>& store, int64_t rank,
                                         int64_t size) const;

 private:
  c10::intrusive_ptr<c10d::Backend::Options> options_;
};

}  // namespace graft::parallel
