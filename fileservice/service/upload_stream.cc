#include "fileservice/service/upload_stream.h"

#include <algorithm>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "fileservice/transfer/wire.h"
#include "graft/v1/data.pb.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

struct UploadMessage {
  absl::string_view session;
  uint64_t sequence = 0;
  uint64_t encoding = 0;
  std::vector<uint32_t> sizes;
  absl::string_view ids;
  absl::string_view data;
};

absl::StatusOr<UploadMessage> ParseUpload(absl::string_view bytes) {
  UploadMessage message;
  absl::Status malformed;
  GRAFT_RETURN_IF_ERROR(wire::Parse(bytes, [&](const wire::Field& field) {
    switch (field.number) {
      case v1::UploadRequest::kSessionFieldNumber:
        message.session = field.bytes;
        break;
      case v1::UploadRequest::kSequenceFieldNumber:
        message.sequence = field.varint;
        break;
      case v1::UploadRequest::kEncodingFieldNumber:
        message.encoding = field.varint;
        break;
      case v1::UploadRequest::kChunkSizesFieldNumber:
        malformed.Update(wire::ParseVarints(field, message.sizes));
        break;
      case v1::UploadRequest::kChunkIdsFieldNumber:
        message.ids = field.bytes;
        break;
      case v1::UploadRequest::kDataFieldNumber:
        message.data = field.bytes;
        break;
      default:
        break;
    }
  }));
  GRAFT_RETURN_IF_ERROR(malformed);
  if (message.ids.size() != message.sizes.size() * sizeof(ChunkId)) {
    return absl::InvalidArgumentError(absl::StrCat("an upload names ", message.sizes.size(),
                                                   " chunk sizes and ", message.ids.size(),
                                                   " bytes of ids: 32 are needed for each"));
  }
  uint64_t total = 0;
  for (const uint32_t size : message.sizes) total += size;
  if (total != message.data.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("an upload says ", total, " bytes and has ", message.data.size()));
  }
  return message;
}

