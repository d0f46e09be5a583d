// Inside of transfer/: the folder that a download fills. Nothing outside of it is touched: what the
// server names is opened beneath it, and no link in it is followed. Thread-safe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/file.h"

namespace graft::fileservice {

// Holds what is not complete: what another process left is taken up.
inline constexpr const char* kPartialFolder = ".graft-partial";

// The file `path` beneath the open folder `root`, without following a link; invalid if there is
// none.
UniqueFd OpenFileBeneath(int root, const std::string& path);

// INVALID_ARGUMENT for a path that cannot be written beneath a target.
absl::Status CheckRelative(absl::string_view path);

class Target {
 public:
  // Makes the folder if it is not there.
  static absl::StatusOr<Target> Open(const std::string& path);

  // The folder `path`, made if it is not there.
  absl::StatusOr<UniqueFd> OpenFolder(const std::string& path) const;
  // The file as it is there, or an invalid descriptor.
  UniqueFd OpenExisting(const std::string& path) const;
  // The partial file `name`, made if it is not there.
  absl::StatusOr<UniqueFd> OpenPartial(const std::string& name) const;
  // Makes the partial file `name` a link to the open `file`. False where they cannot be linked.
  bool LinkPartial(int file, const std::string& name) const;
  // Puts a partial file in its place, at once.
  absl::Status Complete(const std::string& partial, const std::string& path) const;
  void RemovePartialFolder() const;

 private:
  std::string path_;
  UniqueFd root_;
  UniqueFd partial_;
};

// The name of the partial file of `path`: two files of the same content have their own.
std::string PartialName(absl::string_view sha256_hex, absl::string_view path);

}  // namespace graft::fileservice
