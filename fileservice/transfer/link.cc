#include "fileservice/transfer/link.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fileservice/transfer/slices.h"
#include "fileservice/transfer/stall_watch.h"
#include "fileservice/transfer/wire.h"
#include "graft/v1/data.grpc.pb.h"
#include "graft/v1/fileset.grpc.pb.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/sync_stream.h"
#include "rpc/client.h"

namespace graft::fileservice {
namespace {

constexpr int kListPageSize = 1000;
constexpr size_t kStageBatchChunks = 16384;
constexpr absl::Duration kLongCall = absl::Minutes(10);  // publishing a very large version

absl::string_view Bytes(const Sha256Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

// A call that is cancelled when nothing moves.
class WatchedContext final : public Watched {
 public:
  void OnStall() override {
    stalled_ = true;
    context.TryCancel();
  }
  // What the call ended with, said as what it was.
  absl::Status Explain(const grpc::Status& status) const {
    if (stalled_) return absl::AbortedError("the server sent nothing for too long");
    return rpc::FromGrpcStatus(status);
  }
  grpc::ClientContext context;

 private:
  std::atomic<bool> stalled_{false};
};

v1::ChunkProfile ToMessage(ChunkProfile profile) {
  if (profile == ChunkProfile::kSafetensors) return v1::CHUNK_PROFILE_SAFETENSORS;
  return profile == ChunkProfile::kText ? v1::CHUNK_PROFILE_TEXT : v1::CHUNK_PROFILE_CDC;
}

// The chunk's bytes where they lie, kept by the slice.
grpc::Slice Borrowed(const OutgoingChunk& chunk) {
  using Owner = std::shared_ptr<const void>;
  return grpc::Slice(
      const_cast<char*>(chunk.bytes.data()), chunk.bytes.size(),
      [](void* owner) { delete static_cast<Owner*>(owner); }, new Owner(chunk.owner));
}

class RawUpload final : public UploadCall {
 public:
  using Stream = grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>;

  RawUpload(Clock& clock, std::shared_ptr<WatchedContext> context, std::unique_ptr<Stream> stream,
            std::string session)
      : clock_(clock),
        context_(std::move(context)),
        stream_(std::move(stream)),
        session_(std::move(session)) {}
  ~RawUpload() override {
    if (finished_) return;
    context_->context.TryCancel();
    stream_->Finish();
  }

  absl::Status Send(absl::Span<const OutgoingChunk> chunks) override {
    std::vector<uint32_t> sizes;
    std::vector<uint32_t> held;
    std::string ids;
    size_t total = 0;
    for (const OutgoingChunk& chunk : chunks) {
      if (chunk.held) held.push_back(static_cast<uint32_t>(sizes.size()));
      sizes.push_back(static_cast<uint32_t>(chunk.bytes.size()));
      ids.append(Bytes(chunk.id).data(), sizeof(Sha256Digest));
      if (!chunk.held) total += chunk.bytes.size();
    }
    wire::Writer head;
    if (sequence_ == 0) head.Bytes(v1::UploadRequest::kSessionFieldNumber, session_);
    head.Varint(v1::UploadRequest::kSequenceFieldNumber, ++sequence_);
    head.PackedVarints(v1::UploadRequest::kChunkSizesFieldNumber, sizes);
    head.Bytes(v1::UploadRequest::kChunkIdsFieldNumber, ids);
    head.PackedVarints(v1::UploadRequest::kHeldFieldNumber, held);
    if (total > 0) head.BytesHead(wire::kDataField, total);
    std::vector<grpc::Slice> slices = {grpc::Slice(head.Take())};
    for (const OutgoingChunk& chunk : chunks) {
      if (!chunk.held) slices.push_back(Borrowed(chunk));
    }
    const grpc::ByteBuffer message(slices.data(), slices.size());
    if (!stream_->Write(message)) return Finish();
    context_->Touch(clock_);
    return absl::OkStatus();
  }

  absl::Status Finish() override {
    if (finished_) return absl::FailedPreconditionError("the upload has ended");
    finished_ = true;
    stream_->WritesDone();
    grpc::ByteBuffer message;
    uint64_t durable = 0;
    while (stream_->Read(&message)) {
      context_->Touch(clock_);
      grpc::Slice slice;
      if (!message.DumpToSingleSlice(&slice).ok()) break;
      const absl::string_view bytes(reinterpret_cast<const char*>(slice.begin()), slice.size());
      GRAFT_RETURN_IF_ERROR(wire::Parse(bytes, [&](const wire::Field& field) {
        if (field.number == v1::UploadResponse::kDurableSequenceFieldNumber) durable = field.varint;
      }));
    }
    GRAFT_RETURN_IF_ERROR(context_->Explain(stream_->Finish()));
    if (durable == sequence_) return absl::OkStatus();
    return absl::UnavailableError("the upload ended before all of it was acknowledged");
  }

 private:
  Clock& clock_;
  const std::shared_ptr<WatchedContext> context_;  // shared with the watch
  const std::unique_ptr<Stream> stream_;
  const std::string session_;
  uint64_t sequence_ = 0;
  bool finished_ = false;
};

class RealExchange final : public ExchangeCall {
 public:
  using Stream = grpc::ClientReaderWriter<v1::ExchangePiecesRequest, v1::ExchangePiecesResponse>;

  RealExchange(std::unique_ptr<grpc::ClientContext> context, std::unique_ptr<Stream> stream,
               std::function<void(const News&)> take, std::function<void(absl::Status)> ended)
      : context_(std::move(context)), stream_(std::move(stream)) {
    reader_ = std::thread([this, take = std::move(take), ended = std::move(ended)] {
      v1::ExchangePiecesResponse response;
      while (stream_->Read(&response)) take(NewsOf(response));
      ended(rpc::FromGrpcStatus(stream_->Finish()));
    });
  }
  ~RealExchange() override {
    context_->TryCancel();
    reader_.join();
  }

  bool Send(absl::Span<const uint32_t> completed, absl::Span<const std::string> liars) override {
    v1::ExchangePiecesRequest request;
    request.mutable_completed()->Add(completed.begin(), completed.end());
    for (const std::string& liar : liars) request.add_liars(liar);
    MutexLock lock(mu_);
    return stream_->Write(request);
  }
  bool Join(const std::string& version, const std::string& address) {
    v1::ExchangePiecesRequest request;
    request.set_version(version);
    request.set_address(address);
    MutexLock lock(mu_);
    return stream_->Write(request);
  }

 private:
  static News NewsOf(const v1::ExchangePiecesResponse& response) {
    News news;
    for (const auto& peer : response.peers())
      news.peers.emplace_back(peer.address(), peer.pieces());
    news.from_origin.assign(response.from_origin().begin(), response.from_origin().end());
    news.gone.assign(response.gone().begin(), response.gone().end());
    news.token = response.peer_token();
    return news;
  }

  const std::unique_ptr<grpc::ClientContext> context_;
  const std::unique_ptr<Stream> stream_;
  Mutex mu_;  // one writes at a time
  std::thread reader_;
};

class RealLink final : public Link {
 public:
  explicit RealLink(const Client::Options& options)
      : watch_(clock_, options.stall_timeout),
        tokens_(clock_,
                [token = options.token]() -> absl::StatusOr<rpc::AccessToken> {
                  // A server that asks for no token (--no-auth) still wants to see a caller.
                  if (token == nullptr) return rpc::AccessToken{"local"};
                  GRAFT_ASSIGN_OR_RETURN(std::string text, token());
                  return rpc::AccessToken{std::move(text), absl::InfinitePast()};
                }),
        upload_method_("/graft.v1.DataService/Upload", grpc::internal::RpcMethod::BIDI_STREAMING),
        download_method_("/graft.v1.DataService/Download",
                         grpc::internal::RpcMethod::SERVER_STREAMING) {}

  absl::Status Open(const Client::Options& options) {
    rpc::DialOptions dial;
    dial.address = options.address;
    dial.insecure = options.insecure;
    dial.server_ca = options.root_certificates;
    dial.client_certificate = options.client_certificate;
    dial.client_key = options.client_key;
    if (options.token != nullptr || options.insecure) dial.tokens = &tokens_;
    dial.bulk_data = true;
    GRAFT_ASSIGN_OR_RETURN(connection_, rpc::Connection::Dial(dial));
    data_ = v1::DataService::NewStub(connection_->channel());
    filesets_ = v1::FileSetService::NewStub(connection_->channel());
    return absl::OkStatus();
  }

  absl::Status CreateFileset(const std::string& fileset, int purpose) override {
    const size_t at = fileset.find("/filesets/");
    if (at == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", fileset, "\" is no fileset: workspaces/{w}/filesets/{f}"));
    }
    v1::GetFileSetRequest get;
    get.set_name(fileset);
    absl::Status status = connection_
                              ->Call<v1::FileSet>(*filesets_, &v1::FileSetService::Stub::GetFileSet,
                                                  get, {.idempotent = true})
                              .status();
    if (!absl::IsNotFound(status)) return status;
    v1::CreateFileSetRequest request;
    request.set_parent(fileset.substr(0, at));
    request.set_fileset_id(fileset.substr(at + 10));
    request.mutable_fileset()->set_purpose(static_cast<v1::FileSetPurpose>(purpose));
    status = connection_
                 ->Call<v1::FileSet>(*filesets_, &v1::FileSetService::Stub::CreateFileSet, request)
                 .status();
    return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
  }

