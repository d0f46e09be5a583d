#include "fileservice/service/download_stream.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "fileservice/service/file_reader.h"
#include "fileservice/transfer/wire.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

constexpr int kMaxRanges = 4096;
// Messages begin small and double while the client takes them, so that a thousand slow readers hold
// little, and a fast one soon gets the largest.
constexpr size_t kFirstDataBytes = 64 << 10;

// Memory that is given back to the budget when gRPC has sent it.
struct Payload {
  Payload(ByteBudget& budget, size_t capacity)
      : budget(budget), capacity(capacity), data(static_cast<char*>(std::malloc(capacity))) {
    GRAFT_CHECK(data != nullptr);
  }
  ~Payload() {
    std::free(data);
    budget.Release(static_cast<int64_t>(capacity));
  }
  static void Destroy(void* payload) { delete static_cast<Payload*>(payload); }

  ByteBudget& budget;
  const size_t capacity;
  char* const data;
};

class DownloadStream final : public RawWriteReactor,
                             public Watched,
                             public std::enable_shared_from_this<DownloadStream> {
 public:
  DownloadStream(DataPlane& plane, std::shared_ptr<rpc::Call> call, v1::DownloadRequest request)
      : plane_(plane), call_(std::move(call)), request_(std::move(request)) {}

  void Start() {
    self_ = shared_from_this();
    plane_.watch.Watch(self_);
    absl::StatusOr<ResolvedVersion> version =
        ReadableVersion(plane_.catalog, *call_, request_.version());
    if (!version.ok()) return End(version.status());
    if (request_.ranges_size() > kMaxRanges) {
      return End(absl::InvalidArgumentError(
          absl::StrCat(request_.ranges_size(), " ranges asked for; the limit is ", kMaxRanges)));
    }
    version_ = *std::move(version);
    Advance();
  }

  void OnStall() override { End(StalledError(absl::Seconds(30))); }

 private:
  // Sends the next message, once there is memory for it.
  void Advance() {
    if (range_ == request_.ranges_size()) return End(absl::OkStatus());
    const size_t capacity = data_bytes_;
    auto self = shared_from_this();
    if (plane_.budget.Acquire(static_cast<int64_t>(capacity),
                              [self, capacity] { self->Send(capacity); })) {
      Send(capacity);
    }
  }

  void Send(size_t capacity) {
    auto payload = std::make_unique<Payload>(plane_.budget, capacity);
    absl::StatusOr<std::string> head = Fill(*payload);
    if (!head.ok()) return End(head.status());
    MutexLock lock(mu_);
    if (finished_) return;
    grpc::Slice slices[2] = {grpc::Slice(*head), grpc::Slice()};
    if (filled_ > 0) {
      Payload* raw = payload.release();
      slices[1] = grpc::Slice(raw->data, filled_, &Payload::Destroy, raw);
    }
    outgoing_ = grpc::ByteBuffer(slices, filled_ > 0 ? 2 : 1);
    StartWrite(&outgoing_);
  }

  absl::Status OpenRange() {
    const v1::FileRange& range = request_.ranges(range_);
    GRAFT_ASSIGN_OR_RETURN(reader_,
                           FileReader::Open(plane_.catalog, plane_.store, version_, range.path()));
    const int64_t size = reader_->entry().size;
    offset_ = range.offset();
    const int64_t length = range.has_length() ? range.length() : size - range.offset();
    if (offset_ < 0 || offset_ > size || length < 0 || length > size - offset_) {
      return rpc::ErrorBuilder(absl::StatusCode::kOutOfRange,
                               absl::StrCat("\"", range.path(), "\" has ", size,
                                            " bytes: no range of ", length, " from ", offset_))
          .Reason("RANGE_INVALID")
          .Metadata("path", range.path())
          .Metadata("size", absl::StrCat(size))
          .Build();
    }
    end_ = offset_ + length;
    return absl::OkStatus();
  }

  // Reads the next bytes and returns the head of their message.
  absl::StatusOr<std::string> Fill(Payload& payload) {
    const bool first = reader_ == nullptr;
    if (first) GRAFT_RETURN_IF_ERROR(OpenRange());
    filled_ = 0;
    const size_t wanted = static_cast<size_t>(
        std::min<int64_t>(static_cast<int64_t>(payload.capacity), end_ - offset_));
    if (wanted > 0) {
      GRAFT_ASSIGN_OR_RETURN(filled_, reader_->ReadSome(offset_, wanted, payload.data));
    }
    wire::Writer head;
    head.Varint(v1::DownloadResponse::kRangeFieldNumber, static_cast<uint64_t>(range_));
    head.Varint(v1::DownloadResponse::kOffsetFieldNumber, static_cast<uint64_t>(offset_));
    if (first) {
      head.Varint(v1::DownloadResponse::kFileSizeFieldNumber,
                  static_cast<uint64_t>(reader_->entry().size));
      head.Bytes(v1::DownloadResponse::kSha256FieldNumber, BytesOf(reader_->entry().sha256));
    }
    if (filled_ > 0) head.BytesHead(wire::kDataField, filled_);
    offset_ += static_cast<int64_t>(filled_);
    if (offset_ == end_) {
      reader_.reset();
      ++range_;
    }
    return head.Take();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the client has gone away"));
    Touch(plane_.clock);
    data_bytes_ = std::min(data_bytes_ * 2, kMaxDataBytes);
    Advance();
  }

  void OnCancel() override { End(absl::CancelledError("the client has gone away")); }

  void End(const absl::Status& status) {
    MutexLock lock(mu_);
    if (std::exchange(finished_, true)) return;
    Finish(rpc::ToGrpcStatus(call_->Finish(status)));
  }

  void OnDone() override { const std::shared_ptr<DownloadStream> self = std::move(self_); }

  DataPlane& plane_;
  const std::shared_ptr<rpc::Call> call_;  // shared with the server
  const v1::DownloadRequest request_;
  std::shared_ptr<DownloadStream> self_;  // gRPC's reference, until OnDone
  ResolvedVersion version_;

  // Of whoever sends: one at a time.
  int range_ = 0;
  std::unique_ptr<FileReader> reader_;  // of the range that is being sent
  int64_t offset_ = 0;
  int64_t end_ = 0;
  size_t filled_ = 0;
  size_t data_bytes_ = kFirstDataBytes;

  Mutex mu_;
  grpc::ByteBuffer outgoing_ GRAFT_GUARDED_BY(mu_);
  bool finished_ GRAFT_GUARDED_BY(mu_) = false;
};

}  // namespace

RawWriteReactor* StartDownload(DataPlane& plane, std::shared_ptr<rpc::Call> call,
                               const v1::DownloadRequest& request) {
  auto stream = std::make_shared<DownloadStream>(plane, std::move(call), request);
  stream->Start();
  return stream.get();
}

}  // namespace graft::fileservice
