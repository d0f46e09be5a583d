#include "worker/parallel/gloo_backend.h"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

namespace graft::parallel {

using Gloo = c10d::ProcessGroupGloo;

GlooBackends::GlooBackends(const std::string& address, std::chrono::milliseconds timeout) {
  auto options = Gloo::Options::create(timeout);
  options->devices.push_back(Gloo::createDeviceForHostname(address));
  options->threads = 1;  // collectives of a group run one after another, as they were started
  options_ = options;
}

c10::intrusive_ptr<c10d::Backend> GlooBackends::Make(const c10::intrusive_ptr<c10d::Store>& store,
                                                     int64_t rank, int64_t size) const {
  const auto& shared = static_cast<const Gloo::Options&>(*options_);
  auto options = Gloo::Options::create(shared.timeout);
  options->devices = shared.devices;
  options->threads = shared.threads;
  return c10::make_intrusive<Gloo>(store, static_cast<int>(rank), static_cast<int>(size), options);
}

}  // namespace graft::parallel