  absl::StatusOr<std::string> CreateSession(const std::string& fileset,
                                            const UploadOptions& options, bool fenced) override {
    v1::CreateUploadSessionRequest request;
    request.set_parent(fileset);
    if (!options.base_version.empty()) {
      request.mutable_upload_session()->set_base_version(
          absl::StrCat(fileset, "/versions/", options.base_version));
    }
    request.mutable_upload_session()->set_fenced(fenced);
    SecureRandom random;
    request.set_request_id(random.Id(32));
    GRAFT_ASSIGN_OR_RETURN(
        const auto session,
        connection_->Call<v1::UploadSession>(*data_, &v1::DataService::Stub::CreateUploadSession,
                                             request, {.idempotent = true}));
    return session.name();
  }

  absl::StatusOr<bool> IsSessionOpen(const std::string& session) override {
    v1::GetUploadSessionRequest request;
    request.set_name(session);
    GRAFT_ASSIGN_OR_RETURN(const auto found, connection_->Call<v1::UploadSession>(
                                                 *data_, &v1::DataService::Stub::GetUploadSession,
                                                 request, {.idempotent = true}));
    return found.state() == v1::UploadSession::STATE_OPEN;
  }

  absl::Status AbortSession(const std::string& session) override {
    v1::AbortUploadSessionRequest request;
    request.set_name(session);
    return connection_
        ->Call<google::protobuf::Empty>(*data_, &v1::DataService::Stub::AbortUploadSession, request,
                                        {.idempotent = true})
        .status();
  }

