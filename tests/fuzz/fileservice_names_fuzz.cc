// Hostile names: what CheckPath lets through can be written beneath a folder and comes back as it
// was; resource names that parse say what they said.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/match.h"
#include "fileservice/catalog/names.h"
#include "fileservice/transfer/piece_set.h"

using namespace graft::fileservice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  if (CheckPath(input).ok()) {
    const bool escapes = input.empty() || input[0] == '/' || absl::StrContains(input, "//") ||
                         input == ".." || absl::StartsWith(input, "../") ||
                         absl::StrContains(input, "/../") || absl::EndsWith(input, "/..") ||
                         absl::StrContains(input, absl::string_view("\0", 1)) ||
                         input.size() > kMaxPathBytes;
    if (escapes) std::abort();
    if (FoldCase(FoldCase(input)) != FoldCase(input)) std::abort();
  }
  const auto fileset = ParseFilesetName(input);
  if (fileset.ok() && fileset->ToString() != input) std::abort();
  ParseChildName(input, "versions").status().IgnoreError();
  ParseWorkspaceName(input).status().IgnoreError();
  const PieceSet pieces = PieceSet::FromBytes(input, 100);
  if (pieces.count() > 100 || PieceSet::FromBytes(pieces.Bytes(), 100).count() != pieces.count()) {
    std::abort();
  }
  return 0;
}
