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

// `raw` as differences to `base`: both as little-endian numbers of `width` bytes (1, 2, 4 or 8),
// the differences with the sign in the lowest bit, their bytes split into planes, zstd. A weight
// that training moved a little has a small difference whatever its exponent, and bf16 numbers are
// ordered like their bits. Empty unless it is below 70 % of `raw`. Where the base is shorter,
// zeroes stand for it. Begins with the width.
std::string EncodeDelta(absl::string_view raw, absl::string_view base, int width);
// DATA_LOSS unless `stored` gives exactly `raw_bytes` bytes; never writes more.
absl::Status DecodeDelta(absl::string_view stored, absl::string_view base, size_t raw_bytes,
                         char* out);

}  // namespace graft::fileservice
