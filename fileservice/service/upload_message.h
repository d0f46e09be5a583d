// A message of DataService.Upload, its bulk bytes left where gRPC received them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "fileservice/transfer/wire.h"

namespace graft::fileservice {

struct UploadMessage {
  std::string session;
  uint64_t sequence = 0;
  uint64_t encoding = 0;
  std::vector<uint32_t> sizes;
  std::string ids;             // 32 bytes for each of `sizes`
  std::vector<uint32_t> held;  // ascending indexes of chunks whose bytes were not sent
  wire::SplitMessage payload;  // as many bytes as the sizes of the others add up to
};

// `parts` must outlive the result. INVALID_ARGUMENT for what is no message, or contradicts itself.
absl::StatusOr<UploadMessage> ParseUpload(absl::Span<const absl::string_view> parts);

}  // namespace graft::fileservice
