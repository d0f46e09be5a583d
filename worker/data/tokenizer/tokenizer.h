// Text to token ids and back, identical to Hugging Face's `tokenizers` 0.23.
//
//   GRAFT_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::FromJson(json));
//   GRAFT_ASSIGN_OR_RETURN(Encoding encoding, tokenizer->Encode(text, {.offsets = true}));
//   std::string text = tokenizer->Decode(encoding.ids);
//
// A tokenizer is built once, never changes after it, and may be used by any number of threads at
// the same time. Word caches are kept inside, one per concurrent call, each of bounded size.
//
// Hazards
//  - `add_special_tokens` is false unless asked for. A chat template writes its own BOS; encoding
//    its output with special tokens added would give two.
//  - Text that is not UTF-8 is read as Python's bytes.decode("utf-8", errors="replace") reads it;
//    offsets still refer to the bytes as given.
//  - A tokenizer.json may ask for truncation and padding. Both belong to the caller and are
//  ignored.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "base/json.h"

namespace graft::data {

// A token that is found in the text before the model sees it.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only between characters that are no part of a word
  bool lstrip = false;       // takes the white space on its left with it
  bool rstrip = false;       // takes the white space on its right with it
  bool normalized = false;   // is looked for in the normalised text
  bool special = false;      // left out by Decode(ids, {.skip_special_tokens = true})
};

struct EncodeOptions {
  // Apply the post-processor (BOS, EOS, [CLS] ... as the tokenizer defines them).
  bool add_special_tokens = false;
  // Read special added tokens that stand in the text as ordinary text, for text that a user wrote
  // and that must not be able to speak with the voice of the template.
  bool encode_special_tokens = false;
  // Fill Encoding::offsets.
  bool offsets = false;
};

struct Encoding {
  std::vector<int32_t> ids;
  // Where each token came from: [begin, end) in bytes of the text as given, always at the bounds of
  // characters, so tokens that are parts of one character share its range. Tokens added by the
  // post-processor have {0, 0}. Empty unless asked for.
  std::vector<std::pair<uint32_t, uint32_t>> offsets;
};

struct DecodeOptions {
  bool skip_special_tokens = false;
};

// `tokenizer.ggml.*` of a GGUF file's metadata. An empty vector or optional is an absent key.
struct GgufTokenizerFields {
  std::string model;                 // tokenizer.ggml.model: gpt2, llama, bert, t5, gemma4
  std::string pre;                   // tokenizer.ggml.pre: smollm, llama-bpe, qwen2, ...
  std::vector<std::string> tokens;   // tokenizer.ggml.tokens
  std::vector<float> scores;         // tokenizer.ggml.scores
  std::vector<int32_t> token_types;  // tokenizer.ggml.token_type
  std::vector<std::string> merges;   // tokenizer.ggml.merges, "left right"
  absl::optional<int32_t> bos_token_id;
  absl::optional<int32_t> eos_token_id;
  absl::optional<int32_t> unknown_token_id;
  absl::optional<int32_t> separator_token_id;  // tokenizer.ggml.seperator_token_id (so spelled)
  absl::optional<int32_t> padding_token_id;
  absl::optional<int32_t> cls_token_id;
  absl::optional<bool> add_bos_token;
  absl::optional<bool> add_eos_token;
  absl::optional<bool> add_space_prefix;
  absl::optional<bool> remove_extra_whitespaces;
  std::string precompiled_charsmap;
  std::string chat_template;  // tokenizer.chat_template; kept for the caller, not read here
};

// The tokenizer_config.json that goes beside Tokenizer::ToJson() of the same metadata: the special
// tokens, whether BOS and EOS are added, and the chat template.
Json GgufTokenizerConfig(const GgufTokenizerFields& fields);

class Tokenizer {
 public:
  // From the text of a tokenizer.json. INVALID_ARGUMENT names the member that is wrong;
  // UNIMPLEMENTED names a component or a regular expression that is not supported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(absl::string_view tokenizer_json);
  // From GGUF metadata. UNIMPLEMENTED names an unknown model or pre-tokenizer.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const GgufTokenizerFields& fields);
  // From the bytes of a SentencePiece `.model` file (types unigram and bpe).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromSentencePiece(absl::string_view model);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // INVALID_ARGUMENT where the text holds what the vocabulary cannot express and no unknown token
  // is defined, or is longer than kMaxTextBytes. RESOURCE_EXHAUSTED where a regular expression of
  // the tokenizer needs more steps than its limit on this text.
  absl::StatusOr<Encoding> Encode(absl::string_view text, const EncodeOptions& options = {}) const;
  // The same into `out`, whose buffers are reused.
  absl::Status EncodeInto(absl::string_view text, const EncodeOptions& options,
                          Encoding& out) const;
  // A pair of texts, put together by the post-processor. Offsets refer to each token's own text.
  absl::StatusOr<Encoding> EncodePair(absl::string_view first, absl::string_view second,
                                      const EncodeOptions& options = {}) const;

  // Valid UTF-8: what is half a character reads as U+FFFD. Ids outside of the vocabulary are
  // skipped.
  std::string Decode(absl::Span<const int32_t> ids, const DecodeOptions& options = {}) const;

  absl::optional<int32_t> TokenToId(absl::string_view token) const;
  // The token as the vocabulary spells it (byte-level tokens in their printable form); nullopt
  // where `id` is not in the vocabulary. The view lives as long as the tokenizer.
  absl::optional<absl::string_view> IdToToken(int32_t id) const;
  // Whether `id` is an added token marked special.
  bool IsSpecial(int32_t id) const;

  // The text of a tokenizer.json that makes this tokenizer again, here and in Hugging Face's
  // library, whatever it was made of.
  std::string ToJson() const;

  // The number of tokens, added ones included.
  int32_t vocab_size() const;
  // One past the largest id: the least number of rows an embedding needs. Ids may have gaps.
  int32_t id_limit() const;
  // In the order of their ids.
  const std::vector<AddedToken>& added_tokens() const;

  static constexpr size_t kMaxTextBytes = size_t{1} << 31;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// Turns ids into text as they are generated. What Add() and Finish() return, put together, is
// Tokenizer::Decode() of all ids; Add() never returns a part of a character. (One exception: of a
// run of <0x..> tokens that turns out ill-formed, Decode() keeps nothing, while a stream may have
// given out the well-formed characters at its start.) For one stream; not thread-safe. The
// tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options = {});
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;

  // The text that `id` completes; often empty.
  std::string Add(int32_t id);
  // What was held back. The decoder can then be used for a new stream.
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace graft::data
