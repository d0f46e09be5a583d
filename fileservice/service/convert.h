// Records of the catalog as messages of the contract, and back.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "fileservice/catalog/catalog.h"
#include "graft/v1/data.pb.h"
#include "graft/v1/fileset.pb.h"

namespace graft::fileservice {

v1::FileSet ToMessage(const FilesetRecord& record);
v1::FileSetVersion ToMessage(const FilesetName& fileset, const VersionRecord& record,
                             const std::vector<Ref>& refs, const std::vector<Pin>& pins);
v1::FileEntry ToMessage(absl::string_view path, const Entry& entry);
v1::FileSetRef ToMessage(const Ref& ref);
v1::Pin ToMessage(const Pin& pin);
v1::UploadSession ToMessage(const SessionRecord& session);
v1::ChunkProfile ToMessage(ChunkProfile profile);
ChunkProfile FromMessage(v1::ChunkProfile profile);

// An optional field of a message.
inline std::optional<int64_t> IfSet(bool set, int64_t value) {
  return set ? std::optional<int64_t>(value) : std::nullopt;
}

// INVALID_ARGUMENT for labels, descriptions and retention beyond the contract's limits.
absl::Status CheckFilesetMessage(const v1::FileSet& message);
// The fields that a caller sets.
FilesetRecord FromMessage(const v1::FileSet& message, absl::string_view workspace,
                          absl::string_view id);

}  // namespace graft::fileservice
