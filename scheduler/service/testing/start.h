// Starts what tests, fuzzers and benchmarks of the scheduler's doors have in common.
#pragma once

#include <grpcpp/create_channel.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "scheduler/service/scheduler_server.h"

namespace graft::scheduler {

inline std::unique_ptr<rpc::TokenSigner> TestSigner() {
  absl::StatusOr<rpc::TokenSigner> signer = rpc::TokenSigner::FromSeed(std::string(32, 's'));
  GRAFT_CHECK_OK(signer.status());
  return std::make_unique<rpc::TokenSigner>(*std::move(signer));
}

// Without TLS on a free port, with keys that are always the same. References must outlive it.
struct TestServerParts {
  Store& store;
  Clock& clock;
  Random& random;
  FileserviceLink& files;
  const rpc::TokenSigner& signer;
};
inline absl::StatusOr<std::unique_ptr<SchedulerServer>> StartTestServer(
    const TestServerParts& parts, SchedulerOptions options) {
  options.attempt_secret = "secret";
  options.data_key = std::string(32, 'd');
  options.server.insecure = true;
  return SchedulerServer::Start(std::move(options), parts.store, parts.clock, parts.random,
                                parts.files, parts.signer);
}

inline std::shared_ptr<grpc::Channel> ChannelTo(const SchedulerServer& server) {
  return grpc::CreateChannel(absl::StrCat("127.0.0.1:", server.port()),
                             grpc::InsecureChannelCredentials());
}

}  // namespace graft::scheduler
