#include "worker/data/tokenizer/post_processor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/byte_level.h"
#include "worker/data/tokenizer/json_fields.h"
#include "worker/data/tokenizer/token_table.h"
#include "worker/data/unicode/unicode.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr size_t kMaxTemplate = 4096;  // pieces
constexpr absl::string_view kProcessor = "post_processor";

bool IsSpaceOfToken(uint32_t c) { return c == CharOfByte(' ') || IsWhiteSpace(c); }

uint32_t Forward(absl::string_view text, uint32_t at, size_t count, uint32_t limit) {
  for (; count > 0 && at < limit; --count) at += Utf8Length(text[at]);
  return at;
}

uint32_t Backward(absl::string_view text, uint32_t at, size_t count, uint32_t limit) {
  for (; count > 0 && at > limit; --count) {
    do {
      --at;
    } while (at > limit && IsUtf8Continuation(text[at]));
  }
  return at;
}

// Takes the white space at a token's ends out of its offsets, except the one space that
// `prefix_space` put before the first word.
void TrimOffsets(Sequence& sequence, bool prefix_space, const PostProcessor::Spelling& spelling) {
  Encoding& encoding = sequence.encoding;
  for (size_t i = 0; i < encoding.offsets.size(); ++i) {
    auto& [begin, end] = encoding.offsets[i];
    absl::string_view token = spelling(encoding.ids[i]);
    // An added token is what stands in the text, with the white space that it took.
    if (token.empty()) {
      token = sequence.text.substr(std::min<size_t>(begin, sequence.text.size()), end - begin);
    }
    size_t leading = 0, trailing = 0;
    for (size_t at = 0; at < token.size() && IsSpaceOfToken(NextCodePoint(token, at));) ++leading;
    for (size_t at = token.size(); at > 0 && IsSpaceOfToken(CodePointBefore(token, at));) {
      at = Backward(token, static_cast<uint32_t>(at), 1, 0);
      ++trailing;
    }
    const bool first = i == 0 || begin == 0;
    if (first && prefix_space && leading == 1) leading = 0;
    begin = Forward(sequence.text, begin, leading, end);
    if (CountCodePoints(sequence.text.substr(0, std::min<size_t>(end, 4 * trailing))) >= trailing) {
      end = Backward(sequence.text, end, trailing, begin);
    }
  }
}

Sequence TokensOnly(const std::vector<int32_t>& ids, bool offsets) {
  Sequence sequence;
  sequence.encoding.ids = ids;
  if (offsets) sequence.encoding.offsets.resize(ids.size(), {0, 0});
  return sequence;
}

class ByteLevelProcessor final : public PostProcessor {
 public:
  ByteLevelProcessor(bool trim, bool prefix_space) : trim_(trim), prefix_space_(prefix_space) {}
  absl::Status Apply(std::vector<Sequence>& sequences, const EncodeOptions& options,
                     const Spelling& spelling) const override {
    if (!trim_) return absl::OkStatus();
    for (Sequence& sequence : sequences) TrimOffsets(sequence, prefix_space_, spelling);
    return absl::OkStatus();
  }

 private:
  bool trim_, prefix_space_;
};

// [CLS] a [SEP], then b [SEP] (Bert) or [SEP] b [SEP] (Roberta).
class BertProcessor final : public PostProcessor {
 public:
  struct Options {
    int32_t cls, sep;
    bool roberta, trim, prefix_space;
  };
  explicit BertProcessor(Options options) : options_(options) {}
  absl::Status Apply(std::vector<Sequence>& sequences, const EncodeOptions& options,
                     const Spelling& spelling) const override {
    if (options_.trim) {
      for (Sequence& sequence : sequences) TrimOffsets(sequence, options_.prefix_space, spelling);
    }
    if (!options.add_special_tokens) return absl::OkStatus();
    std::vector<Sequence> out;
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (i == 0) out.push_back(TokensOnly({options_.cls}, options.offsets));
      if (i > 0 && options_.roberta) out.push_back(TokensOnly({options_.sep}, options.offsets));
      out.push_back(std::move(sequences[i]));
      out.push_back(TokensOnly({options_.sep}, options.offsets));
    }
    sequences = std::move(out);
    return absl::OkStatus();
  }

 private:
  Options options_;
};

class TemplateProcessor final : public PostProcessor {
 public:
  // A text, or tokens.
  struct Part {
    int sequence = -1;
    std::vector<int32_t> ids;
  };
  TemplateProcessor(std::vector<Part> single, std::vector<Part> pair)
      : single_(std::move(single)), pair_(std::move(pair)) {}
  absl::Status Apply(std::vector<Sequence>& sequences, const EncodeOptions& options,
                     const Spelling& spelling) const override {
    if (sequences.size() > 2) {
      return absl::InvalidArgumentError(
          "the tokenizer's template processor cannot follow another post-processor that adds "
          "tokens");
    }
    std::vector<Sequence> out;
    for (const Part& part : sequences.size() == 1 ? single_ : pair_) {
      if (part.sequence >= static_cast<int>(sequences.size())) {
        return absl::InvalidArgumentError(
            "the tokenizer's template for one text names a second one");
      }
      if (part.sequence >= 0) {
        out.push_back(sequences[static_cast<size_t>(part.sequence)]);
      } else if (options.add_special_tokens) {
        out.push_back(TokensOnly(part.ids, options.offsets));
      }
    }
    sequences = std::move(out);
    return absl::OkStatus();
  }

 private:
  std::vector<Part> single_, pair_;
};

