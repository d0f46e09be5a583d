// Names that come from strangers: resource names, and paths of files inside of a fileset.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::fileservice {

inline constexpr size_t kMaxPathBytes = 1024;
inline constexpr size_t kMaxPathSegmentBytes = 255;

// INVALID_ARGUMENT (PATH_INVALID) unless `path` can be written under every target folder on every
// system, and has one spelling only: relative, `/` between parts, UTF-8 without decomposed letters,
// no empty part, `.`, `..`, `.git`, backslash, colon, control, zero-width or direction character,
// no part that ends with a dot or a space or is a device of Windows.
absl::Status CheckPath(absl::string_view path);

// `path` as systems that do not tell case apart see it. Two paths of a version must differ in it.
std::string FoldCase(absl::string_view path);

// 2 to 63 of [a-z0-9._-], beginning with a letter or digit. INVALID_ARGUMENT (NAME_INVALID).
absl::Status CheckId(absl::string_view id, absl::string_view what);

struct FilesetName {
  std::string workspace;
  std::string fileset;
  std::string ToString() const;
};
// "workspaces/{w}/filesets/{f}".
absl::StatusOr<FilesetName> ParseFilesetName(absl::string_view name);
// "workspaces/{w}" or "workspaces/-" (an empty result).
absl::StatusOr<std::string> ParseWorkspaceName(absl::string_view name);

// A child of a fileset: "workspaces/{w}/filesets/{f}/{collection}/{id}".
struct ChildName {
  FilesetName fileset;
  std::string id;
};
absl::StatusOr<ChildName> ParseChildName(absl::string_view name, absl::string_view collection);
std::string VersionName(const FilesetName& fileset, int64_t number);

// Names of refs: like ids, but no number and not `latest`.
absl::Status CheckRef(absl::string_view ref);

}  // namespace graft::fileservice
