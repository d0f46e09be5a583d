// Tokenizer::FromGguf: rebuilds from a GGUF file's metadata the tokenizer.json that the model had.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/bpe.h"
#include "worker/data/tokenizer/gguf_patterns.h"
#include "worker/data/tokenizer/json_fields.h"
#include "worker/data/tokenizer/sentencepiece.h"
#include "worker/data/tokenizer/tokenizer.h"
#include "worker/data/tokenizer/tokenizer_impl.h"
#include "worker/data/tokenizer/word_models.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

// tokenizer.ggml.token_type
constexpr int32_t kUnknownType = 2, kControlType = 3, kUserDefinedType = 4;
constexpr absl::string_view kBertSpace = "\xe2\x96\x81";  // llama.cpp marks words that begin so

Json ByteLevel(bool use_regex) {
  return TypedPart("ByteLevel")
      .Set("add_prefix_space", Json(false))
      .Set("trim_offsets", Json(false))
      .Set("use_regex", Json(use_regex));
}

Json StepOf(absl::string_view step) {
  if (step == kPunctuationRuns) return TypedPart("Punctuation").Set("behavior", Json("Contiguous"));
  if (step == kByteLevel) return ByteLevel(true);
  if (step == kDigitRuns || step == kSingleDigits) {
    return TypedPart("Digits").Set("individual_digits", Json(step == kSingleDigits));
  }
  return TypedPart("Split")
      .Set("pattern", Json::MakeObject().Set("Regex", Json(step)))
      .Set("behavior", Json("Isolated"))
      .Set("invert", Json(false));
}

Json GgufBpeParts(const GgufPreTokenizer& pre) {
  Json::Array steps;
  bool printable = false;
  for (const absl::string_view step : pre.steps) {
    if (!step.empty()) steps.push_back(StepOf(step));
    printable = printable || step == kByteLevel;
  }
  if (!printable) steps.push_back(ByteLevel(false));
  Json parts = Json::MakeObject();
  if (pre.nfc) parts.Set("normalizer", TypedPart("NFC"));
  parts.Set("pre_tokenizer", SequencePart("pretokenizers", std::move(steps)));
  parts.Set("decoder", ByteLevel(false));
  return parts;
}

Json BertParts() {
  // The vocabulary was turned around: words begin with U+2581 and what continues them has no mark.
  return Json::MakeObject()
      .Set("normalizer", TypedPart("BertNormalizer")
                             .Set("clean_text", true)
                             .Set("handle_chinese_chars", true)
                             .Set("strip_accents", Json())
                             .Set("lowercase", true))
      .Set("pre_tokenizer", TypedPart("BertPreTokenizer"))
      .Set("decoder", TypedPart("WordPiece").Set("prefix", Json("##")).Set("cleanup", Json(true)));
}

absl::Status CheckId(const GgufTokenizerFields& fields, absl::string_view name,
                     absl::optional<int32_t> id) {
  if (id && (*id < 0 || *id >= static_cast<int64_t>(fields.tokens.size()))) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: tokenizer.ggml.", name, " is ", *id,
                                                   ", but there are ", fields.tokens.size(),
                                                   " tokens"));
  }
  return absl::OkStatus();
}

absl::Status CheckFields(const GgufTokenizerFields& fields) {
  if (fields.tokens.empty()) {
    return absl::InvalidArgumentError("GGUF: tokenizer.ggml.tokens is missing");
  }
  if (!fields.token_types.empty() && fields.token_types.size() != fields.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: there are ", fields.tokens.size(),
                                                   " tokens and ", fields.token_types.size(),
                                                   " token types"));
  }
  for (const std::vector<std::string>* strings : {&fields.tokens, &fields.merges}) {
    for (const std::string& text : *strings) {
      if (IsValidUtf8(text)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF: the tokenizer's '", ToValidUtf8(text), "' is not UTF-8"));
    }
  }
  GRAFT_RETURN_IF_ERROR(CheckId(fields, "bos_token_id", fields.bos_token_id));
  GRAFT_RETURN_IF_ERROR(CheckId(fields, "eos_token_id", fields.eos_token_id));
  GRAFT_RETURN_IF_ERROR(CheckId(fields, "unknown_token_id", fields.unknown_token_id));
  GRAFT_RETURN_IF_ERROR(CheckId(fields, "seperator_token_id", fields.separator_token_id));
  return CheckId(fields, "cls_token_id", fields.cls_token_id);
}

