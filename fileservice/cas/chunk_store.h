// Chunks on the disk: named by the SHA-256 of their bytes, appended to packs, found by the index.
//
//   GRAFT_ASSIGN_OR_RETURN(auto store, ChunkStore::Open(db, RealFiles(), clock, options));
//   GRAFT_ASSIGN_OR_RETURN(auto put, store->Put({.id = id, .raw = bytes, .session = session}));
//   GRAFT_RETURN_IF_ERROR(store->WaitDurable(put.ticket));   // now it survives the power
//   GRAFT_ASSIGN_OR_RETURN(std::string bytes, store->Read(id));
//
// What is put gathers in a batch. One thread writes it to the open pack; another syncs the pack,
// and only then writes the rows (synced) that make the chunks findable, while the next batch is
// being written: an index row never points at bytes that may be lost. A failed write or sync fails
// the batch and those behind it, and its pack is never appended to again.
//
// Thread-safe. Put blocks while the disk is slower than its callers (Options::max_buffered_bytes).
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "fileservice/cas/block_pool.h"
#include "fileservice/cas/chunk_reader.h"
#include "fileservice/cas/chunk_row.h"
#include "fileservice/cas/chunk_runs.h"
#include "fileservice/cas/database.h"
#include "fileservice/cas/files.h"
#include "fileservice/cas/found_rows.h"

namespace graft::fileservice {

class ChunkStore {
 public:
  struct Options {
    std::string directory;  // of the packs
    // A pack is sealed when it has grown to this.
    int64_t pack_bytes = 256 << 20;
    // A batch is committed when it has so many bytes, or is so old, or somebody waits for it. Twice
    // as much may be lost with the power, and is sent again: one being synced, one being written.
    int64_t commit_bytes = 24 << 20;
    absl::Duration commit_interval = absl::Milliseconds(100);
    // Bytes that may wait for the disk.
    int64_t max_buffered_bytes = 48 << 20;
    // Free space that uploads leave for the index and for deletions.
    int64_t reserve_bytes = 1 << 30;
    size_t max_open_packs = 256;
  };

  // Recovers what a crash left: records behind the last commit are indexed again when their bytes
  // prove them, torn tails are cut off. `db`, `files` and `clock` must outlive the store.
  static absl::StatusOr<std::unique_ptr<ChunkStore>> Open(Database& db, Files& files, Clock& clock,
                                                          Options options);
  // Commits what was put.
  ~ChunkStore();

  // The number of a batch.
  using Ticket = uint64_t;

  struct PutRequest {
    ChunkId id;
    absl::string_view raw;
    RecordKind kind = RecordKind::kChunk;
    // Worth trying zstd on.
    bool compressible = false;
    // The caller has checked that `id` is the hash of `raw`.
    bool verified = false;
    // The upload session (16 bytes) that then holds the chunk; empty: nobody.
    std::string session;
  };
  struct PutResult {
    Ticket ticket;
    // Bytes that were added to a pack; 0 when the chunk was there or on its way.
    int64_t stored_bytes;
  };
  // INVALID_ARGUMENT when `id` is not the hash of `raw`; RESOURCE_EXHAUSTED at the disk's reserve.
  absl::StatusOr<PutResult> Put(const PutRequest& request);

  // Calls `done` once the batch is durable or lost; at once if that is known. `done` runs on a
  // thread of the store and must not block.
  void OnDurable(Ticket ticket, std::function<void(absl::Status)> done);
  // Commits without waiting for more and returns when that is done: what became of the batch, or of
  // the first of several that was lost.
  absl::Status WaitDurable(Ticket ticket) { return WaitDurable(ticket, ticket); }
  absl::Status WaitDurable(Ticket first, Ticket last);
  // Commits the batch soon, without waiting for it.
  void Hurry(Ticket ticket);

  // Which of `ids` must be sent (indexes, ascending). The others are held for `session` from now
  // on, even against a sweep that runs. A chunk counts as there only when it is visible in
  // `workspace` or was put by this session.
  absl::StatusOr<std::vector<uint32_t>> FindMissing(absl::string_view workspace,
                                                    absl::string_view session,
                                                    absl::Span<const ChunkId> ids);

  const ChunkReader& reader() const { return reader_; }
  // The reader's.
  absl::StatusOr<ChunkRow> Find(const ChunkId& id) const { return reader_.Find(id); }
  absl::StatusOr<std::string> Read(const ChunkId& id) const { return reader_.Read(id); }
  absl::Status ReadRow(const ChunkRow& row, char* out) const { return reader_.ReadRow(row, out); }
  absl::Status Verify(const ChunkId& id) const { return reader_.Verify(id); }
  // The same as Read of what the session holds alone, so that nobody probes others' chunks.
  absl::StatusOr<std::string> ReadHeld(const ChunkId& id, absl::string_view session) const;
  // The same of many, in their order; NOT_FOUND for those that it does not hold.
  absl::StatusOr<ChunkRuns> ReadHeld(absl::Span<const ChunkId> ids, absl::string_view session,
                                     ReadPool& pool) const;
  absl::StatusOr<std::shared_ptr<const ReadableFile>> OpenPack(uint32_t pack) const {
    return reader_.OpenPack(pack);
  }

