// What every stream of bytes works with. All of it outlives the server.
#pragma once

#include "fileservice/cas/chunk_store.h"
#include "fileservice/cas/read_pool.h"
#include "fileservice/catalog/catalog.h"
#include "fileservice/service/byte_budget.h"
#include "fileservice/service/chunk_cache.h"
#include "fileservice/service/verified_files.h"
#include "fileservice/transfer/stall_watch.h"

namespace graft::fileservice {

class IntakeTable;

struct DataPlane {
  Catalog& catalog;
  ChunkStore& store;
  ByteBudget& budget;
  StallWatch& watch;
  Clock& clock;
  ChunkCache& cache;
  IntakeTable& intakes;
  VerifiedFiles& verified;
  // Reads of the streams. Ends before what they read from.
  ReadPool readers{};
};

// The payload of a stream message, at most.
inline constexpr size_t kMaxDataBytes = 4 << 20;

absl::Status StalledError(absl::Duration timeout);

}  // namespace graft::fileservice
