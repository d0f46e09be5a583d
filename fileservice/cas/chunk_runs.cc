#include "fileservice/cas/chunk_runs.h"

#include <algorithm>

#include "base/check.h"
#include "base/mutex.h"
#include "base/status_macros.h"

namespace graft::fileservice {

// Stored bytes [begin, end) of a pack.
struct ChunkRuns::Run {
  uint32_t pack;
  int64_t begin;
  int64_t end;
  size_t first_row;  // of rows_
  size_t last_row;
  bool started = false;

  BlockPool::Buffer buffer;
  absl::StatusOr<absl::string_view> bytes;
  std::vector<absl::Status> checks;  // of its rows
  Notification done;

  absl::string_view Stored(const ChunkRow& row) const {
    return bytes->substr(static_cast<size_t>(row.offset - begin), row.stored_bytes);
  }

  // `rows`: its own.
  void Read(const ChunkReader& reader, BlockPool& blocks,
            absl::Span<const std::optional<ChunkRow>> rows) {
    const auto size = static_cast<size_t>(end - begin);
    buffer = blocks.Take(size + 3 * kBlockBytes);
    const auto file = reader.OpenPack(pack);
    bytes = file.ok() ? (*file)->ReadOnce(begin, size, buffer.get()) : file.status();
    for (const std::optional<ChunkRow>& row : rows) {
      if (!bytes.ok()) break;
      checks.push_back(row.has_value() ? CheckStored(*row, Stored(*row)) : absl::OkStatus());
    }
    done.Notify();
  }
};

ChunkRuns::ChunkRuns(const ChunkReader& reader, ReadPool& pool, BlockPool& blocks,
                     std::vector<std::optional<ChunkRow>> rows)
    : reader_(&reader), pool_(&pool), blocks_(&blocks), rows_(std::move(rows)) {
  Plan();
  StartReads();
}

ChunkRuns::ChunkRuns(ChunkRuns&&) noexcept = default;

ChunkRuns::~ChunkRuns() {
  for (const std::unique_ptr<Run>& run : runs_) {
    if (run->started) run->done.Wait();
  }
}

void ChunkRuns::Plan() {
  int64_t most = kFirstRunBytes;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (!rows_[i].has_value()) continue;
    const ChunkRow& row = *rows_[i];
    const int64_t end = row.offset + row.stored_bytes;
    Run* run = runs_.empty() ? nullptr : runs_.back().get();
    const bool joins = run != nullptr && run->pack == row.pack && row.offset >= run->end &&
                       row.offset - run->end <= kMaxGapBytes && end - run->begin <= most;
    if (!joins) {
      if (run != nullptr) most = std::min(2 * most, kRunBytes);
      runs_.push_back(std::make_unique<Run>());
      run = runs_.back().get();
      run->pack = row.pack;
      run->begin = row.offset;
      run->first_row = i;
    }
    run->end = end;
    run->last_row = i;
  }
}

void ChunkRuns::StartReads() {
  for (size_t i = 0; i < std::min(runs_.size(), kAhead + 1); ++i) {
    Run* run = runs_[i].get();
    if (std::exchange(run->started, true)) continue;
    // The rows stay where they are when this moves.
    const auto rows =
        absl::MakeConstSpan(rows_).subspan(run->first_row, run->last_row - run->first_row + 1);
    pool_->Post(
        [run, rows, reader = reader_, blocks = blocks_] { run->Read(*reader, *blocks, rows); });
  }
}

absl::StatusOr<absl::string_view> ChunkRuns::Next() {
  const size_t i = next_++;
  GRAFT_CHECK(i < rows_.size());
  if (!rows_[i].has_value()) return absl::NotFoundError("a chunk is not in the store");
  if (runs_.front()->last_row < i) {
    runs_.pop_front();
    StartReads();
  }
  Run& run = *runs_.front();
  run.done.Wait();
  GRAFT_RETURN_IF_ERROR(run.bytes.status());
  GRAFT_RETURN_IF_ERROR(run.checks[i - run.first_row]);
  const ChunkRow& row = *rows_[i];
  return reader_->RawOf(row, run.Stored(row), decoded_);
}

}  // namespace graft::fileservice
