#include "fileservice/cas/folder_source.h"

#include "base/file.h"
#include "base/status_macros.h"

namespace graft::fileservice {
namespace {

constexpr size_t kMaxOpenPacks = 64;

}  // namespace

absl::Status FolderSource::Open() {
  GRAFT_ASSIGN_OR_RETURN(db_, Database::Open(JoinPath(folder_, "index"), {.read_only = true}));
  reader_ =
      std::make_unique<ChunkReader>(*db_, RealFiles(), JoinPath(folder_, "packs"), kMaxOpenPacks);
  return absl::OkStatus();
}

absl::StatusOr<std::string> FolderSource::Fetch(const ChunkId& id, uint32_t /*raw_bytes*/) {
  if (reader_ == nullptr) GRAFT_RETURN_IF_ERROR(Open());
  return reader_->Read(id);
}

}  // namespace graft::fileservice
