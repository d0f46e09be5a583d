#include "fileservice/cas/codec.h"

#include <zstd.h>

#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::fileservice {
namespace {

constexpr int kLevel = 1;
constexpr size_t kProbeBytes = 64 << 10;
constexpr double kWorthwhileRatio = 0.9;
constexpr double kDeltaWorthwhileRatio = 0.7;

std::string Compress(absl::string_view raw) {
  std::string out(ZSTD_compressBound(raw.size()), '\0');
  const size_t size = ZSTD_compress(out.data(), out.size(), raw.data(), raw.size(), kLevel);
  if (ZSTD_isError(size)) return std::string();
  out.resize(size);
  return out;
}

// Plane p of n numbers begins at p * n; the highest bytes come first. What is left behind the last
// whole number is kept as the difference of bytes.
template <typename T>
void SplitDifferences(absl::string_view raw, absl::string_view base, char* planes) {
  const size_t count = raw.size() / sizeof(T);
  for (size_t i = 0; i < count; ++i) {
    T a, b;
    std::memcpy(&a, raw.data() + i * sizeof(T), sizeof(T));
    std::memcpy(&b, base.data() + i * sizeof(T), sizeof(T));
    const T difference = static_cast<T>(a - b);
    const T sign = static_cast<T>(0 - (difference >> (8 * sizeof(T) - 1)));
    const T folded = static_cast<T>(static_cast<T>(difference << 1) ^ sign);
    for (size_t plane = 0; plane < sizeof(T); ++plane) {
      planes[plane * count + i] = static_cast<char>(folded >> (8 * (sizeof(T) - 1 - plane)));
    }
  }
  for (size_t i = count * sizeof(T); i < raw.size(); ++i) {
    planes[i] = static_cast<char>(raw[i] - base[i]);
  }
}

template <typename T>
void JoinDifferences(absl::string_view planes, absl::string_view base, char* out) {
  const size_t count = planes.size() / sizeof(T);
  for (size_t i = 0; i < count; ++i) {
    T folded = 0;
    for (size_t plane = 0; plane < sizeof(T); ++plane) {
      const T byte = static_cast<uint8_t>(planes[plane * count + i]);
      folded = static_cast<T>(folded | static_cast<T>(byte << (8 * (sizeof(T) - 1 - plane))));
    }
    const T sign = static_cast<T>(0 - (folded & 1));
    T value;
    std::memcpy(&value, base.data() + i * sizeof(T), sizeof(T));
    value = static_cast<T>(value + static_cast<T>((folded >> 1) ^ sign));
    std::memcpy(out + i * sizeof(T), &value, sizeof(T));
  }
  for (size_t i = count * sizeof(T); i < planes.size(); ++i) {
    out[i] = static_cast<char>(planes[i] + base[i]);
  }
}

std::string Padded(absl::string_view base, size_t size) {
  std::string padded(base.substr(0, size));
  padded.resize(size, '\0');
  return padded;
}

bool IsBelow(size_t size, size_t of, double ratio) {
  return static_cast<double>(size) < static_cast<double>(of) * ratio;
}

}  // namespace

std::string CompressIfWorthwhile(absl::string_view raw) {
  const absl::string_view probe = raw.substr(0, kProbeBytes);
  std::string out = Compress(probe);
  if (out.empty() || !IsBelow(out.size(), probe.size(), kWorthwhileRatio)) return std::string();
  if (probe.size() < raw.size()) out = Compress(raw);
  if (!IsBelow(out.size(), raw.size(), kWorthwhileRatio)) return std::string();
  return out;
}

absl::Status Decompress(absl::string_view stored, size_t raw_bytes, char* out) {
  const size_t size = ZSTD_decompress(out, raw_bytes, stored.data(), stored.size());
  if (ZSTD_isError(size) || size != raw_bytes) {
    return absl::DataLossError(
        absl::StrCat("a compressed chunk does not give its ", raw_bytes, " bytes"));
  }
  return absl::OkStatus();
}

std::string EncodeDelta(absl::string_view raw, absl::string_view base, int width) {
  const std::string padded = Padded(base, raw.size());
  std::string planes(raw.size(), '\0');
  switch (width) {
    case 2:
      SplitDifferences<uint16_t>(raw, padded, planes.data());
      break;
    case 4:
      SplitDifferences<uint32_t>(raw, padded, planes.data());
      break;
    case 8:
      SplitDifferences<uint64_t>(raw, padded, planes.data());
      break;
    default:
      width = 1;
      SplitDifferences<uint8_t>(raw, padded, planes.data());
  }
  const std::string packed = Compress(planes);
  if (packed.empty() || !IsBelow(packed.size(), raw.size(), kDeltaWorthwhileRatio)) return "";
  return static_cast<char>(width) + packed;
}

absl::Status DecodeDelta(absl::string_view stored, absl::string_view base, size_t raw_bytes,
                         char* out) {
  if (stored.empty()) return absl::DataLossError("a delta is empty");
  std::string planes(raw_bytes, '\0');
  GRAFT_RETURN_IF_ERROR(Decompress(stored.substr(1), raw_bytes, planes.data()));
  const std::string padded = Padded(base, raw_bytes);
  switch (stored[0]) {
    case 1:
      JoinDifferences<uint8_t>(planes, padded, out);
      return absl::OkStatus();
    case 2:
      JoinDifferences<uint16_t>(planes, padded, out);
      return absl::OkStatus();
    case 4:
      JoinDifferences<uint32_t>(planes, padded, out);
      return absl::OkStatus();
    case 8:
      JoinDifferences<uint64_t>(planes, padded, out);
      return absl::OkStatus();
    default:
      return absl::DataLossError("a delta of numbers of an unknown width");
  }
}

}  // namespace graft::fileservice
