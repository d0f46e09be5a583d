#include "fileservice/service/download_stream.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "fileservice/service/data_stream.h"
#include "fileservice/service/file_reader.h"
#include "fileservice/service/payload.h"
#include "fileservice/transfer/wire.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

constexpr int kMaxRanges = 4096;
// Messages begin small, double while the client takes them at once and shrink when it does not, so
// that a thousand slow readers hold little, and a fast one soon gets the largest.
constexpr size_t kFirstDataBytes = 64 << 10;
// What a client's first window takes says nothing of how fast it is.
constexpr int64_t kUnprovenBytes = 2 * kFirstDataBytes;
constexpr absl::Duration kTakenAtOnce = absl::Milliseconds(250);
constexpr absl::Duration kTakenSlowly = absl::Seconds(2);

class DownloadStream final : public DataStream<RawWriteReactor> {
 public:
  DownloadStream(DataPlane& plane, std::shared_ptr<rpc::Call> call, v1::DownloadRequest request)
      : DataStream(plane, std::move(call)), request_(std::move(request)) {}

  void Start() {
    Begin();
    absl::StatusOr<ResolvedVersion> version =
        ReadableVersion(plane_.catalog, *call_, request_.version());
    if (!version.ok()) return End(version.status());
    if (request_.ranges_size() > kMaxRanges) {
      return End(absl::InvalidArgumentError(
          absl::StrCat(request_.ranges_size(), " ranges asked for; the limit is ", kMaxRanges)));
    }
    version_ = *std::move(version);
    Produce();
  }

 private:
  // One message is read while the one before it is sent, once the client has shown that it takes
  // them fast. `producing_` says that somebody reads; who set it goes on until a message waits or
  // all is read.
  void Produce() {
    {
      MutexLock lock(mu_);
      if (finished_ || producing_ || next_.has_value() || all_read_) return;
      if (writing_ && data_bytes_.load() == kFirstDataBytes) return;
      producing_ = true;
    }
    const size_t capacity = data_bytes_.load();
    const auto read = [this, self = shared_from_this(), capacity] {
      plane_.readers.Post([this, self, capacity] { Read(capacity); });
    };
    if (plane_.budget.Acquire(static_cast<int64_t>(capacity), read)) read();
  }

  void Read(size_t capacity) {
    auto payload = std::make_unique<Payload>(plane_.budget, capacity);
    absl::StatusOr<std::string> head = Fill(*payload);
    if (!head.ok()) return End(head.status());
    grpc::ByteBuffer message = MessageOf(*head, std::move(payload), filled_);
    {
      MutexLock lock(mu_);
      producing_ = false;
      next_ = std::move(message);
      all_read_ = range_ == request_.ranges_size();
    }
    Advance();
  }

  // Sends what waits, unless something is being sent. The next read begins first: to send takes as
  // long as to read.
  void Advance() {
    bool write = false;
    {
      MutexLock lock(mu_);
      if (!writing_ && !next_.has_value() && all_read_) FinishOnce(absl::OkStatus());
      if (finished_) return;
      write = !writing_ && next_.has_value();
      if (write) {
        outgoing_ = *std::move(next_);
        next_.reset();
        writing_ = true;
      }
    }
    Produce();
    if (!write) return;
    MutexLock lock(mu_);
    if (finished_) return;
    write_began_ = plane_.clock.Now();
    StartWrite(&outgoing_);
  }

  absl::Status OpenRange() {
    const v1::FileRange& range = request_.ranges(range_);
    GRAFT_ASSIGN_OR_RETURN(reader_, FileReader::Open(plane_.catalog, plane_.store, version_,
                                                     range.path(), &plane_.cache));
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
    {
      MutexLock lock(mu_);
      const absl::Duration took = plane_.clock.Now() - write_began_;
      const size_t size = data_bytes_.load();
      taken_bytes_ += static_cast<int64_t>(outgoing_.Length());
      if (took < kTakenAtOnce && taken_bytes_ >= kUnprovenBytes) {
        data_bytes_ = std::min(size * 2, kMaxDataBytes);
      } else if (took > kTakenSlowly) {
        data_bytes_ = std::max(size / 2, kFirstDataBytes);
      }
      writing_ = false;
      outgoing_.Clear();
    }
    Advance();
  }

  void OnCancel() override { End(absl::CancelledError("the client has gone away")); }

  const v1::DownloadRequest request_;
  ResolvedVersion version_;

  // Of whoever reads: one at a time.
  int range_ = 0;
  std::unique_ptr<FileReader> reader_;  // of the range that is being read
  int64_t offset_ = 0;
  int64_t end_ = 0;
  size_t filled_ = 0;

  std::atomic<size_t> data_bytes_{kFirstDataBytes};  // of the next message
  grpc::ByteBuffer outgoing_ GRAFT_GUARDED_BY(mu_);
  std::optional<grpc::ByteBuffer> next_ GRAFT_GUARDED_BY(mu_);
  absl::Time write_began_ GRAFT_GUARDED_BY(mu_);
  int64_t taken_bytes_ GRAFT_GUARDED_BY(mu_) = 0;
  bool producing_ GRAFT_GUARDED_BY(mu_) = false;
  bool writing_ GRAFT_GUARDED_BY(mu_) = false;
  bool all_read_ GRAFT_GUARDED_BY(mu_) = false;
};

}  // namespace

RawWriteReactor* StartDownload(DataPlane& plane, std::shared_ptr<rpc::Call> call,
                               const v1::DownloadRequest& request) {
  return StartStream<DownloadStream>(plane, std::move(call), request);
}

}  // namespace graft::fileservice
