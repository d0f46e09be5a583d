#include "fileservice/service/upload_stream.h"

#include <algorithm>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "fileservice/service/data_stream.h"
#include "fileservice/service/file_hash.h"
#include "fileservice/service/upload_message.h"
#include "graft/v1/data.pb.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

class UploadStream final : public IncomingStream<RawBidiReactor> {
 public:
  using IncomingStream::IncomingStream;

 private:
  absl::StatusOr<Next> Take(absl::Span<const absl::string_view> parts) override {
    GRAFT_ASSIGN_OR_RETURN(const UploadMessage message, ParseUpload(parts));
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
    plane_.store.OnDurable(
        ticket, [this, self = shared_from_this(), sequence = message.sequence](
                    absl::Status status) { OnDurable(sequence, status); });
    return Next::kRead;
  }

  void ReadingEnded() override {
    file_hash_.End(session_, plane_.verified);
    ChunkStore::Ticket last = 0;
    {
      MutexLock lock(mu_);
      read_closed_ = true;
      last = last_ticket_;
      MaybeFinish();
    }
    plane_.store.Hurry(last);
  }

  absl::StatusOr<ChunkStore::Ticket> PutAll(const UploadMessage& message) {
    ChunkStore::Ticket ticket = 0;
    wire::DataCursor data(message.payload);
    // Of chunks that span parts of memory; a deque, so that none moves.
    std::deque<std::string> scratch;
    std::vector<absl::string_view> chunks;
    for (const uint32_t size : message.sizes) {
      chunks.push_back(data.Take(size, scratch.emplace_back()));
    }
    std::vector<Sha256Digest> digests(chunks.size());
    file_hash_.Take(chunks, message.ids, digests.data());
    for (size_t i = 0; i < message.sizes.size(); ++i) {
      ChunkStore::PutRequest put;
      put.id = DigestFromBytes(absl::string_view(message.ids).substr(i * sizeof(ChunkId)));
      put.raw = chunks[i];
      put.verified = digests[i] == put.id;  // else it is refused below
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
      // Counted as it came: whether another tenant had stored the chunk is nobody's business.
      MutexLock lock(mu_);
      stored_ += message.sizes[i];
      new_bytes_ += message.sizes[i];
    }
    return ticket;
  }

  void OnDurable(uint64_t sequence, const absl::Status& status) {
    if (!status.ok()) return End(status);
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
    IncomingStream::OnDone();
  }

  // Of the reading side.
  std::string session_;  // the id; empty before the first message
  uint64_t next_sequence_ = 1;
  FileHash file_hash_;

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
  return StartStream<UploadStream>(plane, std::move(call));
}

}  // namespace graft::fileservice
