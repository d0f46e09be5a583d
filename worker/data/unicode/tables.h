// The generated tables (tables.inc), for unicode.cc and normalize.cc alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/data/unicode/unicode.h"

namespace graft::data::tables {

const CharRecord& Record(uint32_t code_point);
size_t ScriptCount();
absl::string_view ScriptName(size_t index);

// What a character becomes; empty where it stays as it is.
absl::Span<const uint32_t> Canonical(uint32_t code_point);
absl::Span<const uint32_t> Compatible(uint32_t code_point);  // where it differs from the canonical
absl::Span<const uint32_t> Lower(uint32_t code_point);
uint8_t CombiningClass(uint32_t code_point);
// 0 where the two do not compose. Not for Hangul.
uint32_t Compose(uint32_t first, uint32_t second);

}  // namespace graft::data::tables