// BOS and EOS around a text, as the template processor of a tokenizer.json spells it.
struct EndToken {
  int32_t id = 0;
  std::string text;
};

Json TemplateOf(const absl::optional<EndToken>& before, const absl::optional<EndToken>& after) {
  Json special = Json::MakeObject();
  const auto token = [&special](const EndToken& end) {
    special.Set(end.text, Json::MakeObject()
                              .Set("id", end.text)
                              .Set("ids", Json(Json::Array{Json(end.id)}))
                              .Set("tokens", Json(Json::Array{Json(end.text)})));
    return Json::MakeObject().Set("SpecialToken",
                                  Json::MakeObject().Set("id", end.text).Set("type_id", 0));
  };
  const auto text = [](const char* id) {
    return Json::MakeObject().Set("Sequence",
                                  Json::MakeObject().Set("id", Json(id)).Set("type_id", 0));
  };
  Json::Array single, pair;
  if (before) single.push_back(token(*before));
  single.push_back(text("A"));
  if (after) single.push_back(token(*after));
  pair = single;
  pair.push_back(text("B"));
  if (after) pair.push_back(token(*after));
  return TypedPart("TemplateProcessing")
      .Set("single", Json(std::move(single)))
      .Set("pair", Json(std::move(pair)))
      .Set("special_tokens", std::move(special));
}

absl::optional<EndToken> EndOf(const GgufTokenizerFields& fields, absl::optional<int32_t> id) {
  if (!id) return absl::nullopt;
  return EndToken{*id, fields.tokens[*id]};
}

std::vector<AddedToken> AddedTokensOf(const GgufTokenizerFields& fields) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < fields.token_types.size(); ++id) {
    const int32_t type = fields.token_types[id];
    if (type != kControlType && type != kUserDefinedType && type != kUnknownType) continue;
    AddedToken token;
    token.content = fields.tokens[id];
    token.special = type != kUserDefinedType;
    added.push_back(std::move(token));
  }
  return added;
}

absl::StatusOr<TokenTable> VocabOf(const std::vector<std::string>& tokens) {
  std::vector<TokenTable::Entry> entries;
  entries.reserve(tokens.size());
  for (const std::string& token : tokens) {
    entries.push_back({token, static_cast<int64_t>(entries.size())});
  }
  TokenTable vocab;
  GRAFT_RETURN_IF_ERROR(vocab.AddAll(entries));
  return vocab;
}

absl::StatusOr<std::unique_ptr<Model>> MakeGgufBpe(const GgufTokenizerFields& fields,
                                                   BpeOptions options, bool raw_bytes) {
  GRAFT_ASSIGN_OR_RETURN(TokenTable vocab, VocabOf(fields.tokens));
  std::vector<BpeModel::Merge> merges;
  merges.reserve(fields.merges.size());
  for (const absl::string_view merge : fields.merges) {
    const size_t space = merge.find(' ', 1);
    if (space == absl::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF: tokenizer.ggml.merges holds '", merge, "', which is no pair"));
    }
    merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return BpeModel::Create(std::move(vocab), merges, std::move(options), raw_bytes);
}

absl::StatusOr<std::unique_ptr<Model>> MakeWordPiece(const GgufTokenizerFields& fields) {
  std::vector<std::string> tokens = fields.tokens;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const bool plain = fields.token_types.empty() || fields.token_types[id] == 1;
    if (!plain) continue;
    if (absl::StartsWith(tokens[id], kBertSpace)) {
      tokens[id].erase(0, kBertSpace.size());
    } else if (!absl::StartsWith(tokens[id], "[")) {
      tokens[id].insert(0, "##");
    }
  }
  GRAFT_ASSIGN_OR_RETURN(TokenTable vocab, VocabOf(tokens));
  WordPieceModel::Options options;
  if (fields.unknown_token_id) options.unk_token = tokens[*fields.unknown_token_id];
  return std::make_unique<WordPieceModel>(std::move(vocab), std::move(options));
}

