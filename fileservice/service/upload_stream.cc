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
      MutexLock lock(mu_);
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
      last_ticket_ = std::max(last_ticket_, ticket);
      ++undecided_;
    }
    plane_.store.OnDurable(ticket, [this, self = shared_from_this(), sequence = message.sequence](
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

  // In the order of the file: runs of chunks that came, between those that the session holds.
  absl::StatusOr<ChunkStore::Ticket> PutAll(const UploadMessage& message) {
    wire::DataCursor data(message.payload);
    ChunkStore::Ticket last = 0;
    size_t at = 0;
    std::vector<ChunkId> ids;
    for (const uint32_t held : message.held) ids.push_back(DigestFromBytes(IdOf(message, held)));
    if (!file_hash_.sound()) ids.clear();
    GRAFT_ASSIGN_OR_RETURN(ChunkRuns runs, plane_.store.ReadHeld(ids, session_, plane_.readers));
    for (const uint32_t held : message.held) {
      GRAFT_RETURN_IF_ERROR(PutRun(message, at, held, data, last));
      if (!ids.empty()) TakeHeld(runs, IdOf(message, held), last);
      at = held + 1;
    }
    GRAFT_RETURN_IF_ERROR(PutRun(message, at, message.sizes.size(), data, last));
    return last;
  }

  static absl::string_view IdOf(const UploadMessage& message, size_t i) {
    return absl::string_view(message.ids).substr(i * sizeof(ChunkId), sizeof(ChunkId));
  }

  // Where it cannot be read here the file is read, and refused, when it is staged.
  void TakeHeld(ChunkRuns& runs, absl::string_view id, ChunkStore::Ticket last) {
    if (!file_hash_.sound()) return;
    absl::StatusOr<absl::string_view> bytes = runs.Next();
    absl::StatusOr<std::string> again = std::string();
    // A part of the file that occurs again may have come a moment ago; a compaction may have moved
    // what lay elsewhere.
    if (absl::IsNotFound(bytes.status()) && plane_.store.WaitDurable(std::max(last, Last())).ok()) {
      again = plane_.store.ReadHeld(DigestFromBytes(id), session_);
      if (again.ok()) bytes = *again;
    }
    if (!bytes.ok()) return file_hash_.GiveUp();
    file_hash_.TakeHeld(*bytes, id);
    Touch(plane_.clock);  // the store's disk may be slower than the network
  }

  ChunkStore::Ticket Last() {
    MutexLock lock(mu_);
    return last_ticket_;
  }

  // Puts the chunks [begin, end) of the message, whose bytes are next in `data`.
  absl::Status PutRun(const UploadMessage& message, size_t begin, size_t end,
                      wire::DataCursor& data, ChunkStore::Ticket& last) {
    if (begin == end) return absl::OkStatus();
    // Of chunks that span parts of memory; a deque, so that none moves.
    std::deque<std::string> scratch;
    std::vector<absl::string_view> chunks;
    for (size_t i = begin; i < end; ++i) {
      chunks.push_back(data.Take(message.sizes[i], scratch.emplace_back()));
    }
    std::vector<Sha256Digest> digests(chunks.size());
    const size_t ids_bytes = chunks.size() * sizeof(ChunkId);
    file_hash_.Take(chunks,
                    absl::string_view(message.ids).substr(begin * sizeof(ChunkId), ids_bytes),
                    digests.data());
    for (size_t i = 0; i < chunks.size(); ++i) {
      ChunkStore::PutRequest put;
      put.id = DigestFromBytes(IdOf(message, begin + i));
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
      last = std::max(last, result->ticket);
      // Counted as it came: whether another tenant had stored the chunk is nobody's business.
      MutexLock lock(mu_);
      stored_ += static_cast<int64_t>(chunks[i].size());
      new_bytes_ += static_cast<int64_t>(chunks[i].size());
    }
    return absl::OkStatus();
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
