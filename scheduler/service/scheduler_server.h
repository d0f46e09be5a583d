// The whole scheduler but its command line: store, loop, services and gRPC server, put together.
//
//   GRAFT_ASSIGN_OR_RETURN(auto server, SchedulerServer::Start(options, store, clock, random,
//   files));
//   ... server->port() ...
//   server->Shutdown(absl::Seconds(10));
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "rpc/access_token.h"
#include "rpc/server.h"
#include "scheduler/core/core.h"
#include "scheduler/service/fileservice_link.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

struct SchedulerOptions {
  rpc::ServerOptions server;        // address and TLS; the rest is filled in
  bool no_auth = false;             // everyone without a token is an administrator
  std::string fileservice_address;  // as clients and workers are told
  std::string attempt_secret;       // 32 bytes
  std::string data_key;             // 32 bytes; seals secrets at rest
  absl::Duration lease = absl::Seconds(15);
  absl::Duration keep_room_after = CoreOptions().keep_room_after;
  int background_threads = 4;
  // A worker reads the rows of a job before it is queued. The program does; tests of what comes
  // after need no worker for it.
  bool rows_first = false;
  bool fake_trainer = false;  // training is simulated: jobs and GetServerInfo say so
};

class SchedulerServer {
 public:
  // All references must outlive it.
  static absl::StatusOr<std::unique_ptr<SchedulerServer>> Start(SchedulerOptions options,
                                                                Store& store, Clock& clock,
                                                                Random& random,
                                                                FileserviceLink& files,
                                                                const rpc::TokenSigner& signer);
  ~SchedulerServer();
  int port() const;
  int metrics_port() const;
  // The first administrator's token, made at the first start of a store; else empty.
  const std::string& first_token() const;
  void Shutdown(absl::Duration grace);

 private:
  struct State;
  explicit SchedulerServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace graft::scheduler