absl::StatusOr<const GgufPreTokenizer*> PreTokenizerOf(const GgufTokenizerFields& fields) {
  const GgufPreTokenizer* pre = FindGgufPreTokenizer(fields.pre);
  if (pre == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("GGUF: the pre-tokenizer '", fields.pre,
                     "' (tokenizer.ggml.pre) is not known; use the model's tokenizer.json"));
  }
  return pre;
}

SentencePieceModel SentencePieceOf(const GgufTokenizerFields& fields) {
  SentencePieceModel model;
  model.unigram = fields.model == "t5";
  model.byte_fallback =
      std::find(fields.tokens.begin(), fields.tokens.end(), "<0x00>") != fields.tokens.end();
  for (size_t id = 0; id < fields.tokens.size(); ++id) {
    SentencePieceModel::Piece piece;
    piece.text = fields.tokens[id];
    if (!fields.scores.empty()) piece.score = fields.scores[id];
    if (!fields.token_types.empty()) piece.type = fields.token_types[id];
    model.pieces.push_back(std::move(piece));
  }
  model.add_dummy_prefix = fields.add_space_prefix.value_or(true);
  model.remove_extra_whitespaces = fields.remove_extra_whitespaces.value_or(false);
  model.precompiled_charsmap = fields.precompiled_charsmap;
  model.unk_id = fields.unknown_token_id.value_or(0);
  if (fields.add_bos_token.value_or(!model.unigram)) model.bos_id = fields.bos_token_id;
  if (fields.add_eos_token.value_or(model.unigram)) model.eos_id = fields.eos_token_id;
  return model;
}

// The normalizer, pre-tokenizer, post-processor and decoder, and the model.
struct GgufParts {
  Json json = Json::MakeObject();
  std::unique_ptr<Model> model;
};

absl::StatusOr<GgufParts> ByteLevelBpe(const GgufTokenizerFields& fields) {
  GRAFT_ASSIGN_OR_RETURN(const GgufPreTokenizer* pre, PreTokenizerOf(fields));
  const bool bos = fields.add_bos_token.value_or(pre->adds_bos) && fields.bos_token_id;
  const bool eos = fields.add_eos_token.value_or(false) && fields.eos_token_id;
  GgufParts parts;
  parts.json = GgufBpeParts(*pre);
  parts.json.Set("post_processor",
                 TemplateOf(EndOf(fields, bos ? fields.bos_token_id : absl::nullopt),
                            EndOf(fields, eos ? fields.eos_token_id : absl::nullopt)));
  BpeOptions options;
  options.ignore_merges = pre->ignore_merges;
  GRAFT_ASSIGN_OR_RETURN(parts.model, MakeGgufBpe(fields, std::move(options), true));
  return parts;
}

// Gemma: merges over characters with spaces marked, as SentencePiece does, the merges given.
absl::StatusOr<GgufParts> MarkedSpaceBpe(const GgufTokenizerFields& fields) {
  SentencePieceModel shape;
  shape.unigram = false;
  shape.add_dummy_prefix = fields.add_space_prefix.value_or(false);
  GgufParts parts;
  GRAFT_ASSIGN_OR_RETURN(parts.json, SentencePieceParts(shape));
  const bool bos = fields.add_bos_token.value_or(true);
  parts.json.Set("post_processor",
                 TemplateOf(EndOf(fields, bos ? fields.bos_token_id : absl::nullopt), {}));
  BpeOptions options;
  options.fuse_unk = true;
  options.byte_fallback = true;
  if (fields.unknown_token_id) options.unk_token = fields.tokens[*fields.unknown_token_id];
  GRAFT_ASSIGN_OR_RETURN(parts.model, MakeGgufBpe(fields, std::move(options), false));
  return parts;
}

absl::StatusOr<GgufParts> Bert(const GgufTokenizerFields& fields) {
  GgufParts parts;
  parts.json = BertParts();
  parts.json.Set(
      "post_processor",
      TemplateOf(EndOf(fields, fields.cls_token_id ? fields.cls_token_id : fields.bos_token_id),
                 EndOf(fields, fields.separator_token_id)));
  GRAFT_ASSIGN_OR_RETURN(parts.model, MakeWordPiece(fields));
  return parts;
}