  absl::StatusOr<std::vector<uint32_t>> FindMissing(const std::string& session,
                                                    absl::Span<const Sha256Digest> ids) override {
    v1::FindMissingRequest request;
    request.set_session(session);
    for (const Sha256Digest& id : ids) {
      request.mutable_chunk_ids()->append(Bytes(id).data(), sizeof(id));
    }
    GRAFT_ASSIGN_OR_RETURN(const auto response, connection_->Call<v1::FindMissingResponse>(
                                                    *data_, &v1::DataService::Stub::FindMissing,
                                                    request, {.idempotent = true}));
    return std::vector<uint32_t>(response.missing().begin(), response.missing().end());
  }

  std::unique_ptr<UploadCall> Upload(const std::string& session) override {
    auto context = std::make_shared<WatchedContext>();
    // A call without credentials is refused by the server, which says why.
    connection_->Prepare(context->context).IgnoreError();
    watch_.Watch(context);
    std::unique_ptr<RawUpload::Stream> stream(
        grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(
            connection_->channel().get(), upload_method_, &context->context));
    return std::make_unique<RawUpload>(clock_, std::move(context), std::move(stream), session);
  }

  absl::Status Stage(const std::string& session, absl::Span<const LocalFile> files) override {
    auto context = std::make_shared<WatchedContext>();
    GRAFT_RETURN_IF_ERROR(connection_->Prepare(context->context));
    // The server hashes while this waits, so nothing but its own deadline watches it.
    context->context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(6));
    v1::StageFilesResponse response;
    const auto stream = data_->StageFiles(&context->context, &response);
    v1::StageFilesRequest request;
    request.set_session(session);
    size_t held = 0;
    const auto flush = [&] {
      const bool sent = stream->Write(request);
      request.Clear();
      held = 0;
      return sent;
    };
    bool sent = true;
    for (const LocalFile& file : files) {
      size_t at = 0;
      do {
        const size_t end = std::min(file.chunks.size(), at + kStageBatchChunks);
        v1::FileManifest& manifest = *request.add_files();
        manifest.mutable_file()->set_path(file.path);
        manifest.mutable_file()->set_size(file.size);
        manifest.mutable_file()->set_executable(file.executable);
        manifest.set_profile(ToMessage(file.profile));
        manifest.set_first_chunk(static_cast<int64_t>(at));
        manifest.set_chunk_count(static_cast<int64_t>(file.chunks.size()));
        for (; at < end; ++at) {
          manifest.add_chunk_sizes(file.chunks[at].second);
          manifest.mutable_chunk_ids()->append(Bytes(file.chunks[at].first).data(),
                                               sizeof(Sha256Digest));
        }
        held += manifest.chunk_sizes_size() + 1;
        if (held >= kStageBatchChunks) sent = flush();
      } while (sent && at < file.chunks.size());
      if (!sent) break;
    }
    if (sent && held > 0) flush();
    stream->WritesDone();
    return context->Explain(stream->Finish());
  }

