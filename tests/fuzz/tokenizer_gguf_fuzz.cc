// Hostile GGUF metadata of a tokenizer: each byte string between zeros is a token or a merge.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "worker/data/tokenizer/byte_level.h"
#include "worker/data/tokenizer/tokenizer.h"

using graft::data::GgufTokenizerFields;
using graft::data::Tokenizer;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  static constexpr const char* kModels[] = {"gpt2", "llama", "t5", "bert", "gemma4", "none"};
  static constexpr const char* kPres[] = {"smollm", "llama-bpe", "falcon", "deepseek-llm",
                                          "tekken", "qwen2",     "?"};
  GgufTokenizerFields fields;
  fields.model = kModels[data[0] % 6];
  fields.pre = kPres[data[1] % 7];
  fields.bos_token_id = static_cast<int8_t>(data[2]);
  fields.unknown_token_id = static_cast<int8_t>(data[3]);
  if ((data[4] & 1) != 0) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string token;
      graft::data::AppendPrintable(std::string(1, static_cast<char>(byte)), token);
      fields.tokens.push_back(token);
    }
  }
  std::vector<std::string> strings(1);
  for (size_t i = 8; i < size; ++i) {
    if (data[i] == 0) {
      strings.emplace_back();
    } else {
      strings.back().push_back(static_cast<char>(data[i]));
    }
  }
  for (size_t i = 0; i < strings.size(); ++i) {
    (i % 3 == 2 ? fields.merges : fields.tokens).push_back(strings[i]);
  }
  if ((data[4] & 2) != 0) {
    for (size_t i = 0; i < fields.tokens.size(); ++i) {
      fields.token_types.push_back(data[5 + i % 3] % 7);
      fields.scores.push_back(static_cast<float>(data[5 + i % 3]) - 128);
    }
  }
  if ((data[4] & 4) != 0) fields.precompiled_charsmap = strings.back();
  const auto tokenizer = Tokenizer::FromGguf(fields);
  if (!tokenizer.ok()) return 0;
  const auto encoding = (*tokenizer)->Encode(strings[0], {.offsets = true});
  if (encoding.ok()) (*tokenizer)->Decode(encoding->ids);
  return 0;
}