absl::StatusOr<GgufParts> ScoredPieces(const GgufTokenizerFields& fields) {
  if (!fields.scores.empty() && fields.scores.size() != fields.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "GGUF: there are ", fields.tokens.size(), " tokens and ", fields.scores.size(), " scores"));
  }
  const SentencePieceModel model = SentencePieceOf(fields);
  GgufParts parts;
  GRAFT_ASSIGN_OR_RETURN(parts.json, SentencePieceParts(model));
  parts.json.Set("post_processor",
                 TemplateOf(EndOf(fields, model.bos_id), EndOf(fields, model.eos_id)));
  GRAFT_ASSIGN_OR_RETURN(parts.model, MakeSentencePieceModel(model));
  return parts;
}

absl::StatusOr<GgufParts> PartsOf(const GgufTokenizerFields& fields) {
  if (fields.model == "gpt2") return ByteLevelBpe(fields);
  if (fields.model == "gemma4") return MarkedSpaceBpe(fields);
  if (fields.model == "bert") return Bert(fields);
  if (fields.model == "llama" || fields.model == "t5") return ScoredPieces(fields);
  return absl::UnimplementedError(
      absl::StrCat("GGUF: the tokenizer model '", fields.model,
                   "' (tokenizer.ggml.model) is not supported; use the model's tokenizer.json"));
}

}  // namespace

Json GgufTokenizerConfig(const GgufTokenizerFields& fields) {
  Json config = Json::MakeObject().Set("tokenizer_class", "PreTrainedTokenizerFast");
  const std::pair<absl::string_view, absl::optional<int32_t>> special[] = {
      {"bos_token", fields.bos_token_id},     {"eos_token", fields.eos_token_id},
      {"unk_token", fields.unknown_token_id}, {"sep_token", fields.separator_token_id},
      {"pad_token", fields.padding_token_id}, {"cls_token", fields.cls_token_id}};
  for (const auto& [name, id] : special) {
    const bool known = id && *id >= 0 && static_cast<size_t>(*id) < fields.tokens.size();
    if (known) config.Set(name, fields.tokens[*id]);
  }
  if (fields.add_bos_token) config.Set("add_bos_token", *fields.add_bos_token);
  if (fields.add_eos_token) config.Set("add_eos_token", *fields.add_eos_token);
  // Otherwise spaces before punctuation would be lost in decoding.
  config.Set("clean_up_tokenization_spaces", false);
  if (!fields.chat_template.empty()) config.Set("chat_template", fields.chat_template);
  return config;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromGguf(const GgufTokenizerFields& fields) {
  GRAFT_RETURN_IF_ERROR(CheckFields(fields));
  GRAFT_ASSIGN_OR_RETURN(GgufParts parts, PartsOf(fields));
  auto impl = std::make_unique<Impl>();
  GRAFT_RETURN_IF_ERROR(impl->ReadParts(parts.json));
  impl->model = std::move(parts.model);
  GRAFT_RETURN_IF_ERROR(
      impl->added.Build(AddedTokensOf(fields), impl->model->vocab(), impl->normalizer.get()));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromSentencePiece(absl::string_view bytes) {
  GRAFT_ASSIGN_OR_RETURN(SentencePieceModel model, ParseSentencePiece(bytes));
  auto impl = std::make_unique<Impl>();
  GRAFT_ASSIGN_OR_RETURN(Json parts, SentencePieceParts(model));
  if (model.bos_id || model.eos_id) {
    // A file says which tokens these are, not whether to add them; Llama's convention is BOS alone,
    // T5's EOS alone.
    const auto end = [&model](absl::optional<int32_t> id) {
      return id ? absl::optional<EndToken>({*id, model.pieces[*id].text}) : absl::nullopt;
    };
    parts.Set("post_processor", model.unigram ? TemplateOf({}, end(model.eos_id))
                                              : TemplateOf(end(model.bos_id), {}));
  }
  GRAFT_RETURN_IF_ERROR(impl->ReadParts(parts));
  std::vector<AddedToken> added;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    if (piece.type != kUnknownType && piece.type != kControlType &&
        piece.type != kUserDefinedType) {
      continue;
    }
    AddedToken token;
    token.content = piece.text;
    token.special = piece.type != kUserDefinedType;
    added.push_back(std::move(token));
  }
  GRAFT_ASSIGN_OR_RETURN(impl->model, MakeSentencePieceModel(model));
  GRAFT_RETURN_IF_ERROR(
      impl->added.Build(std::move(added), impl->model->vocab(), impl->normalizer.get()));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

}  // namespace graft::data
