#include "fileservice/cas/chunk_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunk_batch.h"
#include "fileservice/cas/codec.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {
namespace {

// How many ids FindMissing looks up before it lets others in.
constexpr size_t kFindSliceIds = 1024;

}  // namespace

std::string LeaseKey(const ChunkId& id, absl::string_view session) {
  return Encoder().Digest(id).Raw(session).Take();
}

std::string ReachKey(absl::string_view workspace, const ChunkId& id) {
  return Encoder().KeyString(workspace).Digest(id).Take();
}

std::string PackKey(uint32_t pack) { return Encoder().BigEndian32(pack).Take(); }

ChunkStore::ChunkStore(Database& db, Files& files, Clock& clock, Options options)
    : db_(db),
      files_(files),
      clock_(clock),
      options_(std::move(options)),
      reader_(db, files, options_.directory, options_.max_open_packs) {}

absl::StatusOr<ChunkStore::PutResult> ChunkStore::Put(const PutRequest& request) {
  if (request.raw.size() > kMaxRawBytes) {
    return absl::InvalidArgumentError(absl::StrCat("chunk ", ToHex(request.id), " has ",
                                                   request.raw.size(), " bytes; the limit is ",
                                                   kMaxRawBytes));
  }
  if (!request.verified && Sha256::Of(request.raw) != request.id) {
    return absl::InvalidArgumentError(
        absl::StrCat("the bytes sent as chunk ", ToHex(request.id), " have another SHA-256"));
  }
  std::string packed;
  if (request.compressible) {
    GRAFT_ASSIGN_OR_RETURN(const bool known, db_.Contains(Column::kChunk, BytesOf(request.id)));
    if (!known) packed = CompressIfWorthwhile(request.raw);
  }

  MutexLock lock(mu_);
  GRAFT_RETURN_IF_ERROR(WaitForRoom());
  bool known = pending_.contains(request.id);
  if (!known) {
    // Neither a commit nor a sweep can change the answer while mu_ is held.
    GRAFT_ASSIGN_OR_RETURN(known, db_.Contains(Column::kChunk, BytesOf(request.id)));
    if (known && request.session.empty()) return PutResult{finished_, 0};
  }
  PutResult result{open_->ticket, 0};
  const bool was_empty = open_->empty();
  if (!known) {
    // What the reserve is kept for: deletions, which leave a fileset's new state behind.
    if (request.kind != RecordKind::kFileset) GRAFT_RETURN_IF_ERROR(CheckReserve());
    RecordHeader header;
    header.kind = request.kind;
    header.id = request.id;
    header.raw_bytes = static_cast<uint32_t>(request.raw.size());
    header.encoding = packed.empty() ? ChunkEncoding::kRaw : ChunkEncoding::kZstd;
    const absl::string_view payload = packed.empty() ? request.raw : absl::string_view(packed);
    result.stored_bytes = static_cast<int64_t>(payload.size());
    AppendRecord(header, absl::string_view(), payload);
  }
  // Also of a chunk that was there: it keeps sweeps away until the lease is written.
  pending_[request.id] = open_->ticket;
  if (!request.session.empty()) open_->leases.push_back(LeaseKey(request.id, request.session));
  if (was_empty || ShouldCommit()) work_.Signal();
  return result;
}

absl::StatusOr<ChunkStore::Ticket> ChunkStore::Rewrite(const ChunkId& id, absl::string_view stored,
                                                       ChunkRow row) {
  MutexLock lock(mu_);
  GRAFT_RETURN_IF_ERROR(WaitForRoom());
  RecordHeader header;
  header.kind = row.kind;
  header.id = id;
  header.raw_bytes = row.raw_bytes;
  header.encoding = row.encoding;
  const bool has_base = row.encoding == ChunkEncoding::kDeltaPlanesZstd;
  AppendRecord(header, has_base ? BytesOf(row.base) : absl::string_view(), stored);
  open_->rows.back().second.base = row.base;
  work_.Signal();
  return open_->ticket;
}

absl::Status ChunkStore::WaitForRoom() {
  // A full batch or pack cannot be ended while the batch before is being committed.
  const auto full = [this]() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return open_->bytes >= options_.commit_bytes || append_at_ >= options_.pack_bytes;
  };
  while (!stopping_ &&
         (buffered_ >= options_.max_buffered_bytes || (committing_ != nullptr && full()))) {
    open_->hurry = true;
    work_.Signal();
    room_.Wait(mu_);
  }
  if (stopping_) return absl::UnavailableError("the chunk store is closing");
  return absl::OkStatus();
}

absl::Status ChunkStore::CheckReserve() {
  if (!disk_full_) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(const int64_t free, files_.AvailableBytes(options_.directory));
  disk_full_ = free < options_.reserve_bytes;
  if (!disk_full_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the disk of the store is at its reserve (", free, " bytes free, ", options_.reserve_bytes,
      " kept for the index and for deletions): delete versions or add space"));
}

