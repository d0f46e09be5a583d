#include "fileservice/transfer/swarm.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/digest.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fileservice/transfer/http_client.h"
#include "fileservice/transfer/http_listener.h"
#include "fileservice/transfer/progress.h"
#include "fileservice/transfer/rate_limit.h"
#include "fileservice/transfer/state.h"
#include "fileservice/transfer/swarm_files.h"

namespace graft::fileservice {
namespace {

constexpr absl::string_view kPiecesPath = "/v1/pieces/";
constexpr size_t kSendBytes = 256 << 10;
// In the end a piece that is slow to come is asked of a second peer.
constexpr absl::Duration kEndgameAfter = absl::Seconds(2);
constexpr absl::Duration kPeerTimeout = absl::Seconds(10);
constexpr absl::Duration kLook = absl::Milliseconds(100);

}  // namespace

struct SwarmMember::State {
  State(Link& link, std::string version, std::unique_ptr<SwarmFiles> files, SwarmOptions options,
        ProgressCallback progress, absl::Duration interval)
      : link(link),
        version(std::move(version)),
        files(std::move(files)),
        options(std::move(options)),
        down(this->options.bytes_per_second),
        up(this->options.bytes_per_second),
        meter(std::move(progress), interval),
        have(this->files->pieces().size()),
        copies(have.size()) {}

  struct Peer {
    PieceSet pieces;
    int fetches = 0;  // of ours, under way
  };
  struct Fetch {
    uint32_t piece = 0;
    std::string peer;  // empty: the fileservice
  };

  // Of the fetching threads.
  void FetchPieces();
  bool Next(Fetch& fetch);
  std::optional<Fetch> Choose() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu);
  absl::StatusOr<std::string> Get(const Fetch& fetch);
  absl::StatusOr<std::string> GetFromPeer(const Fetch& fetch);
  absl::StatusOr<std::string> GetFromOrigin(uint32_t piece);
  void Finish(const Fetch& fetch, const absl::StatusOr<std::string>& bytes);
  // Of others.
  void TakeNews(const ExchangeCall::News& news);
  absl::Status Serve(const HttpRequest& request, HttpConnection& connection);
  absl::Status ServePiece(const HttpRequest& request, HttpConnection& connection);

  Link& link;
  const std::string version;
  const std::unique_ptr<SwarmFiles> files;
  const SwarmOptions options;
  RateLimit down;
  RateLimit up;
  ProgressMeter meter;
  SecureRandom random;
  std::string host;
  std::atomic<int64_t> served{0};

  Mutex mu;
  CondVar changed;
  PieceSet have GRAFT_GUARDED_BY(mu);
  std::vector<uint32_t> copies GRAFT_GUARDED_BY(mu);  // among the peers that are known
  std::map<std::string, Peer> peers GRAFT_GUARDED_BY(mu);
  std::set<std::string> liars GRAFT_GUARDED_BY(mu);
  std::vector<uint32_t> from_origin GRAFT_GUARDED_BY(mu);  // told to fetch there
  std::multimap<uint32_t, absl::Time> under_way GRAFT_GUARDED_BY(mu);
  std::string token GRAFT_GUARDED_BY(mu);
  absl::Time last_piece GRAFT_GUARDED_BY(mu) = absl::Now();
  bool tracked GRAFT_GUARDED_BY(mu) = true;
  absl::Status failure GRAFT_GUARDED_BY(mu);
  Totals totals GRAFT_GUARDED_BY(mu);

  // Last, so that they end first.
  std::unique_ptr<ExchangeCall> exchange;
  std::unique_ptr<HttpListener> listener;
};

SwarmMember::SwarmMember(std::unique_ptr<State> state) : state_(std::move(state)) {}
SwarmMember::~SwarmMember() = default;

const std::string& SwarmMember::version() const { return state_->version; }

SwarmMember::Totals SwarmMember::totals() const {
  MutexLock lock(state_->mu);
  Totals totals = state_->totals;
  totals.served = state_->served;
  return totals;
}

