// How stored bytes become raw ones and back.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace graft::fileservice {

// The zstd frame of `raw` at level 1, or an empty string unless it is below 90 % of it. Looks at
// the first 64 KiB before it spends time on the rest.
std::string CompressIfWorthwhile(absl::string_view raw);

// DATA_LOSS unless `stored` is one zstd frame of exactly `raw_bytes` bytes; never writes more.
absl::Status Decompress(absl::string_view stored, size_t raw_bytes, char* out);

// `raw` as a difference to `base`: XOR, split into planes by byte position within 2-byte numbers,
// zstd. Empty unless it is below 70 % of `raw`. Where the base is shorter, zeroes stand for it.
std::string EncodeXorPlanes(absl::string_view raw, absl::string_view base);
absl::Status DecodeXorPlanes(absl::string_view stored, absl::string_view base, size_t raw_bytes,
                             char* out);

}  // namespace graft::fileservice
