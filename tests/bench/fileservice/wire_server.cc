#include "tests/bench/fileservice/wire_server.h"

#include <signal.h>
#include <sys/prctl.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunker.h"
#include "fileservice/service/data_service.h"
#include "fileservice/service/file_intake.h"
#include "fileservice/service/fileset_service.h"
#include "fileservice/service/upload_message.h"
#include "fileservice/transfer/slices.h"
#include "rpc/server.h"
#include "rpc/tls_material.h"

namespace graft::fileservice {
namespace {

constexpr absl::string_view kWorkspace = "bench";

class Everyone final : public rpc::Authenticator {
 public:
  absl::StatusOr<std::shared_ptr<const rpc::Identity>> Authenticate(
      const rpc::Credentials&) override {
    auto identity = std::make_shared<rpc::Identity>();
    identity->kind = rpc::IdentityKind::kUser;
    identity->roles[std::string(rpc::kCluster)] = rpc::Role::kAdmin;
    return identity;
  }
};

// Takes messages apart and acknowledges the last.
class SinkReactor final : public RawBidiReactor {
 public:
  explicit SinkReactor(std::shared_ptr<rpc::Call> call) : call_(std::move(call)) {
    StartRead(&incoming_);
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      grpc::Slice slice(wire::Writer().Varint(1, sequence_).Take());
      outgoing_ = grpc::ByteBuffer(&slice, 1);
      StartWriteAndFinish(&outgoing_, grpc::WriteOptions(),
                          rpc::ToGrpcStatus(call_->Finish(absl::OkStatus())));
      return;
    }
    std::vector<grpc::Slice> slices;
    GRAFT_CHECK(incoming_.Dump(&slices).ok());
    const auto message = ParseUpload(Views(slices));
    GRAFT_CHECK_OK(message.status());
    sequence_ = message->sequence;
    incoming_.Clear();
    StartRead(&incoming_);
  }
  void OnDone() override { delete this; }

  const std::shared_ptr<rpc::Call> call_;  // shared with the server
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;
  uint64_t sequence_ = 0;
};

// Sends as many bytes as were asked for, the same 4 MiB again and again.
class SourceReactor final : public RawWriteReactor {
 public:
  SourceReactor(std::shared_ptr<rpc::Call> call, int64_t bytes, const std::string& content)
      : call_(std::move(call)), bytes_(bytes), content_(content) {
    Next();
  }

 private:
  void Next() {
    if (offset_ == bytes_) return Finish(rpc::ToGrpcStatus(call_->Finish(absl::OkStatus())));
    const auto size = std::min<size_t>(content_.size(), static_cast<size_t>(bytes_ - offset_));
    wire::Writer head;
    head.Varint(v1::DownloadResponse::kOffsetFieldNumber, static_cast<uint64_t>(offset_));
    head.BytesHead(wire::kDataField, size);
    offset_ += static_cast<int64_t>(size);
    const grpc::Slice slices[2] = {grpc::Slice(head.Take()),
                                   grpc::Slice(content_.data(), size, grpc::Slice::STATIC_SLICE)};
    outgoing_ = grpc::ByteBuffer(slices, 2);
    StartWrite(&outgoing_);
  }
  void OnWriteDone(bool ok) override {
    GRAFT_CHECK(ok);
    Next();
  }
  void OnDone() override { delete this; }

  const std::shared_ptr<rpc::Call> call_;  // shared with the server
  const int64_t bytes_;
  const std::string& content_;
  grpc::ByteBuffer outgoing_;
  int64_t offset_ = 0;
};

// The streams without what stands behind them.
class Bare {
 public:
  rpc::Service Bind() {
    rpc::Service service("graft.v1.DataService");
    service.BidiReactor("Upload", this, &Bare::Upload)
        .WriteReactor("Download", this, &Bare::Download);
    return service;
  }
  RawWriteReactor* Download(std::shared_ptr<rpc::Call> call, const v1::DownloadRequest& request) {
    return new SourceReactor(std::move(call), request.ranges(0).length(), content_);
  }
  RawBidiReactor* Upload(std::shared_ptr<rpc::Call> call) {
    return new SinkReactor(std::move(call));
  }