class UploadStream final : public RawBidiReactor,
                           public Watched,
                           public std::enable_shared_from_this<UploadStream> {
 public:
  UploadStream(DataPlane& plane, std::shared_ptr<rpc::Call> call)
      : plane_(plane), call_(std::move(call)) {}

  void Start() {
    self_ = shared_from_this();
    plane_.watch.Watch(self_);
    StartRead(&incoming_);
  }

  void OnStall() override { Fail(StalledError(absl::Seconds(30))); }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      ChunkStore::Ticket last = 0;
      {
        MutexLock lock(mu_);
        read_closed_ = true;
        last = last_ticket_;
        MaybeFinish();
      }
      plane_.store.Hurry(last);
      return;
    }
    Touch(plane_.clock);
    const auto bytes = static_cast<int64_t>(incoming_.Length());
    auto self = shared_from_this();
    if (plane_.budget.Acquire(bytes, [self, bytes] { self->Process(bytes); })) Process(bytes);
  }

  void Process(int64_t bytes) {
    const absl::Status status = TakeMessage();
    plane_.budget.Release(bytes);
    if (!status.ok()) {
      Fail(status);
      return;
    }
    incoming_.Clear();
    MutexLock lock(mu_);
    if (!finished_) StartRead(&incoming_);
  }

  absl::Status TakeMessage() {
    grpc::Slice slice;
    if (!incoming_.DumpToSingleSlice(&slice).ok()) {
      return absl::InternalError("an upload message cannot be read");
    }
    const absl::string_view bytes(reinterpret_cast<const char*>(slice.begin()), slice.size());
    GRAFT_ASSIGN_OR_RETURN(const UploadMessage message, ParseUpload(bytes));
    if (session_.empty()) {
      GRAFT_ASSIGN_OR_RETURN(const SessionRecord session,
                             UsableSession(plane_.catalog, *call_, message.session));
      session_ = session.id;
      stored_ = session.stored_bytes;
    }
    if (message.encoding > v1::ENCODING_IDENTITY) {
      return absl::UnimplementedError("uploads take raw bytes: encoding IDENTITY");
    }
    if (message.sequence != next_sequence_) {
      return absl::InvalidArgumentError(absl::StrCat("the message has sequence ", message.sequence,
                                                     ", expected was ", next_sequence_));
    }
    ++next_sequence_;
    GRAFT_ASSIGN_OR_RETURN(const ChunkStore::Ticket ticket, PutAll(message));
    {
      MutexLock lock(mu_);
      last_ticket_ = ticket;
      ++undecided_;
    }
    auto self = shared_from_this();
    plane_.store.OnDurable(ticket, [self, sequence = message.sequence](absl::Status status) {
      self->OnDurable(sequence, status);
    });
    return absl::OkStatus();
  }

  absl::StatusOr<ChunkStore::Ticket> PutAll(const UploadMessage& message) {
    ChunkStore::Ticket ticket = 0;
    size_t at = 0;
    for (size_t i = 0; i < message.sizes.size(); ++i) {
      ChunkStore::PutRequest put;
      put.id = DigestFromBytes(message.ids.substr(i * sizeof(ChunkId)));
      put.raw = message.data.substr(at, message.sizes[i]);
      put.session = session_;
      // Weights do not compress, and are cut into larger chunks than text is.
      put.compressible = put.raw.size() <= kTextParameters.max_bytes;
      const absl::StatusOr<ChunkStore::PutResult> result = plane_.store.Put(put);
      if (absl::IsInvalidArgument(result.status())) {
        return rpc::ErrorBuilder(result.status())
            .Reason("DIGEST_MISMATCH")
            .Metadata("expected", ToHex(put.id))
            .Build();
      }
      GRAFT_RETURN_IF_ERROR(result.status());
      ticket = std::max(ticket, result->ticket);
      MutexLock lock(mu_);
      stored_ += result->stored_bytes;
      new_bytes_ += result->stored_bytes;
      at += message.sizes[i];
    }
    return ticket;
  }

  void OnDurable(uint64_t sequence, const absl::Status& status) {
    if (!status.ok()) {
      Fail(status);
      return;
    }
    Touch(plane_.clock);
    MutexLock lock(mu_);
    --undecided_;
    durable_sequence_ = std::max(durable_sequence_, sequence);
    MaybeWrite();
    MaybeFinish();
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    writing_ = false;
    if (!ok) failed_ = true;
    MaybeWrite();
    MaybeFinish();
  }

  void MaybeWrite() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_ || acknowledged_ == durable_sequence_) return;
    acknowledged_ = durable_sequence_;
    const std::string bytes =
        wire::Writer()
            .Varint(v1::UploadResponse::kDurableSequenceFieldNumber, acknowledged_)
            .Varint(v1::UploadResponse::kStoredBytesFieldNumber, static_cast<uint64_t>(stored_))
            .Take();
    grpc::Slice slice(bytes);
    outgoing_ = grpc::ByteBuffer(&slice, 1);
    writing_ = true;
    StartWrite(&outgoing_);
  }

  void MaybeFinish() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!read_closed_ || undecided_ > 0 || writing_ || acknowledged_ != durable_sequence_) return;
    FinishOnce(failed_ ? absl::CancelledError("the client has gone away") : absl::OkStatus());
  }

  void Fail(const absl::Status& status) {
    MutexLock lock(mu_);
    FinishOnce(status);
  }

  void FinishOnce(const absl::Status& status) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (std::exchange(finished_, true)) return;
    Finish(rpc::ToGrpcStatus(call_->Finish(status)));
  }

  void OnDone() override {
    if (!session_.empty()) {
      int64_t bytes = 0;
      {
        MutexLock lock(mu_);
        bytes = new_bytes_;
      }
      // A figure for people; the upload does not fail for it.
      plane_.catalog.CountBytes(session_, bytes, 0).IgnoreError();
    }
    const std::shared_ptr<UploadStream> self = std::move(self_);
  }

  DataPlane& plane_;
  const std::shared_ptr<rpc::Call> call_;  // shared with the server
  std::shared_ptr<UploadStream> self_;     // gRPC's reference, until OnDone
  // Of the reading side.
  grpc::ByteBuffer incoming_;
  std::string session_;  // the id; empty before the first message
  uint64_t next_sequence_ = 1;

  Mutex mu_;
  grpc::ByteBuffer outgoing_ GRAFT_GUARDED_BY(mu_);
  ChunkStore::Ticket last_ticket_ GRAFT_GUARDED_BY(mu_) = 0;
  int64_t undecided_ GRAFT_GUARDED_BY(mu_) = 0;  // messages not yet durable
  uint64_t durable_sequence_ GRAFT_GUARDED_BY(mu_) = 0;
  uint64_t acknowledged_ GRAFT_GUARDED_BY(mu_) = 0;
  int64_t stored_ GRAFT_GUARDED_BY(mu_) = 0;
  int64_t new_bytes_ GRAFT_GUARDED_BY(mu_) = 0;
  bool read_closed_ GRAFT_GUARDED_BY(mu_) = false;
  bool writing_ GRAFT_GUARDED_BY(mu_) = false;
  bool failed_ GRAFT_GUARDED_BY(mu_) = false;
  bool finished_ GRAFT_GUARDED_BY(mu_) = false;
};

}  // namespace

absl::Status StalledError(absl::Duration timeout) {
  return rpc::ErrorBuilder(absl::StatusCode::kAborted,
                           absl::StrCat("no byte moved for ", absl::FormatDuration(timeout),
                                        ": take the transfer up again"))
      .Reason("TRANSFER_STALLED")
      .Build();
}

RawBidiReactor* StartUpload(DataPlane& plane, std::shared_ptr<rpc::Call> call) {
  auto stream = std::make_shared<UploadStream>(plane, std::move(call));
  stream->Start();
  return stream.get();
}

}  // namespace graft::fileservice