  absl::StatusOr<Published> Publish(const std::string& session, const UploadOptions& options,
                                    const std::string& pin_holder) override {
    v1::PublishRequest request;
    request.set_session(session);
    if (options.expected_latest.has_value()) request.set_expected_latest(*options.expected_latest);
    request.set_ref(options.ref);
    request.set_message(options.message);
    for (const auto& [key, value] : options.labels) (*request.mutable_labels())[key] = value;
    request.set_pin_holder(pin_holder);
    GRAFT_ASSIGN_OR_RETURN(const auto version, connection_->Call<v1::FileSetVersion>(
                                                   *data_, &v1::DataService::Stub::Publish, request,
                                                   {.deadline = kLongCall, .idempotent = true}));
    return Published{version.name(), version.digest(), version.number(), Progress()};
  }

  absl::StatusOr<std::string> ResolveVersion(const std::string& version) override {
    v1::GetFileSetVersionRequest request;
    request.set_name(version);
    GRAFT_ASSIGN_OR_RETURN(const auto response,
                           connection_->Call<v1::FileSetVersion>(
                               *filesets_, &v1::FileSetService::Stub::GetFileSetVersion, request,
                               {.idempotent = true}));
    return response.name();
  }

  absl::StatusOr<std::vector<RemoteFile>> ListFiles(const std::string& version,
                                                    absl::string_view path_prefix) override {
    v1::ListFilesRequest request;
    request.set_parent(version);
    request.set_path_prefix(std::string(path_prefix));
    request.set_page_size(kListPageSize);
    std::vector<RemoteFile> files;
    do {
      GRAFT_ASSIGN_OR_RETURN(
          const auto response,
          connection_->Call<v1::ListFilesResponse>(*filesets_, &v1::FileSetService::Stub::ListFiles,
                                                   request, {.idempotent = true}));
      for (const v1::FileEntry& file : response.files()) {
        files.push_back({file.path(), file.size(), ToHex(file.sha256()), file.executable()});
      }
      request.set_page_token(response.next_page_token());
    } while (!request.page_token().empty());
    return files;
  }

