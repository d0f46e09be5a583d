// Unicode normalisation forms and lower case, as the reference tokenizers library applies them. The
// output is a sequence of characters with what each did to the text, from which offsets into the
// original are kept.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/data/unicode/unicode.h"

namespace graft::data {

// One character of a rewritten text. `change` says how it came about: 0 in the place of a character
// of the source, 1 inserted behind one, -n in the place of one and n more that follow it.
struct CharChange {
  uint32_t code_point;
  int32_t change;
};

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// True where no character of `text` (valid UTF-8) can be changed by `form`; false says nothing.
bool IsNormalized(absl::string_view text, NormalForm form);
std::vector<CharChange> Normalize(absl::string_view text, NormalForm form);
std::vector<CharChange> LowerCase(absl::string_view text);

// Appends the lower-case form of one character.
void AppendLowerCase(uint32_t code_point, std::vector<uint32_t>& out);

}  // namespace graft::data
