// Inside of ChunkStore: what waits for the disk.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "fileservice/cas/block_pool.h"
#include "fileservice/cas/chunk_store.h"

namespace graft::fileservice {

inline constexpr size_t kBufferBytes = BlockPool::kBufferBytes;

// Aligned memory on its way to one place of one pack.
struct ChunkStore::Buffer {
  Buffer(BlockPool& blocks, Ticket batch, uint32_t pack, int64_t offset)
      : data(blocks.Take(kBufferBytes)), batch(batch), pack(pack), offset(offset) {}

  const BlockPool::Buffer data;
  size_t used = 0;
  const Ticket batch;
  const uint32_t pack;
  const int64_t offset;
};

// Chunks that become durable together, all in one pack.
struct ChunkStore::Batch {
  Ticket ticket = 0;
  uint32_t pack = 0;
  std::unique_ptr<Buffer> tail;        // null until something is appended
  absl::Status written;                // of its buffers, once it is closed
  std::shared_ptr<WritableFile> file;  // shared with the writer; null until it is closed
  std::vector<std::pair<ChunkId, ChunkRow>> rows;
  std::vector<std::string> leases;
  int64_t bytes = 0;
  int64_t end = 0;     // of the pack once this is written
  bool seals = false;  // nothing follows in its pack
  bool hurry = false;

  bool empty() const { return rows.empty() && leases.empty() && !seals; }
};

}  // namespace graft::fileservice
