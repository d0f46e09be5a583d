// A hostile tokenizer.json: what loads must encode and decode without a fault, within bounds.
#include <cstddef>
#include <cstdint>

#include "worker/data/tokenizer/tokenizer.h"

using graft::data::Encoding;
using graft::data::Tokenizer;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  // The last bytes are the text, and a file of their own for the other format.
  const size_t text_size = size < 64 ? size / 2 : 32;
  const absl::string_view text = input.substr(size - text_size);
  const auto tokenizer = Tokenizer::FromJson(input.substr(0, size - text_size));
  if (tokenizer.ok()) {
    for (const bool special : {false, true}) {
      const auto encoding = (*tokenizer)
                                ->Encode(text, {.add_special_tokens = special,
                                                .encode_special_tokens = special,
                                                .offsets = true});
      if (!encoding.ok()) continue;
      (*tokenizer)->Decode(encoding->ids);
      graft::data::StreamDecoder stream(**tokenizer);
      for (const int32_t id : encoding->ids) stream.Add(id);
      stream.Finish();
    }
    (void)(*tokenizer)->EncodePair("a b", "c", {.add_special_tokens = true});
  }
  const auto other = Tokenizer::FromSentencePiece(input);
  if (other.ok()) (void)(*other)->Encode(text, {.offsets = true});
  return 0;
}