ChunkRow ChunkStore::AppendRecord(RecordHeader header, absl::string_view base,
                                  absl::string_view payload) {
  if (pack_ == 0) {
    pack_ = next_pack_++;
    append_at_ = 0;
  }
  if (open_->rows.empty()) open_->pack = pack_;
  if (append_at_ == 0) Append(EncodePackHeader(pack_));
  header.pack = pack_;
  header.stored_bytes = static_cast<uint32_t>(base.size() + payload.size());
  header.payload_crc = Crc32c(Crc32c(0, base), payload);
  const int64_t payload_at = append_at_ + static_cast<int64_t>(kRecordHeaderBytes);
  if (header.stored_bytes >= kAlignPayloadsFromBytes) {
    header.padding_bytes =
        static_cast<uint32_t>((kBlockBytes - payload_at % kBlockBytes) % kBlockBytes);
  }
  Append(header.Encode());
  AppendZeros(header.padding_bytes);
  ChunkRow row;
  row.pack = pack_;
  row.offset = append_at_;
  row.stored_bytes = header.stored_bytes;
  row.raw_bytes = header.raw_bytes;
  row.crc = header.payload_crc;
  row.encoding = header.encoding;
  row.kind = header.kind;
  Append(base);
  Append(payload);
  open_->bytes += header.stored_bytes;
  open_->rows.emplace_back(header.id, row);
  return row;
}

void ChunkStore::Append(absl::string_view bytes) {
  while (!bytes.empty()) {
    if (open_->tail == nullptr) {
      open_->tail = std::make_unique<Buffer>(blocks_, open_->ticket, pack_, append_at_);
    }
    Buffer& tail = *open_->tail;
    const size_t size = std::min(bytes.size(), kBufferBytes - tail.used);
    std::memcpy(tail.data.get() + tail.used, bytes.data(), size);
    tail.used += size;
    append_at_ += static_cast<int64_t>(size);
    buffered_ += static_cast<int64_t>(size);
    bytes.remove_prefix(size);
    if (tail.used == kBufferBytes) {
      queue_.push_back(std::move(open_->tail));
      work_.Signal();
    }
  }
}

void ChunkStore::AppendZeros(size_t count) {
  static constexpr char kZeros[kBlockBytes] = {};
  GRAFT_CHECK(count <= sizeof(kZeros));
  Append(absl::string_view(kZeros, count));
}

absl::StatusOr<std::vector<uint32_t>> ChunkStore::FindMissing(absl::string_view workspace,
                                                              absl::string_view session,
                                                              absl::Span<const ChunkId> ids) {
  std::vector<uint32_t> missing;
  for (size_t begin = 0; begin < ids.size(); begin += kFindSliceIds) {
    MutexLock lock(sweep_mu_);
    Database::Batch leases(db_);
    for (size_t i = begin; i < std::min(ids.size(), begin + kFindSliceIds); ++i) {
      const std::string lease = LeaseKey(ids[i], session);
      GRAFT_ASSIGN_OR_RETURN(const bool held, db_.Contains(Column::kLease, lease));
      bool visible = held;
      if (!held) {
        GRAFT_ASSIGN_OR_RETURN(visible, db_.Contains(Column::kReach, ReachKey(workspace, ids[i])));
      }
      absl::StatusOr<ChunkRow> row = absl::NotFoundError("");
      if (visible) row = Find(ids[i]);
      if (!row.ok() && !absl::IsNotFound(row.status())) return row.status();
      if (!row.ok()) {
        missing.push_back(static_cast<uint32_t>(i));
        continue;
      }
      if (!held) leases.Put(Column::kLease, lease, absl::string_view());
      found_.Put(lease, *row);
    }
    // A lease that is lost with the power shows itself when the version is published.
    GRAFT_RETURN_IF_ERROR(db_.Commit(leases, Database::Durability::kEventual));
  }
  return missing;
}

absl::StatusOr<std::string> ChunkStore::ReadHeld(const ChunkId& id,
                                                 absl::string_view session) const {
  GRAFT_ASSIGN_OR_RETURN(const bool held, db_.Contains(Column::kLease, LeaseKey(id, session)));
  if (held) return Read(id);
  return absl::NotFoundError(absl::StrCat("the session does not hold chunk ", ToHex(id)));
}

absl::StatusOr<ChunkRuns> ChunkStore::ReadHeld(absl::Span<const ChunkId> ids,
                                               absl::string_view session, ReadPool& pool) const {
  std::vector<std::optional<ChunkRow>> rows(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string lease = LeaseKey(ids[i], session);
    rows[i] = found_.Take(lease);
    if (rows[i].has_value()) continue;
    GRAFT_ASSIGN_OR_RETURN(const bool held, db_.Contains(Column::kLease, lease));
    if (!held) continue;
    absl::StatusOr<ChunkRow> row = Find(ids[i]);
    if (row.ok()) {
      rows[i] = *row;
    } else if (!absl::IsNotFound(row.status())) {
      return row.status();
    }
  }
  return ChunkRuns(reader_, pool, blocks_, std::move(rows));
}

absl::Status ChunkStore::WithSweepLock(
    const std::function<absl::Status(const std::function<bool(const ChunkId&)>& is_pending)>&
        sweep) {
  MutexLock sweep_lock(sweep_mu_);
  MutexLock lock(mu_);
  // The lambda runs under mu_, which the analysis cannot see through std::function.
  const auto* pending = &pending_;
  return sweep([pending](const ChunkId& id) { return pending->contains(id); });
}

absl::Status ChunkStore::RemovePack(uint32_t pack) {
  reader_.Forget(pack);
  return files_.Remove(PackPath(pack));
}

int64_t ChunkStore::buffered_bytes() {
  MutexLock lock(mu_);
  return buffered_;
}

std::string ChunkStore::PackPath(uint32_t pack) const {
  return absl::StrCat(options_.directory, "/", PackFileName(pack));
}

}  // namespace graft::fileservice
