#include "worker/data/unicode/tables.h"

#include <algorithm>
#include <iterator>

namespace graft::data::tables {
namespace {

struct Composition {
  uint32_t first;
  uint32_t second;
  uint32_t composed;
};

#include "worker/data/unicode/tables.inc"

constexpr uint32_t kCodePoints = 0x110000;

template <size_t N, size_t M, size_t P>
absl::Span<const uint32_t> FindIn(const uint32_t (&keys)[N], const uint16_t (&starts)[M],
                                  const uint32_t (&pool)[P], uint32_t code_point) {
  const auto* it = std::lower_bound(std::begin(keys), std::end(keys), code_point);
  if (it == std::end(keys) || *it != code_point) return {};
  const size_t i = static_cast<size_t>(it - std::begin(keys));
  return absl::MakeConstSpan(pool + starts[i], starts[i + 1] - starts[i]);
}

}  // namespace

const CharRecord& Record(uint32_t code_point) {
  if (code_point >= kCodePoints) code_point = 0xffff;  // unassigned for ever
  return kRecords[kRecordIndex[kBlockIndex[code_point / kBlock] * kBlock + code_point % kBlock]];
}

size_t ScriptCount() { return std::size(kScriptNames); }
absl::string_view ScriptName(size_t index) { return kScriptNames[index]; }

absl::Span<const uint32_t> Canonical(uint32_t code_point) {
  return FindIn(kCanonicalKeys, kCanonicalStarts, kCanonicalPool, code_point);
}

absl::Span<const uint32_t> Compatible(uint32_t code_point) {
  return FindIn(kCompatibleKeys, kCompatibleStarts, kCompatiblePool, code_point);
}

absl::Span<const uint32_t> Lower(uint32_t code_point) {
  return FindIn(kLowerKeys, kLowerStarts, kLowerPool, code_point);
}

uint8_t CombiningClass(uint32_t code_point) {
  const auto* it = std::lower_bound(std::begin(kClassKeys), std::end(kClassKeys), code_point);
  if (it == std::end(kClassKeys) || *it != code_point) return 0;
  return kClassValues[it - std::begin(kClassKeys)];
}

uint32_t Compose(uint32_t first, uint32_t second) {
  const auto* it = std::lower_bound(
      std::begin(kCompositions), std::end(kCompositions), Composition{first, second, 0},
      [](const Composition& a, const Composition& b) {
        return a.first != b.first ? a.first < b.first : a.second < b.second;
      });
  if (it == std::end(kCompositions) || it->first != first || it->second != second) return 0;
  return it->composed;
}

}  // namespace graft::data::tables
