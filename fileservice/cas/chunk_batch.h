// Inside of ChunkStore: what waits for the disk.
#pragma once

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "fileservice/cas/chunk_store.h"

namespace graft::fileservice {

inline constexpr size_t kBufferBytes = 4 << 20;

// Aligned memory on its way to one place of one pack.
struct ChunkStore::Buffer {
  Buffer(uint32_t pack, int64_t offset)
      : data(static_cast<char*>(std::aligned_alloc(kBlockBytes, kBufferBytes))),
        pack(pack),
        offset(offset) {
    GRAFT_CHECK(data != nullptr);
  }
  ~Buffer() { std::free(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  char* const data;
  size_t used = 0;
  const uint32_t pack;
  const int64_t offset;
};

// Chunks that become durable together, all in one pack.
struct ChunkStore::Batch {
  Ticket ticket = 0;
  uint32_t pack = 0;
  std::unique_ptr<Buffer> tail;  // null until something is appended
  std::vector<std::pair<ChunkId, ChunkRow>> rows;
  std::vector<std::string> leases;
  int64_t bytes = 0;
  int64_t end = 0;     // of the pack once this is written
  bool seals = false;  // nothing follows in its pack
  bool hurry = false;

  bool empty() const { return rows.empty() && leases.empty() && !seals; }
};

}  // namespace graft::fileservice
