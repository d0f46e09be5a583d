#include "fileservice/service/exchange.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/status_macros.h"
#include "fileservice/service/access.h"
#include "fileservice/service/swarm_tracker.h"
#include "fileservice/transfer/pieces.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

constexpr absl::Duration kTellInterval = absl::Milliseconds(100);

// How many pieces the version has; kept no longer than the call.
absl::StatusOr<uint32_t> CountPieces(const Catalog& catalog, const ResolvedVersion& version) {
  PieceList pieces;
  absl::Status status;
  GRAFT_RETURN_IF_ERROR(
      catalog.VisitEntries(version, "", "", [&](absl::string_view, const Entry& entry) {
        const absl::StatusOr<FilePage> file = catalog.GetFile(entry.sha256);
        status.Update(file.status());
        if (!status.ok()) return false;
        for (const ChunkRef& chunk : file->chunks) pieces.Add({chunk.id, chunk.size});
        return true;
      }));
  GRAFT_RETURN_IF_ERROR(status);
  return pieces.size();
}

}  // namespace

struct Exchange::Swarm {
  Swarm(std::string name, uint32_t pieces, Random& random)
      : version(std::move(name)), tracker(pieces, {}, random) {}
  const std::string version;
  SwarmTracker tracker;
  std::map<SwarmTracker::WorkerId, std::shared_ptr<Stream>> streams;  // shared with gRPC
};

class Exchange::Stream final : public Reactor, public std::enable_shared_from_this<Stream> {
 public:
  Stream(Exchange& exchange, std::shared_ptr<rpc::Call> call)
      : call(std::move(call)), exchange_(exchange) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&request_);
  }

  // False while the last one is being sent.
  bool Write(v1::ExchangePiecesResponse response) {
    MutexLock lock(mu_);
    if (finished_ || writing_) return false;
    response_ = std::move(response);
    writing_ = true;
    StartWrite(&response_);
    return true;
  }
  bool ready() {
    MutexLock lock(mu_);
    return !finished_ && !writing_;
  }

  const std::shared_ptr<rpc::Call> call;  // shared with the server
  Swarm* swarm = nullptr;                 // under Exchange::mu_
  SwarmTracker::WorkerId id = 0;

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());
    if (!joined_) {
      const absl::Status status = exchange_.Join(shared_from_this(), request_);
      if (!status.ok()) return End(status);
      joined_ = true;
    }
    exchange_.Take(*this, request_);
    MutexLock lock(mu_);
    if (!finished_) StartRead(&request_);
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
  }
  void OnCancel() override { End(absl::CancelledError("the client has gone away")); }
  void OnDone() override {
    exchange_.Leave(*this);
    const std::shared_ptr<Stream> self = std::move(self_);
  }
  void End(const absl::Status& status) {
    MutexLock lock(mu_);
    if (std::exchange(finished_, true)) return;
    Finish(rpc::ToGrpcStatus(call->Finish(status)));
  }

  Exchange& exchange_;
  std::shared_ptr<Stream> self_;  // gRPC's reference, until OnDone
  v1::ExchangePiecesRequest request_;
  bool joined_ = false;
  Mutex mu_;
  v1::ExchangePiecesResponse response_ GRAFT_GUARDED_BY(mu_);
  bool writing_ GRAFT_GUARDED_BY(mu_) = false;
  bool finished_ GRAFT_GUARDED_BY(mu_) = false;
};

Exchange::Exchange(DataPlane& plane, std::string key)
    : plane_(plane), key_(std::move(key)), thread_([this] { Run(); }) {}

Exchange::~Exchange() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    wake_.SignalAll();
  }
  thread_.join();
}

Exchange::Reactor* Exchange::Start(std::shared_ptr<rpc::Call> call) {
  auto stream = std::make_shared<Stream>(*this, std::move(call));
  stream->Begin();
  return stream.get();
}

absl::Status Exchange::Join(const std::shared_ptr<Stream>& stream,
                            const v1::ExchangePiecesRequest& first) {
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version,
                         ReadableVersion(plane_.catalog, *stream->call, first.version()));
  const std::string name = version.name();
  GRAFT_ASSIGN_OR_RETURN(const uint32_t pieces, CountPieces(plane_.catalog, version));
  MutexLock lock(mu_);
  std::unique_ptr<Swarm>& swarm = swarms_[name];
  if (swarm == nullptr) swarm = std::make_unique<Swarm>(name, pieces, random_);
  stream->swarm = swarm.get();
  stream->id = swarm->tracker.Join(first.address());
  swarm->streams[stream->id] = stream;
  v1::ExchangePiecesResponse hello;
  hello.set_peer_token(ToHex(absl::string_view(HmacSha256(key_, absl::StrCat("swarm ", name)))));
  stream->Write(std::move(hello));
  return absl::OkStatus();
}

void Exchange::Take(Stream& stream, const v1::ExchangePiecesRequest& request) {
  MutexLock lock(mu_);
  SwarmTracker& tracker = stream.swarm->tracker;
  for (const uint32_t piece : request.completed()) tracker.Completed(stream.id, piece);
  for (const std::string& liar : request.liars()) tracker.Accuse(stream.id, liar);
  Tell(stream);
}

void Exchange::Leave(Stream& stream) {
  MutexLock lock(mu_);
  Swarm* swarm = std::exchange(stream.swarm, nullptr);
  if (swarm == nullptr) return;
  swarm->tracker.Leave(stream.id);
  swarm->streams.erase(stream.id);
  if (!swarm->tracker.empty()) return;
  origin_pieces_ += swarm->tracker.origin_pieces();
  swarms_.erase(std::string(swarm->version));
}

void Exchange::Tell(Stream& stream) {
  if (!stream.ready()) return;
  const SwarmTracker::Plan plan = stream.swarm->tracker.PlanFor(stream.id);
  if (plan.empty()) return;
  v1::ExchangePiecesResponse response;
  for (const SwarmTracker::Peer& peer : plan.peers) {
    v1::ExchangePiecesResponse::Peer& added = *response.add_peers();
    added.set_address(peer.address);
    added.set_pieces(peer.pieces->Bytes());
  }
  response.mutable_from_origin()->Add(plan.from_origin.begin(), plan.from_origin.end());
  for (const std::string& address : plan.gone) response.add_gone(address);
  stream.Write(std::move(response));
}

int64_t Exchange::origin_pieces() {
  MutexLock lock(mu_);
  int64_t pieces = origin_pieces_;
  for (const auto& [version, swarm] : swarms_) pieces += swarm->tracker.origin_pieces();
  return pieces;
}

void Exchange::Run() {
  MutexLock lock(mu_);
  while (!stopping_) {
    wake_.WaitFor(mu_, kTellInterval);
    for (const auto& [version, swarm] : swarms_) {
      for (const auto& [id, stream] : swarm->streams) Tell(*stream);
    }
  }
}

}  // namespace graft::fileservice
