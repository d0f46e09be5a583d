#include "fileservice/cas/codec.h"

#include <zstd.h>

#include <algorithm>
#include <vector>

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

std::string EncodeXorPlanes(absl::string_view raw, absl::string_view base) {
  std::string planes(raw.size(), '\0');
  const size_t high = raw.size() / 2;  // where the plane of odd bytes ends and that of even begins
  for (size_t i = 0; i < raw.size(); ++i) {
    const char other = i < base.size() ? base[i] : '\0';
    planes[i % 2 == 1 ? i / 2 : high + i / 2] = static_cast<char>(raw[i] ^ other);
  }
  std::string out = Compress(planes);
  if (out.empty() || !IsBelow(out.size(), raw.size(), kDeltaWorthwhileRatio)) return std::string();
  return out;
}

absl::Status DecodeXorPlanes(absl::string_view stored, absl::string_view base, size_t raw_bytes,
                             char* out) {
  std::string planes(raw_bytes, '\0');
  GRAFT_RETURN_IF_ERROR(Decompress(stored, raw_bytes, planes.data()));
  const size_t high = raw_bytes / 2;
  for (size_t i = 0; i < raw_bytes; ++i) {
    const char other = i < base.size() ? base[i] : '\0';
    out[i] = static_cast<char>(planes[i % 2 == 1 ? i / 2 : high + i / 2] ^ other);
  }
  return absl::OkStatus();
}

}  // namespace graft::fileservice
