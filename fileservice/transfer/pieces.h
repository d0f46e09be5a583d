// The pieces of a version: runs of its chunks, in the order of paths, of kPieceBytes or more. Both
// ends make the same list from the manifest, so that a number names a piece.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/digest.h"

namespace graft::fileservice {

// The contract's 8 MiB: a few seconds of a slow worker's network, and thousands for a large model.
inline constexpr int64_t kPieceBytes = 8 << 20;

struct PieceChunk {
  Sha256Digest id{};
  uint32_t size = 0;
  uint32_t file = 0;   // index in the list of files
  int64_t offset = 0;  // in the file
};

struct PieceList {
  std::vector<PieceChunk> chunks;
  std::vector<size_t> begins;  // where each piece begins in `chunks`
  std::vector<int64_t> bytes;  // of each piece

  uint32_t size() const { return static_cast<uint32_t>(begins.size()); }
  size_t end(uint32_t piece) const {
    return piece + 1 < begins.size() ? begins[piece + 1] : chunks.size();
  }
  void Add(const PieceChunk& chunk) {
    if (begins.empty() || bytes.back() >= kPieceBytes) {
      begins.push_back(chunks.size());
      bytes.push_back(0);
    }
    bytes.back() += chunk.size;
    chunks.push_back(chunk);
  }
};

}  // namespace graft::fileservice