  absl::StatusOr<std::vector<LocalFile>> GetManifest(const std::string& version) override {
    v1::GetManifestRequest request;
    request.set_version(version);
    std::vector<LocalFile> files;
    do {
      GRAFT_ASSIGN_OR_RETURN(const auto page, connection_->Call<v1::GetManifestResponse>(
                                                  *data_, &v1::DataService::Stub::GetManifest,
                                                  request, {.idempotent = true}));
      for (const v1::FileManifest& part : page.files()) {
        GRAFT_RETURN_IF_ERROR(TakeManifest(part, files));
      }
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
    return files;
  }

  absl::Status DownloadChunks(
      const std::string& version, absl::Span<const Sha256Digest> ids,
      const std::function<absl::Status(uint32_t, absl::string_view)>& take) override {
    auto context = std::make_shared<WatchedContext>();
    GRAFT_RETURN_IF_ERROR(connection_->Prepare(context->context));
    watch_.Watch(context);
    v1::DownloadChunksRequest request;
    request.set_version(version);
    for (const Sha256Digest& id : ids) {
      request.mutable_chunk_ids()->append(Bytes(id).data(), sizeof(id));
    }
    const auto stream = data_->DownloadChunks(&context->context, request);
    v1::DownloadChunksResponse message;
    absl::Status taken;
    size_t received = 0;
    while (taken.ok() && stream->Read(&message)) {
      context->Touch(clock_);
      absl::string_view data = message.data();
      for (int i = 0; i < message.indexes_size() && taken.ok(); ++i) {
        const size_t size = i < message.chunk_sizes_size() ? message.chunk_sizes(i) : SIZE_MAX;
        if (size > data.size() || message.indexes(i) >= ids.size()) {
          taken = absl::InternalError("a message of DownloadChunks does not add up");
          break;
        }
        taken = take(message.indexes(i), data.substr(0, size));
        data.remove_prefix(size);
        ++received;
      }
    }
    if (!taken.ok()) {
      context->context.TryCancel();
      stream->Finish();
      return taken;
    }
    GRAFT_RETURN_IF_ERROR(context->Explain(stream->Finish()));
    if (received == ids.size()) return absl::OkStatus();
    return absl::UnavailableError("the server ended before it had sent all chunks");
  }

  std::unique_ptr<ExchangeCall> Exchange(const std::string& version, const std::string& address,
                                         std::function<void(const ExchangeCall::News&)> take,
                                         std::function<void(absl::Status)> ended) override {
    auto context = std::make_unique<grpc::ClientContext>();
    connection_->Prepare(*context).IgnoreError();  // the server says why it refuses
    auto stream = data_->ExchangePieces(context.get());
    auto call = std::make_unique<RealExchange>(std::move(context), std::move(stream),
                                               std::move(take), std::move(ended));
    call->Join(version, address);
    return call;
  }

  absl::Status Download(const std::string& version, const std::string& path, int64_t offset,
                        int64_t length,
                        const std::function<absl::Status(const Piece&)>& take) override {
    auto context = std::make_shared<WatchedContext>();
    GRAFT_RETURN_IF_ERROR(connection_->Prepare(context->context));
    watch_.Watch(context);
    v1::DownloadRequest request;
    request.set_version(version);
    v1::FileRange& range = *request.add_ranges();
    range.set_path(path);
    range.set_offset(offset);
    range.set_length(length);
    grpc::Slice request_slice(request.SerializeAsString());
    const grpc::ByteBuffer request_bytes(&request_slice, 1);
    const std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> stream(
        grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(
            connection_->channel().get(), download_method_, &context->context, request_bytes));
    grpc::ByteBuffer message;
    absl::Status taken;
    int64_t received = 0;
    while (taken.ok() && stream->Read(&message)) {
      context->Touch(clock_);
      taken = TakePiece(message, offset + received, received, take);
    }
    if (!taken.ok()) {
      context->context.TryCancel();
      stream->Finish();
      return taken;
    }
    GRAFT_RETURN_IF_ERROR(context->Explain(stream->Finish()));
    if (received == length) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("the server ended \"", path, "\" after ", received, " of ", length, " bytes"));
  }

