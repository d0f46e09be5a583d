// DataService.ExchangePieces: one stream for each worker that fetches or serves a version, and one
// SwarmTracker for each version that has any.
//
// Workers are told of their neighbours' new pieces a few times a second, all that came together;
// what they are to fetch from the origin is answered at once. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "base/random.h"
#include "fileservice/service/data_plane.h"
#include "graft/v1/data.pb.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/server_callback.h"
#include "rpc/call.h"

namespace graft::fileservice {

class Exchange {
 public:
  using Reactor = grpc::ServerBidiReactor<v1::ExchangePiecesRequest, v1::ExchangePiecesResponse>;

  // `key` makes the tokens that a version's workers show each other.
  Exchange(DataPlane& plane, std::string key);
  ~Exchange();
  // A reactor that owns itself until gRPC is done with it.
  Reactor* Start(std::shared_ptr<rpc::Call> call);
  // Pieces that workers were told to fetch here, of all versions since the start.
  int64_t origin_pieces();

 private:
  struct Swarm;
  class Stream;
  absl::Status Join(const std::shared_ptr<Stream>& stream, const v1::ExchangePiecesRequest& first);
  void Take(Stream& stream, const v1::ExchangePiecesRequest& request);
  void Leave(Stream& stream);
  void Tell(Stream& stream) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run();

  DataPlane& plane_;
  const std::string key_;
  SecureRandom random_;
  Mutex mu_;  // taken before a stream's
  CondVar wake_;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  std::map<std::string, std::unique_ptr<Swarm>> swarms_ GRAFT_GUARDED_BY(mu_);  // by version
  int64_t origin_pieces_ GRAFT_GUARDED_BY(mu_) = 0;
  std::thread thread_;
};

}  // namespace graft::fileservice