class SequenceProcessor final : public PostProcessor {
 public:
  explicit SequenceProcessor(std::vector<std::unique_ptr<PostProcessor>> parts)
      : parts_(std::move(parts)) {}
  absl::Status Apply(std::vector<Sequence>& sequences, const EncodeOptions& options,
                     const Spelling& spelling) const override {
    for (const auto& part : parts_) {
      GRAFT_RETURN_IF_ERROR(part->Apply(sequences, options, spelling));
    }
    return absl::OkStatus();
  }

 private:
  std::vector<std::unique_ptr<PostProcessor>> parts_;
};

absl::StatusOr<int32_t> ParseId(const Json& json, absl::string_view key) {
  if (!json.is_int() || json.as_int() < 0 || json.as_int() > TokenTable::kMaxId) {
    return WrongField(kProcessor, key, "made of token ids", &json);
  }
  return static_cast<int32_t>(json.as_int());
}

// ["[SEP]", 102]
absl::StatusOr<int32_t> ParseTokenAndId(const Json& json, absl::string_view key) {
  const Json* pair = json.Find(key);
  if (pair == nullptr || !pair->is_array() || pair->as_array().size() != 2) {
    return WrongField(kProcessor, key, "[token, id]", pair);
  }
  return ParseId(pair->as_array()[1], key);
}

absl::StatusOr<TemplateProcessor::Part> ParsePart(const Json& piece, const Json& json) {
  TemplateProcessor::Part part;
  if (const Json* sequence = piece.Find("Sequence")) {
    const std::string id = sequence->GetString("id");
    if (id != "A" && id != "B") return WrongField(kProcessor, "Sequence.id", "A or B", sequence);
    part.sequence = id == "A" ? 0 : 1;
    return part;
  }
  const Json* special = piece.Find("SpecialToken");
  const std::string id = special == nullptr ? "" : special->GetString("id");
  const Json* tokens = json.Find("special_tokens");
  const Json* token = tokens == nullptr ? nullptr : tokens->Find(id);
  const Json* ids = token == nullptr ? nullptr : token->Find("ids");
  if (special == nullptr || ids == nullptr || !ids->is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json: post_processor: the template's token '", id,
                     "' is not in special_tokens"));
  }
  for (const Json& value : ids->as_array()) {
    GRAFT_ASSIGN_OR_RETURN(const int32_t parsed, ParseId(value, "special_tokens"));
    part.ids.push_back(parsed);
  }
  return part;
}

absl::StatusOr<std::vector<TemplateProcessor::Part>> ParseTemplate(const Json& json,
                                                                   absl::string_view key) {
  const Json* pieces = json.Find(key);
  if (pieces == nullptr || !pieces->is_array() || pieces->as_array().size() > kMaxTemplate) {
    return WrongField(kProcessor, key, "an array", pieces);
  }
  std::vector<TemplateProcessor::Part> parts;
  for (const Json& piece : pieces->as_array()) {
    GRAFT_ASSIGN_OR_RETURN(TemplateProcessor::Part part, ParsePart(piece, json));
    parts.push_back(std::move(part));
  }
  return parts;
}

absl::StatusOr<std::unique_ptr<PostProcessor>> ParseProcessor(const Json& json, int depth);

absl::StatusOr<std::unique_ptr<PostProcessor>> ParseProcessors(const Json& json, int depth) {
  GRAFT_ASSIGN_OR_RETURN(auto parts,
                         PartsField(json, kProcessor, "processors", depth, ParseProcessor));
  return std::make_unique<SequenceProcessor>(std::move(parts));
}

absl::StatusOr<std::unique_ptr<PostProcessor>> ParseProcessor(const Json& json, int depth) {
  if (depth > kMaxPartDepth) {
    return absl::InvalidArgumentError("tokenizer.json: post-processors are nested too deeply");
  }
  GRAFT_ASSIGN_OR_RETURN(const std::string type, TypeField(json, kProcessor));
  if (type == "Sequence") return ParseProcessors(json, depth);
  if (type == "ByteLevel") {
    GRAFT_ASSIGN_OR_RETURN(const bool trim, BoolField(json, kProcessor, "trim_offsets", true));
    GRAFT_ASSIGN_OR_RETURN(const bool prefix,
                           BoolField(json, kProcessor, "add_prefix_space", true));
    return std::make_unique<ByteLevelProcessor>(trim, prefix);
  }
  if (type == "TemplateProcessing") {
    GRAFT_ASSIGN_OR_RETURN(auto single, ParseTemplate(json, "single"));
    GRAFT_ASSIGN_OR_RETURN(auto pair, ParseTemplate(json, "pair"));
    return std::make_unique<TemplateProcessor>(std::move(single), std::move(pair));
  }
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    BertProcessor::Options options{};
    options.roberta = type == "RobertaProcessing";
    GRAFT_ASSIGN_OR_RETURN(options.cls, ParseTokenAndId(json, "cls"));
    GRAFT_ASSIGN_OR_RETURN(options.sep, ParseTokenAndId(json, "sep"));
    GRAFT_ASSIGN_OR_RETURN(options.trim,
                           BoolField(json, kProcessor, "trim_offsets", options.roberta));
    GRAFT_ASSIGN_OR_RETURN(options.prefix_space,
                           BoolField(json, kProcessor, "add_prefix_space", true));
    options.trim = options.trim && options.roberta;
    return std::make_unique<BertProcessor>(options);
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json: the post-processor '", type, "' is not known"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PostProcessor>> ParsePostProcessor(const Json* json) {
  if (json == nullptr || json->is_null()) return std::unique_ptr<PostProcessor>();
  return ParseProcessor(*json, 0);
}

}  // namespace graft::data
