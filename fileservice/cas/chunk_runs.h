// Chunks read in a given order by a pass that comes by once: those that lie together in one read,
// ahead of whoever takes them, and past the page cache, which such a pass would only sweep.
//
//   ChunkRuns runs(reader, pool, rows);
//   for (size_t i = 0; i < rows.size(); ++i) {
//     GRAFT_ASSIGN_OR_RETURN(const absl::string_view bytes, runs.Next());
//
// For one thread, which must not be one of the pool's. Holds at most kAhead + 1 runs of memory.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "fileservice/cas/block_pool.h"
#include "fileservice/cas/chunk_reader.h"
#include "fileservice/cas/read_pool.h"

namespace graft::fileservice {

class ChunkRuns {
 public:
  // `rows`: where the chunks lie; none for one that is not there. `reader`, `pool` and `blocks`
  // must outlive this.
  ChunkRuns(const ChunkReader& reader, ReadPool& pool, BlockPool& blocks,
            std::vector<std::optional<ChunkRow>> rows);
  ChunkRuns(ChunkRuns&&) noexcept;
  // Waits for the reads that are under way.
  ~ChunkRuns();

  // The raw bytes of the next chunk, until the next call. NOT_FOUND where there is none, or a
  // compaction has moved it; DATA_LOSS when they are damaged. The chunks behind it are not touched
  // by that.
  absl::StatusOr<absl::string_view> Next();

 private:
  // What is read at a time: first a little, so that there is something soon, and more from run to
  // run; and how much besides what is wanted.
  static constexpr int64_t kFirstRunBytes = 512 << 10;
  static constexpr int64_t kRunBytes = BlockPool::kBufferBytes - 3 * kBlockBytes;
  static constexpr int64_t kMaxGapBytes = 16 << 10;
  static constexpr size_t kAhead = 2;

  struct Run;
  void Plan();
  void StartReads();

  const ChunkReader* reader_;
  ReadPool* pool_;
  BlockPool* blocks_;
  std::vector<std::optional<ChunkRow>> rows_;
  size_t next_ = 0;
  std::deque<std::unique_ptr<Run>> runs_;  // those to come; the first is being taken from
  std::string decoded_;
};

}  // namespace graft::fileservice