 private:
  const std::string content_ = SeededRandom(3).Bytes(kMaxDataBytes);
};

// Puts the file into the store in chunks of the given cutter and publishes it.
absl::Status PutFile(Catalog& catalog, ChunkStore& store, const std::string& content,
                     Chunker& chunker) {
  SessionRecord session;
  session.workspace = std::string(kWorkspace);
  session.fileset = "stored";
  GRAFT_ASSIGN_OR_RETURN(session, catalog.CreateSession(session, ""));
  FilePage page;
  ChunkStore::Ticket last = 0;
  for (absl::string_view rest = content; !rest.empty();) {
    const size_t size = chunker.Next(rest.substr(0, chunker.max_bytes()));
    const absl::string_view chunk = rest.substr(0, size);
    rest.remove_prefix(size);
    ChunkStore::PutRequest put;
    put.id = Sha256::Of(chunk);
    put.raw = chunk;
    put.verified = true;
    put.session = session.id;
    GRAFT_ASSIGN_OR_RETURN(const ChunkStore::PutResult result, store.Put(put));
    last = std::max(last, result.ticket);
    page.chunks.push_back({put.id, static_cast<uint32_t>(size)});
  }
  GRAFT_RETURN_IF_ERROR(store.WaitDurable(last));
  Entry entry;
  entry.size = static_cast<int64_t>(content.size());
  entry.sha256 = Sha256::Of(absl::StrCat(content, page.chunks.size()));  // a list for each cutter
  GRAFT_RETURN_IF_ERROR(catalog.StageFile(session.id, "file.bin", entry, page));
  PublishRequest publish;
  publish.session = session.id;
  return catalog.Publish(publish).status();
}

absl::Status MakeFilesets(Catalog& catalog, ChunkStore& store, FileSetService& filesets,
                          const std::string& folder, bool stored) {
  FilesetRecord fileset;
  fileset.workspace = std::string(kWorkspace);
  fileset.name = "stored";
  GRAFT_RETURN_IF_ERROR(catalog.CreateFileset(fileset, "").status());
  v1::RegisterInPlaceRequest in_place;
  in_place.set_fileset(absl::StrCat("workspaces/", kWorkspace, "/filesets/in-place"));
  in_place.set_path(JoinPath(folder, "data"));
  rpc::Call call;
  GRAFT_RETURN_IF_ERROR(filesets.RegisterInPlace(call, in_place).status());
  if (!stored) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(const std::string content,
                         ReadFile(JoinPath(folder, "data/file.bin"), int64_t{1} << 40));
  GRAFT_RETURN_IF_ERROR(PutFile(catalog, store, content,
                                *MakeBoundaryChunker({static_cast<int64_t>(content.size())})));
  // Other content, so that its chunks are stored again, behind one another.
  return PutFile(catalog, store, content.substr(1) + "x", *MakeCdc(kContentParameters));
}

absl::Status Serve(const std::string& folder, bool tls) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  RealClock clock;
  SecureRandom random;
  const std::string name = tls ? "tls" : "plain";
  const std::string data = JoinPath(folder, name + ".store");
  GRAFT_RETURN_IF_ERROR(MakeDirectories(data));
  GRAFT_ASSIGN_OR_RETURN(
      const auto db,
      Database::Open(JoinPath(data, "index"), {.watermark_dir = JoinPath(data, "watermark")}));
  ChunkStore::Options store_options;
  store_options.directory = JoinPath(data, "packs");
  GRAFT_ASSIGN_OR_RETURN(const auto store,
                         ChunkStore::Open(*db, RealFiles(), clock, store_options));
  Catalog catalog(*db, *store, clock, random, {});
  GRAFT_RETURN_IF_ERROR(catalog.Open());
  ByteBudget budget(int64_t{1} << 30);
  StallWatch watch(clock, absl::Seconds(30));
  ChunkCache cache(128 << 20);
  IntakeTable intakes;
  VerifiedFiles verified;
  DataPlane plane{catalog, *store, budget, watch, clock, cache, intakes, verified};
  FileSetService filesets(catalog, {{folder}});
  DataService service(plane);
  GRAFT_RETURN_IF_ERROR(MakeFilesets(catalog, *store, filesets, folder, !tls));

  Everyone everyone;
  rpc::ServerOptions options;
  options.authenticator = &everyone;
  options.bulk_data = true;
  options.insecure = !tls;
  if (tls) {
    rpc::CertificateRequest request;
    request.common_name = "localhost";
    request.names = {"localhost", "127.0.0.1"};
    request.not_before = absl::Now() - absl::Hours(1);
    GRAFT_ASSIGN_OR_RETURN(const auto authority, rpc::MakeAuthority(request));
    GRAFT_ASSIGN_OR_RETURN(const auto certificate, rpc::MakeCertificate(authority, request));
    options.tls = {certificate.certificate, certificate.private_key};
    GRAFT_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(folder, "ca.pem"), authority.certificate));
  }
  const auto start = [&](auto&... bound) {
    std::vector<rpc::Service> services;
    (services.push_back(bound.Bind()), ...);
    return rpc::Server::Start(options, std::move(services));
  };
  Bare bare;
  GRAFT_ASSIGN_OR_RETURN(const auto server, start(filesets, service));
  GRAFT_ASSIGN_OR_RETURN(const auto bare_server, start(bare));
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(
      JoinPath(folder, name), absl::StrCat(server->port(), " ", bare_server->port(), "\n")));
  int signal = 0;
  sigwait(&signals, &signal);
  return absl::OkStatus();
}

}  // namespace

int ServeForBench(const std::string& folder, bool tls) {
  ConfigureLog(LogLevel::kError, LogFormat::kAuto, "wire_server");
  const absl::Status status = Serve(folder, tls);
  if (status.ok()) return 0;
  std::fprintf(stderr, "wire_server: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace graft::fileservice