absl::StatusOr<std::unique_ptr<SwarmMember>> SwarmMember::Fetch(Client& client,
                                                                const std::string& name,
                                                                const std::string& folder,
                                                                const SwarmOptions& options,
                                                                const ProgressCallback& progress) {
  GRAFT_ASSIGN_OR_RETURN(const std::string version, client.ResolveVersion(name));
  Client::State& owner = *client.state_;
  GRAFT_ASSIGN_OR_RETURN(std::vector<LocalFile> manifest, owner.link->GetManifest(version));
  GRAFT_ASSIGN_OR_RETURN(auto files, SwarmFiles::Open(folder, std::move(manifest)));
  auto state = std::make_unique<State>(*owner.link, version, std::move(files), options, progress,
                                       owner.options.progress_interval);
  GRAFT_ASSIGN_OR_RETURN(const PieceSet whole, state->files->FindWhole());
  std::vector<uint32_t> known;
  int64_t total = 0;
  for (uint32_t piece = 0; piece < whole.size(); ++piece) {
    total += state->files->pieces().bytes[piece];
    if (whole.Has(piece)) known.push_back(piece);
  }
  state->meter.Expect(1, total);
  {
    MutexLock lock(state->mu);
    state->have = whole;
    state->totals.bytes = total;
  }
  GRAFT_ASSIGN_OR_RETURN(state->listener, HttpListener::Bind({.address = options.listen,
                                                              .allow_remote = options.allow_remote,
                                                              .max_connections = options.uploads,
                                                              .stall_timeout = kPeerTimeout}));
  state->host = absl::StrCat(options.listen.substr(0, options.listen.rfind(':')), ":",
                             state->listener->port());
  State* raw = state.get();
  state->listener->Serve([raw](const HttpRequest& request, HttpConnection& connection) {
    return raw->Serve(request, connection);
  });
  state->exchange = state->link.Exchange(
      version, state->host, [raw](const ExchangeCall::News& news) { raw->TakeNews(news); },
      [raw](const absl::Status&) {
        MutexLock lock(raw->mu);
        raw->tracked = false;
        raw->changed.SignalAll();
      });
  if (!known.empty()) state->exchange->Send(known, {});
  std::vector<std::thread> threads;
  for (int i = 0; i < std::max(options.fetches, 1); ++i) {
    threads.emplace_back([raw] { raw->FetchPieces(); });
  }
  for (std::thread& thread : threads) thread.join();
  {
    MutexLock lock(state->mu);
    GRAFT_RETURN_IF_ERROR(state->failure);
  }
  GRAFT_RETURN_IF_ERROR(state->files->Complete());
  GRAFT_RETURN_IF_ERROR(state->meter.FileDone());
  state->meter.Finish();
  return std::unique_ptr<SwarmMember>(new SwarmMember(std::move(state)));
}

void SwarmMember::State::TakeNews(const ExchangeCall::News& news) {
  MutexLock lock(mu);
  if (!news.token.empty()) token = news.token;
  for (const auto& [address, bytes] : news.peers) {
    if (liars.count(address) > 0) continue;
    Peer& peer = peers[address];
    const PieceSet now = PieceSet::FromBytes(bytes, have.size());
    if (peer.pieces.size() == 0) peer.pieces = PieceSet(have.size());
    for (uint32_t piece = 0; piece < have.size(); ++piece) {
      if (now.Has(piece) && peer.pieces.Add(piece)) ++copies[piece];
    }
  }
  for (const std::string& address : news.gone) peers.erase(address);
  from_origin.insert(from_origin.end(), news.from_origin.begin(), news.from_origin.end());
  changed.SignalAll();
}

void SwarmMember::State::FetchPieces() {
  for (State::Fetch fetch; Next(fetch);) Finish(fetch, Get(fetch));
}

// Waits for something to fetch; false when all is there, or it failed.
bool SwarmMember::State::Next(State::Fetch& fetch) {
  MutexLock lock(mu);
  while (!have.full() && failure.ok()) {
    std::optional<State::Fetch> chosen = Choose();
    if (chosen.has_value()) {
      fetch = *std::move(chosen);
      under_way.emplace(fetch.piece, absl::Now());
      if (!fetch.peer.empty()) ++peers[fetch.peer].fetches;
      return true;
    }
    changed.WaitFor(mu, kLook);
  }
  return false;
}

std::optional<SwarmMember::State::Fetch> SwarmMember::State::Choose() {
  while (!from_origin.empty()) {
    const uint32_t piece = from_origin.back();
    from_origin.pop_back();
    if (piece < have.size() && !have.Has(piece) && under_way.count(piece) == 0) {
      return State::Fetch{piece, ""};
    }
  }
  PieceSet taken = have;
  for (const auto& [piece, since] : under_way) taken.Add(piece);
  if (taken.full()) {
    // The last pieces: one that is slow may come from somebody else.
    taken = have;
    for (const auto& [piece, since] : under_way) {
      if (under_way.count(piece) > 1 || absl::Now() - since < kEndgameAfter) taken.Add(piece);
    }
  }
  std::vector<std::pair<int, std::string>> order;  // fetches, address
  for (const auto& [address, peer] : peers) order.emplace_back(peer.fetches, address);
  // Who is asked least comes first; chance decides between equals.
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Uniform(i)]);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [fetches, address] : order) {
    const auto piece = peers[address].pieces.Choose(taken, copies, random);
    if (piece.has_value()) return State::Fetch{*piece, address};
  }
  // Nobody has anything that is missing.
  if (tracked && absl::Now() - last_piece < options.patience) return std::nullopt;
  for (uint32_t piece = 0; piece < have.size(); ++piece) {
    if (!taken.Has(piece)) return State::Fetch{piece, ""};
  }
  return std::nullopt;
}

absl::StatusOr<std::string> SwarmMember::State::Get(const State::Fetch& fetch) {
  return fetch.peer.empty() ? GetFromOrigin(fetch.piece) : GetFromPeer(fetch);
}

