// The store's threads. The writer: buffers to the pack. The committer: sync, rows to the index,
// answers, in this order, while the writer goes on with the next batch.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunk_batch.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {
namespace {

// Nobody asks after a batch that failed so long ago.
constexpr size_t kMaxRememberedFailures = 1024;

}  // namespace

ChunkStore::~ChunkStore() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    work_.SignalAll();
    room_.SignalAll();
  }
  if (writer_.joinable()) writer_.join();
  {
    MutexLock lock(mu_);
    writer_gone_ = true;
    closes_.SignalAll();
  }
  if (committer_.joinable()) committer_.join();
}

std::unique_ptr<ChunkStore::Batch> ChunkStore::NewBatch() {
  auto batch = std::make_unique<Batch>();
  batch->ticket = (open_ == nullptr ? finished_ : open_->ticket) + 1;
  batch->pack = pack_;
  return batch;
}

bool ChunkStore::ShouldCommit() {
  return open_->bytes >= options_.commit_bytes || open_->hurry || open_->seals ||
         append_at_ >= options_.pack_bytes;
}

void ChunkStore::RunWriter() {
  while (true) {
    std::unique_ptr<Buffer> buffer;
    {
      MutexLock lock(mu_);
      bool due = false;
      while (queue_.empty() && !due) {
        if (open_->empty()) {
          if (stopping_) return;
          work_.Wait(mu_);
        } else if (committing_ != nullptr) {
          work_.Wait(mu_);
        } else if (ShouldCommit() || stopping_) {
          due = true;
        } else {
          due = !work_.WaitFor(mu_, options_.commit_interval) && queue_.empty();
        }
      }
      if (!queue_.empty()) {
        buffer = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    if (buffer != nullptr) {
      WriteBuffer(std::move(buffer));
    } else {
      CloseOpenBatch();
    }
  }
}

// Opens the pack for writing unless it is. A new one gets its name on the disk before anything
// points at it.
absl::Status ChunkStore::EnsurePack(const Buffer& buffer) {
  if (file_pack_ == buffer.pack) return absl::OkStatus();
  file_.reset();
  file_pack_ = 0;
  {
    // A crash leaves one pack at most that no row knows.
    MutexLock lock(mu_);
    while (committing_ != nullptr) room_.Wait(mu_);
    if (buffer.batch <= finished_) return absl::AbortedError("the batch was given up");
  }
  GRAFT_ASSIGN_OR_RETURN(file_, files_.Create(PackPath(buffer.pack)));
  GRAFT_RETURN_IF_ERROR(files_.SyncDirectory(options_.directory));
  file_pack_ = buffer.pack;
  return absl::OkStatus();
}

void ChunkStore::WriteBuffer(std::unique_ptr<Buffer> buffer) {
  if (std::exchange(writing_, buffer->batch) != buffer->batch) write_status_ = absl::OkStatus();
  if (write_status_.ok()) write_status_ = EnsurePack(*buffer);
  if (write_status_.ok()) {
    write_status_ =
        file_->WriteAt(buffer->offset, absl::string_view(buffer->data.get(), buffer->used));
  }
  MutexLock lock(mu_);
  buffered_ -= static_cast<int64_t>(buffer->used);
  room_.SignalAll();
}

void ChunkStore::CloseOpenBatch() {
  std::unique_ptr<Batch> batch;
  {
    MutexLock lock(mu_);
    if (!queue_.empty()) return;  // somebody put meanwhile: buffers go first
    // Whole blocks alone are written, so that no later write touches what is durable.
    if (append_at_ % static_cast<int64_t>(kBlockBytes) != 0) {
      AppendZeros(kBlockBytes - static_cast<size_t>(append_at_) % kBlockBytes);
    }
    open_->end = append_at_;
    if (append_at_ >= options_.pack_bytes) open_->seals = true;
    if (open_->seals) {
      pack_ = 0;
      append_at_ = 0;
    }
    std::unique_ptr<Batch> next = NewBatch();
    batch = std::exchange(open_, std::move(next));
    if (!queue_.empty()) {
      // The zeroes filled the last buffer.
      GRAFT_CHECK(batch->tail == nullptr && queue_.size() == 1);
      batch->tail = std::move(queue_.front());
      queue_.pop_front();
    }
  }
  if (batch->tail != nullptr) WriteBuffer(std::move(batch->tail));
  if (writing_ == batch->ticket) batch->written = write_status_;
  batch->file = file_;
  if (batch->seals || !batch->written.ok()) {
    file_.reset();
    file_pack_ = 0;
  }
  MutexLock lock(mu_);
  committing_ = std::move(batch);
  closes_.Signal();
}

void ChunkStore::RunCommitter() {
  while (true) {
    Batch* batch = nullptr;
    {
      MutexLock lock(mu_);
      while (committing_ == nullptr && !writer_gone_) closes_.Wait(mu_);
      if (committing_ == nullptr) return;
      batch = committing_.get();
    }
    absl::Status status = batch->written;
    if (status.ok()) status = MakeDurable(*batch);
    FinishBatch(*batch, std::move(status));
  }
}

absl::Status ChunkStore::MakeDurable(Batch& batch) {
  Database::Batch rows(db_);
  if (!batch.rows.empty()) GRAFT_RETURN_IF_ERROR(batch.file->Sync());
  for (const auto& [id, row] : batch.rows) rows.Put(Column::kChunk, BytesOf(id), row.Encode());
  for (const std::string& lease : batch.leases) rows.Put(Column::kLease, lease, "");
  if (batch.pack != 0 && (!batch.rows.empty() || batch.seals)) {
    PackRow row;
    row.sealed = batch.seals;
    row.committed_bytes = batch.end;
    if (row.sealed) row.sealed_at_s = absl::ToUnixSeconds(clock_.WallNow());
    rows.Put(Column::kPack, PackKey(batch.pack), row.Encode());
  }
  return db_.Commit(rows);
}

void ChunkStore::DropOpenBatch(const absl::Status& status) {
  for (const std::unique_ptr<Buffer>& buffer : queue_) {
    buffered_ -= static_cast<int64_t>(buffer->used);
  }
  queue_.clear();
  if (open_->tail != nullptr) buffered_ -= static_cast<int64_t>(open_->tail->used);
  pack_ = 0;
  append_at_ = 0;
  failed_[open_->ticket] = status;
  finished_ = open_->ticket;
  open_ = NewBatch();
}

void ChunkStore::FinishBatch(Batch& batch, absl::Status status) {
  const absl::StatusOr<int64_t> free = files_.AvailableBytes(options_.directory);
  std::vector<std::pair<std::function<void(absl::Status)>, absl::Status>> answers;
  std::unique_ptr<Batch> over;
  {
    MutexLock lock(mu_);
    finished_ = batch.ticket;
    if (!status.ok()) {
      LOG_ERROR("a batch of chunks was lost; its senders are told",
                {{"status", status.ToString()}, {"pack", PackFileName(batch.pack)}});
      failed_[batch.ticket] = status;
      // After a failed write or sync nobody knows what the pack holds: it is never used again, and
      // what was laid out behind it, or counted on it, fails too.
      DropOpenBatch(status);
      while (failed_.size() > kMaxRememberedFailures) failed_.erase(failed_.begin());
    }
    for (auto at = pending_.begin(); at != pending_.end();) {
      if (at->second <= finished_) {
        pending_.erase(at++);
      } else {
        ++at;
      }
    }
    const auto end = waiters_.upper_bound(finished_);
    for (auto at = waiters_.begin(); at != end; ++at) {
      answers.emplace_back(std::move(at->second), DecidedStatus(at->first, at->first));
    }
    waiters_.erase(waiters_.begin(), end);
    disk_full_ = free.ok() && *free < options_.reserve_bytes;
    over = std::move(committing_);
    work_.SignalAll();
    room_.SignalAll();
  }
  for (const auto& [done, answer] : answers) done(answer);
}

absl::Status ChunkStore::DecidedStatus(Ticket first, Ticket last) {
  const auto failure = failed_.lower_bound(first);
  const bool lost = failure != failed_.end() && failure->first <= last;
  return lost ? failure->second : absl::OkStatus();
}

void ChunkStore::OnDurable(Ticket ticket, std::function<void(absl::Status)> done) {
  absl::Status status;
  {
    MutexLock lock(mu_);
    const bool undecided = ticket > finished_ && !(ticket == open_->ticket && open_->empty());
    if (undecided) {
      waiters_.emplace(ticket, std::move(done));
      return;
    }
    status = DecidedStatus(ticket, ticket);
  }
  done(status);
}

void ChunkStore::Hurry(Ticket ticket) {
  MutexLock lock(mu_);
  if (ticket != open_->ticket || open_->empty()) return;
  open_->hurry = true;
  work_.Signal();
}

absl::Status ChunkStore::WaitDurable(Ticket first, Ticket last) {
  Hurry(last);
  MutexLock lock(mu_);
  while (finished_ < last && !(last == open_->ticket && open_->empty())) room_.Wait(mu_);
  return DecidedStatus(first, last);
}

absl::Status ChunkStore::SealOpenPack() {
  Ticket ticket = 0;
  {
    MutexLock lock(mu_);
    if (pack_ == 0) return absl::OkStatus();
    open_->seals = true;
    open_->pack = pack_;
    ticket = open_->ticket;
    work_.Signal();
  }
  return WaitDurable(ticket);
}

}  // namespace graft::fileservice
