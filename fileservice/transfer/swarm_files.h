// Inside of transfer/: the files of a version while they fill piece by piece, in any order.
// Thread-safe: pieces do not overlap, and one that was verified does not change.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/file.h"
#include "fileservice/transfer/link.h"
#include "fileservice/transfer/piece_set.h"
#include "fileservice/transfer/pieces.h"
#include "fileservice/transfer/target.h"

namespace graft::fileservice {

class SwarmFiles {
 public:
  static constexpr size_t kMaxFiles = 1024;

  // FAILED_PRECONDITION for more files than that.
  static absl::StatusOr<std::unique_ptr<SwarmFiles>> Open(const std::string& folder,
                                                          std::vector<LocalFile> files);
  const PieceList& pieces() const { return pieces_; }
  // Those that another process has left here, verified.
  absl::StatusOr<PieceSet> FindWhole() const;
  // DATA_LOSS unless `bytes` are the piece's.
  absl::Status Write(uint32_t piece, absl::string_view bytes) const;
  absl::StatusOr<std::string> Read(uint32_t piece) const;
  // Checks every file's hash and puts it in its place; reads go on.
  absl::Status Complete() const;

 private:
  SwarmFiles(Target target, std::vector<LocalFile> files)
      : target_(std::move(target)), files_(std::move(files)) {}
  absl::Status Verify(uint32_t piece, absl::string_view bytes) const;

  const Target target_;
  const std::vector<LocalFile> files_;
  std::vector<UniqueFd> fds_;
  PieceList pieces_;
};

}  // namespace graft::fileservice
