// Somebody who may hold a chunk's bytes besides this store: another store's packs, a worker's
// cache, a client that has the file.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "fileservice/cas/pack.h"

namespace graft::fileservice {

// Called by one thread at a time; a call may take as long as the network does.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  // NOT_FOUND when it has not got them. What it answers need not be true: callers hash it.
  virtual absl::StatusOr<std::string> Fetch(const ChunkId& id, uint32_t raw_bytes) = 0;
};

}  // namespace graft::fileservice