absl::StatusOr<std::string> SwarmMember::State::GetFromPeer(const State::Fetch& fetch) {
  std::string bearer;
  {
    MutexLock lock(mu);
    bearer = token;
  }
  return HttpGet(fetch.peer, absl::StrCat(kPiecesPath, fetch.piece), bearer,
                 files->pieces().bytes[fetch.piece], kPeerTimeout,
                 [this](int64_t bytes) { down.Take(bytes); });
}

absl::StatusOr<std::string> SwarmMember::State::GetFromOrigin(uint32_t piece) {
  const PieceList& pieces = files->pieces();
  std::vector<Sha256Digest> ids;
  std::vector<int64_t> offsets;
  int64_t at = 0;
  for (size_t i = pieces.begins[piece]; i < pieces.end(piece); ++i) {
    ids.push_back(pieces.chunks[i].id);
    offsets.push_back(at);
    at += pieces.chunks[i].size;
  }
  std::string bytes(static_cast<size_t>(at), '\0');
  GRAFT_RETURN_IF_ERROR(link.DownloadChunks(
      version, ids, [&](uint32_t index, absl::string_view chunk) -> absl::Status {
        if (chunk.size() != pieces.chunks[pieces.begins[piece] + index].size) {
          return absl::DataLossError("the server sent a chunk of another size");
        }
        down.Take(static_cast<int64_t>(chunk.size()));
        std::copy(chunk.begin(), chunk.end(), bytes.begin() + offsets[index]);
        return absl::OkStatus();
      }));
  return bytes;
}

void SwarmMember::State::Finish(const State::Fetch& fetch,
                                const absl::StatusOr<std::string>& bytes) {
  bool wanted = false;
  {
    MutexLock lock(mu);
    wanted = !have.Has(fetch.piece);
  }
  absl::Status status = bytes.status();
  if (status.ok() && wanted) status = files->Write(fetch.piece, *bytes);
  const auto size = static_cast<int64_t>(bytes.ok() ? bytes->size() : 0);
  std::vector<std::string> accused;
  bool announce = false;
  {
    MutexLock lock(mu);
    under_way.erase(under_way.find(fetch.piece));
    const auto peer = peers.find(fetch.peer);
    if (peer != peers.end()) --peer->second.fetches;
    announce = status.ok() && have.Add(fetch.piece);
    if (announce) {
      last_piece = absl::Now();
      (fetch.peer.empty() ? totals.from_origin : totals.from_peers) += size;
    } else {
      totals.wasted += size;
    }
    if (!status.ok() && fetch.peer.empty() && !IsTransient(status)) failure = status;
    if (!status.ok() && peer != peers.end()) {
      // A liar is never asked again; who was busy or gone, when the tracker names it anew.
      if (absl::IsDataLoss(status)) {
        liars.insert(fetch.peer);
        accused.push_back(fetch.peer);
        peers.erase(peer);
      } else if (absl::IsUnavailable(status)) {
        peers.erase(peer);
      }
    }
    changed.SignalAll();
  }
  if (announce || !accused.empty()) {
    const uint32_t piece[] = {fetch.piece};
    exchange->Send(absl::MakeConstSpan(piece, announce ? 1 : 0), accused);
  }
  if (!announce) return;
  const absl::Status told = meter.Add(size, 0);
  MutexLock lock(mu);
  failure.Update(told);
}

absl::Status SwarmMember::State::Serve(const HttpRequest& request, HttpConnection& connection) {
  const absl::Status status = ServePiece(request, connection);
  if (absl::IsNotFound(status) || absl::IsPermissionDenied(status)) {
    const absl::string_view code = absl::IsNotFound(status) ? "404 Not Found" : "403 Forbidden";
    return connection.Write(absl::StrCat("HTTP/1.1 ", code, "\r\nContent-Length: 0\r\n\r\n"));
  }
  return status;
}

absl::Status SwarmMember::State::ServePiece(const HttpRequest& request,
                                            HttpConnection& connection) {
  absl::string_view bearer = request.Header("authorization");
  absl::string_view number = request.path;
  uint32_t piece = 0;
  {
    MutexLock lock(mu);
    if (!absl::ConsumePrefix(&bearer, "Bearer ") || token.empty() ||
        !ConstantTimeEquals(bearer, token)) {
      return absl::PermissionDeniedError("not of this swarm");
    }
    if (!absl::ConsumePrefix(&number, kPiecesPath) || !absl::SimpleAtoi(number, &piece) ||
        piece >= have.size() || !have.Has(piece)) {
      return absl::NotFoundError("not here");
    }
  }
  GRAFT_ASSIGN_OR_RETURN(const std::string bytes, files->Read(piece));
  GRAFT_RETURN_IF_ERROR(connection.Write(
      absl::StrCat("HTTP/1.1 200 OK\r\nContent-Length: ", bytes.size(), "\r\n\r\n")));
  for (absl::string_view rest = bytes; !rest.empty();) {
    const absl::string_view some = rest.substr(0, kSendBytes);
    up.Take(static_cast<int64_t>(some.size()));
    GRAFT_RETURN_IF_ERROR(connection.Write(some));
    rest.remove_prefix(some.size());
    served += static_cast<int64_t>(some.size());
  }
  return absl::OkStatus();
}

}  // namespace graft::fileservice
