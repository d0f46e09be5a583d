// Another store's data folder as a source of chunks, read beside whoever uses it.
//
// Sees what the other store had when it was opened: at the first Fetch, or by Open. For one thread.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fileservice/cas/chunk_reader.h"
#include "fileservice/cas/chunk_source.h"
#include "fileservice/cas/database.h"

namespace graft::fileservice {

class FolderSource final : public ChunkSource {
 public:
  // `folder` holds `index` and `packs`.
  explicit FolderSource(std::string folder) : folder_(std::move(folder)) {}

  // For whoever wants to know whether it is there.
  absl::Status Open();
  absl::StatusOr<std::string> Fetch(const ChunkId& id, uint32_t raw_bytes) override;

 private:
  const std::string folder_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<ChunkReader> reader_;  // null until it is open
};

}  // namespace graft::fileservice
