#include "fileservice/service/chunks_stream.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "fileservice/service/data_stream.h"
#include "fileservice/service/payload.h"
#include "fileservice/transfer/wire.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

struct WantedChunk {
  uint32_t index;  // in the request
  ChunkId id;
  ChunkRow row;
};

class ChunksStream final : public DataStream<RawWriteReactor> {
 public:
  ChunksStream(DataPlane& plane, std::shared_ptr<rpc::Call> call, v1::DownloadChunksRequest request)
      : DataStream(plane, std::move(call)), request_(std::move(request)) {}

  void Start() {
    Begin();
    const absl::Status status = Plan();
    if (!status.ok()) return End(status);
    Advance();
  }

 private:
  // Finds where the chunks lie. Only those of the version are looked up: a caller learns nothing of
  // what else the store holds.
  absl::Status Plan() {
    const absl::string_view ids = request_.chunk_ids();
    if (ids.size() % sizeof(ChunkId) != 0 || ids.size() / sizeof(ChunkId) > kMaxIds) {
      return absl::InvalidArgumentError(
          absl::StrCat("chunk_ids has ", ids.size(), " bytes: 32 for each of at most 65536 ids"));
    }
    GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version,
                           ReadableVersion(plane_.catalog, *call_, request_.version()));
    absl::flat_hash_map<ChunkId, std::vector<uint32_t>> open;
    for (size_t i = 0; i < ids.size() / sizeof(ChunkId); ++i) {
      open[DigestFromBytes(ids.substr(i * sizeof(ChunkId)))].push_back(static_cast<uint32_t>(i));
    }
    absl::Status status;
    GRAFT_RETURN_IF_ERROR(
        plane_.catalog.VisitEntries(version, "", "", [&](absl::string_view, const Entry& entry) {
          status.Update(TakeFrom(entry, open));
          return status.ok() && !open.empty();
        }));
    GRAFT_RETURN_IF_ERROR(status);
    if (!open.empty()) {
      return absl::NotFoundError(
          absl::StrCat("chunk ", ToHex(open.begin()->first), " is not in ", version.name()));
    }
    std::sort(wanted_.begin(), wanted_.end(), [](const WantedChunk& a, const WantedChunk& b) {
      return std::tie(a.row.pack, a.row.offset, a.index) <
             std::tie(b.row.pack, b.row.offset, b.index);
    });
    return absl::OkStatus();
  }

  // Moves the chunks of a file from `open` to what is sent.
  absl::Status TakeFrom(const Entry& entry,
                        absl::flat_hash_map<ChunkId, std::vector<uint32_t>>& open) {
    GRAFT_ASSIGN_OR_RETURN(const FilePage file, plane_.catalog.GetFile(entry.sha256));
    for (const ChunkRef& chunk : file.chunks) {
      const auto found = open.find(chunk.id);
      if (found == open.end()) continue;
      GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, plane_.store.Find(chunk.id));
      for (const uint32_t index : found->second) wanted_.push_back({index, chunk.id, row});
      open.erase(found);
    }
    return absl::OkStatus();
  }

  // Sends the next message, once there is memory for it.
  void Advance() {
    if (next_ == wanted_.size()) return End(absl::OkStatus());
    size_t bytes = 0;
    end_ = next_;
    while (end_ < wanted_.size() && (end_ == next_ || bytes + SizeOf(end_) <= kMaxDataBytes)) {
      bytes += SizeOf(end_++);
    }
    // A chunk may be empty of bytes, never a message of memory.
    const size_t capacity = std::max<size_t>(bytes, 1);
    auto self = shared_from_this();
    if (plane_.budget.Acquire(static_cast<int64_t>(capacity),
                              [this, self, capacity] { Send(capacity); })) {
      Send(capacity);
    }
  }

  size_t SizeOf(size_t i) const { return wanted_[i].row.raw_bytes; }

  void Send(size_t capacity) {
    auto payload = std::make_unique<Payload>(plane_.budget, capacity);
    std::vector<uint32_t> indexes;
    std::vector<uint32_t> sizes;
    size_t filled = 0;
    for (; next_ < end_; ++next_) {
      const absl::Status status = ReadInto(wanted_[next_], payload->data + filled);
      if (!status.ok()) return End(status);
      indexes.push_back(wanted_[next_].index);
      sizes.push_back(wanted_[next_].row.raw_bytes);
      filled += SizeOf(next_);
    }
    wire::Writer head;
    head.PackedVarints(v1::DownloadChunksResponse::kIndexesFieldNumber, indexes);
    head.PackedVarints(v1::DownloadChunksResponse::kChunkSizesFieldNumber, sizes);
    if (filled > 0) head.BytesHead(wire::kDataField, filled);
    MutexLock lock(mu_);
    if (finished_) return;
    outgoing_ = MessageOf(head.Take(), std::move(payload), filled);
    StartWrite(&outgoing_);
  }

  absl::Status ReadInto(const WantedChunk& chunk, char* out) const {
    absl::Status status = plane_.store.ReadRow(chunk.row, out);
    if (absl::IsNotFound(status)) {  // a compaction has moved it meanwhile
      GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, plane_.store.Find(chunk.id));
      status = plane_.store.ReadRow(row, out);
    }
    if (!absl::IsDataLoss(status)) return status;
    return rpc::ErrorBuilder(status).Reason("DATA_LOST").Build();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the client has gone away"));
    Touch(plane_.clock);
    Advance();
  }

  void OnCancel() override { End(absl::CancelledError("the client has gone away")); }

  const v1::DownloadChunksRequest request_;
  // Of whoever sends: one at a time.
  std::vector<WantedChunk> wanted_;
  size_t next_ = 0;
  size_t end_ = 0;  // of the message that is being made

  grpc::ByteBuffer outgoing_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace

RawWriteReactor* StartDownloadChunks(DataPlane& plane, std::shared_ptr<rpc::Call> call,
                                     const v1::DownloadChunksRequest& request) {
  return StartStream<ChunksStream>(plane, std::move(call), request);
}

}  // namespace graft::fileservice
