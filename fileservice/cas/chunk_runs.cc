#include "fileservice/cas/chunk_runs.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "base/mutex.h"
#include "base/status_macros.h"

namespace graft::fileservice {

// Stored bytes [begin, end) of a pack.
struct ChunkRuns::Run {
  uint32_t pack;
  int64_t begin;
  int64_t end;
  size_t last_row;  // of rows_
  bool started = false;

  struct Free {
    void operator()(char* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<char, Free> buffer;
  absl::StatusOr<absl::string_view> bytes;
  Notification done;

  void Read(const ChunkReader& reader) {
    const auto size = static_cast<size_t>(end - begin);
    const size_t blocks = size / kBlockBytes + 3;
    buffer.reset(static_cast<char*>(std::aligned_alloc(kBlockBytes, blocks * kBlockBytes)));
    GRAFT_CHECK(buffer != nullptr);
    const auto file = reader.OpenPack(pack);
    bytes = file.ok() ? (*file)->ReadOnce(begin, size, buffer.get()) : file.status();
    done.Notify();
  }
};

ChunkRuns::ChunkRuns(const ChunkReader& reader, ReadPool& pool,
                     std::vector<std::optional<ChunkRow>> rows)
    : reader_(&reader), pool_(&pool), rows_(std::move(rows)) {
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
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (!rows_[i].has_value()) continue;
    const ChunkRow& row = *rows_[i];
    const int64_t end = row.offset + row.stored_bytes;
    Run* run = runs_.empty() ? nullptr : runs_.back().get();
    const bool joins = run != nullptr && run->pack == row.pack && row.offset >= run->end &&
                       row.offset - run->end <= kMaxGapBytes && end - run->begin <= kRunBytes;
    if (!joins) {
      runs_.push_back(std::make_unique<Run>());
      run = runs_.back().get();
      run->pack = row.pack;
      run->begin = row.offset;
    }
    run->end = end;
    run->last_row = i;
  }
}

void ChunkRuns::StartReads() {
  for (size_t i = 0; i < std::min(runs_.size(), kAhead + 1); ++i) {
    Run* run = runs_[i].get();
    if (std::exchange(run->started, true)) continue;
    pool_->Post([run, reader = reader_] { run->Read(*reader); });
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
  const ChunkRow& row = *rows_[i];
  const absl::string_view stored =
      run.bytes->substr(static_cast<size_t>(row.offset - run.begin), row.stored_bytes);
  return reader_->RawOf(row, stored, decoded_);
}

}  // namespace graft::fileservice