  // For garbage collection. ----------------------------------------------------------------------
  // Calls `sweep` while no chunk can become held; `is_pending` says whether a chunk is being put.
  absl::Status WithSweepLock(
      const std::function<absl::Status(const std::function<bool(const ChunkId&)>& is_pending)>&
          sweep);
  // Ends the open pack, so that it can be collected.
  absl::Status SealOpenPack();
  // Removes the pack's file; nothing may point at it.
  absl::Status RemovePack(uint32_t pack);
  // Puts a copy even where the chunk is there, in this encoding, and switches the row to it. `base`
  // is that of kDeltaPlanesZstd.
  absl::StatusOr<Ticket> Rewrite(const ChunkId& id, absl::string_view stored, ChunkRow row);

  Database& db() { return db_; }
  Clock& clock() { return clock_; }
  const Options& options() const { return options_; }
  int64_t buffered_bytes();

 private:
  struct Buffer;
  struct Batch;

  ChunkStore(Database& db, Files& files, Clock& clock, Options options);
  absl::Status Recover();
  absl::Status RecoverPack(uint32_t pack, PackRow row);
  void RunWriter();
  bool ShouldCommit() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WriteBuffer(std::unique_ptr<Buffer> buffer);
  void CloseOpenBatch();
  absl::Status EnsurePack(const Buffer& buffer);
  void RunCommitter();
  absl::Status MakeDurable(Batch& batch);
  void FinishBatch(Batch& batch, absl::Status status);
  // Gives up everything that is laid out, because the pack it would lie in cannot be trusted.
  void DropOpenBatch(const absl::Status& status) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Of the first batch from `first` to `last` that was lost.
  absl::Status DecidedStatus(Ticket first, Ticket last) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::unique_ptr<Batch> NewBatch() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Append(absl::string_view bytes) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AppendZeros(size_t count) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Lays the record out at the end of the open batch.
  ChunkRow AppendRecord(RecordHeader header, absl::string_view base, absl::string_view payload)
      GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckReserve() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status WaitForRoom() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string PackPath(uint32_t pack) const;

  Database& db_;
  Files& files_;
  Clock& clock_;
  const Options options_;
  ChunkReader reader_;
  mutable BlockPool blocks_;

  // Taken before mu_; held by FindMissing and sweeps, a slice at a time.
  Mutex sweep_mu_;

  mutable FoundRows found_;

  Mutex mu_;
  CondVar work_;    // for the writer
  CondVar closes_;  // for the committer
  CondVar room_;    // for Put, WaitDurable and a new pack
  std::unique_ptr<Batch> open_ GRAFT_GUARDED_BY(mu_);
  std::list<std::unique_ptr<Buffer>> queue_ GRAFT_GUARDED_BY(mu_);
  std::unique_ptr<Batch> committing_ GRAFT_GUARDED_BY(mu_);  // closed; null: the committer rests
  // Chunks of batches that are not durable yet.
  absl::flat_hash_map<ChunkId, Ticket> pending_ GRAFT_GUARDED_BY(mu_);
  Ticket finished_ GRAFT_GUARDED_BY(mu_) = 0;                    // every batch up to it is decided
  std::map<Ticket, absl::Status> failed_ GRAFT_GUARDED_BY(mu_);  // the latest of them
  std::multimap<Ticket, std::function<void(absl::Status)>> waiters_ GRAFT_GUARDED_BY(mu_);
  uint32_t next_pack_ GRAFT_GUARDED_BY(mu_) = 1;
  uint32_t pack_ GRAFT_GUARDED_BY(mu_) = 0;      // 0: the next batch begins one
  int64_t append_at_ GRAFT_GUARDED_BY(mu_) = 0;  // in pack_
  int64_t buffered_ GRAFT_GUARDED_BY(mu_) = 0;
  bool disk_full_ GRAFT_GUARDED_BY(mu_) = false;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  bool writer_gone_ GRAFT_GUARDED_BY(mu_) = false;

  // Of the writer.
  uint32_t file_pack_ = 0;
  std::shared_ptr<WritableFile> file_;  // shared with the batch that is being committed
  Ticket writing_ = 0;                  // the batch of which something was written
  absl::Status write_status_;           // of it

  std::thread writer_;
  std::thread committer_;
};

// The keys of rows that more than one file writes.
std::string LeaseKey(const ChunkId& id, absl::string_view session);
std::string ReachKey(absl::string_view workspace, const ChunkId& id);
std::string PackKey(uint32_t pack);

}  // namespace graft::fileservice