 private:
  // A file may come in parts, in pages that follow one another.
  static absl::Status TakeManifest(const v1::FileManifest& part, std::vector<LocalFile>& files) {
    const std::string& ids = part.chunk_ids();
    const auto count = static_cast<size_t>(part.chunk_sizes_size());
    if (ids.size() != count * sizeof(Sha256Digest) ||
        part.file().sha256().size() != sizeof(Sha256Digest)) {
      return absl::InternalError("the server's manifest does not add up");
    }
    if (files.empty() || files.back().path != part.file().path()) {
      LocalFile file;
      file.path = part.file().path();
      file.size = part.file().size();
      std::memcpy(file.sha256.data(), part.file().sha256().data(), sizeof(Sha256Digest));
      file.executable = part.file().executable();
      files.push_back(std::move(file));
    }
    for (size_t i = 0; i < count; ++i) {
      Sha256Digest id;
      std::memcpy(id.data(), ids.data() + i * sizeof(id), sizeof(id));
      files.back().chunks.emplace_back(id, part.chunk_sizes(static_cast<int>(i)));
    }
    return absl::OkStatus();
  }

  static absl::Status TakePiece(const grpc::ByteBuffer& message, int64_t expected_offset,
                                int64_t& received,
                                const std::function<absl::Status(const Piece&)>& take) {
    std::vector<grpc::Slice> slices;
    if (!message.Dump(&slices).ok()) {
      return absl::InternalError("a message of a download cannot be read");
    }
    GRAFT_ASSIGN_OR_RETURN(const wire::SplitMessage split, wire::Split(Views(slices)));
    int64_t offset = 0;
    GRAFT_RETURN_IF_ERROR(wire::Parse(split.rest, [&](const wire::Field& field) {
      if (field.number == v1::DownloadResponse::kOffsetFieldNumber) {
        offset = static_cast<int64_t>(field.varint);
      }
    }));
    if (offset != expected_offset) {
      return absl::InternalError(
          absl::StrCat("the server sent offset ", offset, " where ", expected_offset, " was due"));
    }
    for (const absl::string_view bytes : split.data) {
      GRAFT_RETURN_IF_ERROR(take({offset, bytes}));
      offset += static_cast<int64_t>(bytes.size());
    }
    received += static_cast<int64_t>(split.data_bytes);
    return absl::OkStatus();
  }

  RealClock clock_;
  StallWatch watch_;
  rpc::TokenSource tokens_;
  const grpc::internal::RpcMethod upload_method_;
  const grpc::internal::RpcMethod download_method_;
  std::unique_ptr<rpc::Connection> connection_;
  std::unique_ptr<v1::DataService::Stub> data_;
  std::unique_ptr<v1::FileSetService::Stub> filesets_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Link>> Link::Dial(const Client::Options& options) {
  auto link = std::make_unique<RealLink>(options);
  GRAFT_RETURN_IF_ERROR(link->Open(options));
  return link;
}

}  // namespace graft::fileservice
