// What `tokenizer.ggml.pre` of a GGUF file stands for: the pre-tokenizer of the model's
// tokenizer.json. The file itself holds but the name.
#pragma once

#include "absl/strings/string_view.h"

namespace graft::data {

struct GgufPreTokenizer {
  absl::string_view names;  // separated by spaces
  // In the order in which they are applied: an expression splits its matches off; kSingleDigits,
  // kDigitRuns and kPunctuationRuns stand for the pre-tokenizers of these kinds. The bytes
  // become printable at the end, or at kByteLevel, which also splits as GPT-2 does.
  absl::string_view steps[6];
  bool nfc = false;
  bool ignore_merges = false;
  bool adds_bos = false;  // where the file does not say
};

constexpr absl::string_view kSingleDigits = "Digits 1";
constexpr absl::string_view kDigitRuns = "Digits";
constexpr absl::string_view kPunctuationRuns = "Punctuation";
constexpr absl::string_view kByteLevel = "ByteLevel";

// nullptr where the name is not known.
const GgufPreTokenizer* FindGgufPreTokenizer(absl::string_view name);

}  // namespace graft::data
