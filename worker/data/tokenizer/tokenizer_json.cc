// Tokenizer::FromJson: the model and the added tokens of a tokenizer.json.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/bpe.h"
#include "worker/data/tokenizer/json_fields.h"
#include "worker/data/tokenizer/tokenizer.h"
#include "worker/data/tokenizer/tokenizer_impl.h"
#include "worker/data/tokenizer/unigram.h"
#include "worker/data/tokenizer/word_models.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr absl::string_view kWhere = "model";

// {"token": id, ...}
absl::StatusOr<TokenTable> ParseVocab(const Json& model) {
  const Json* vocab = model.Find("vocab");
  if (vocab == nullptr || !vocab->is_object()) {
    return WrongField(kWhere, "vocab", "an object of tokens and ids", vocab);
  }
  const Json::Object& members = vocab->as_object();
  size_t bytes = 0;
  for (const auto& [token, id] : members) bytes += token.size();
  TokenTable table;
  table.Reserve(members.size(), bytes);
  for (const auto& [token, id] : members) {
    if (!id.is_int()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: model.vocab['", token,
                                                     "'] must be an id, not ", id.type_name()));
    }
    GRAFT_RETURN_IF_ERROR(table.Add(token, id.as_int()));
  }
  return table;
}

absl::Status BadMerge(size_t index) {
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer.json: model.merges[", index, "] must be \"left right\" or [\"left\", \"right\"]"));
}

// "left right", or ["left", "right"].
absl::StatusOr<std::vector<BpeModel::Merge>> ParseMerges(const Json& model) {
  const Json* merges = model.Find("merges");
  if (merges == nullptr || !merges->is_array()) {
    return WrongField(kWhere, "merges", "an array", merges);
  }
  const Json::Array& list = merges->as_array();
  std::vector<BpeModel::Merge> parsed;
  parsed.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].is_array()) {
      const Json::Array& pair = list[i].as_array();
      if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) return BadMerge(i);
      parsed.emplace_back(pair[0].as_string(), pair[1].as_string());
      continue;
    }
    if (!list[i].is_string()) return BadMerge(i);
    const absl::string_view text = list[i].as_string();
    if (text.substr(0, 8) == "#version") continue;
    const size_t space = text.find(' ');
    if (space == absl::string_view::npos || text.find(' ', space + 1) != absl::string_view::npos) {
      return BadMerge(i);
    }
    parsed.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return parsed;
}

absl::StatusOr<std::unique_ptr<Model>> ParseBpe(const Json& json, bool raw_bytes) {
  const Json* dropout = json.Find("dropout");
  if (dropout != nullptr && dropout->is_number() && dropout->as_double() != 0) {
    return absl::UnimplementedError(
        "tokenizer.json: model.dropout: merges left out at random are not supported; set it to "
        "null");
  }
  BpeOptions options;
  GRAFT_ASSIGN_OR_RETURN(options.unk_token, OptionalStringField(json, kWhere, "unk_token"));
  GRAFT_ASSIGN_OR_RETURN(options.continuing_subword_prefix,
                         OptionalStringField(json, kWhere, "continuing_subword_prefix"));
  GRAFT_ASSIGN_OR_RETURN(options.end_of_word_suffix,
                         OptionalStringField(json, kWhere, "end_of_word_suffix"));
  // Empty is the same as absent, and lets the model take raw bytes.
  if (options.continuing_subword_prefix == "") options.continuing_subword_prefix.reset();
  if (options.end_of_word_suffix == "") options.end_of_word_suffix.reset();
  GRAFT_ASSIGN_OR_RETURN(options.fuse_unk, BoolField(json, kWhere, "fuse_unk", false));
  GRAFT_ASSIGN_OR_RETURN(options.byte_fallback, BoolField(json, kWhere, "byte_fallback", false));
  GRAFT_ASSIGN_OR_RETURN(options.ignore_merges, BoolField(json, kWhere, "ignore_merges", false));
  GRAFT_ASSIGN_OR_RETURN(TokenTable vocab, ParseVocab(json));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<BpeModel::Merge> merges, ParseMerges(json));
  return BpeModel::Create(std::move(vocab), merges, std::move(options), raw_bytes);
}

absl::StatusOr<std::unique_ptr<Model>> ParseUnigram(const Json& json) {
  const Json* vocab = json.Find("vocab");
  if (vocab == nullptr || !vocab->is_array()) {
    return WrongField(kWhere, "vocab", "an array of [token, score]", vocab);
  }
  std::vector<std::pair<std::string, double>> tokens;
  for (const Json& entry : vocab->as_array()) {
    if (!entry.is_array() || entry.as_array().size() != 2 || !entry.as_array()[0].is_string() ||
        !entry.as_array()[1].is_number()) {
      return WrongField(kWhere, "vocab", "an array of [token, score]", vocab);
    }
    tokens.emplace_back(entry.as_array()[0].as_string(), entry.as_array()[1].as_double());
  }
  absl::optional<int64_t> unk_id;
  if (const Json* unk = json.Find("unk_id"); unk != nullptr && !unk->is_null()) {
    GRAFT_ASSIGN_OR_RETURN(unk_id, IntField(json, kWhere, "unk_id", 0, TokenTable::kMaxId));
  }
  GRAFT_ASSIGN_OR_RETURN(const bool fallback, BoolField(json, kWhere, "byte_fallback", false));
  return UnigramModel::Create(std::move(tokens), unk_id, fallback);
}

absl::StatusOr<std::unique_ptr<Model>> ParseWordPiece(const Json& json) {
  WordPieceModel::Options options;
  GRAFT_ASSIGN_OR_RETURN(options.unk_token, StringField(json, kWhere, "unk_token"));
  GRAFT_ASSIGN_OR_RETURN(options.continuing_subword_prefix,
                         StringField(json, kWhere, "continuing_subword_prefix"));
  GRAFT_ASSIGN_OR_RETURN(options.max_input_chars_per_word,
                         IntField(json, kWhere, "max_input_chars_per_word", 0, int64_t{1} << 31));
  GRAFT_ASSIGN_OR_RETURN(TokenTable vocab, ParseVocab(json));
  return std::make_unique<WordPieceModel>(std::move(vocab), std::move(options));
}

// Files of before 2021 do not name the type; each has members that the others lack.
std::string ModelType(const Json& json) {
  const std::string type = json.GetString("type");
  if (!type.empty()) return type;
  if (json.Find("merges") != nullptr) return "BPE";
  if (json.Find("max_input_chars_per_word") != nullptr) return "WordPiece";
  const Json* vocab = json.Find("vocab");
  return vocab != nullptr && vocab->is_array() ? "Unigram" : "WordLevel";
}

absl::StatusOr<std::unique_ptr<Model>> ParseModel(const Json* json, bool raw_bytes) {
  if (json == nullptr || !json->is_object()) {
    return absl::InvalidArgumentError("tokenizer.json: the member 'model' is missing");
  }
  const std::string type = ModelType(*json);
  if (type == "BPE") return ParseBpe(*json, raw_bytes);
  if (type == "Unigram") return ParseUnigram(*json);
  if (type == "WordPiece") return ParseWordPiece(*json);
  if (type == "WordLevel") {
    GRAFT_ASSIGN_OR_RETURN(std::string unk, StringField(*json, kWhere, "unk_token"));
    GRAFT_ASSIGN_OR_RETURN(TokenTable vocab, ParseVocab(*json));
    return std::make_unique<WordLevelModel>(std::move(vocab), std::move(unk));
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json: the model type '", type, "' is not known"));
}

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const Json* json) {
  std::vector<AddedToken> tokens;
  if (json == nullptr || json->is_null()) return tokens;
  if (!json->is_array()) return WrongField("", "added_tokens", "an array", json);
  constexpr absl::string_view kToken = "added_tokens";
  for (const Json& entry : json->as_array()) {
    AddedToken token;
    GRAFT_ASSIGN_OR_RETURN(token.content, StringField(entry, kToken, "content"));
    GRAFT_ASSIGN_OR_RETURN(token.single_word, BoolField(entry, kToken, "single_word", false));
    GRAFT_ASSIGN_OR_RETURN(token.lstrip, BoolField(entry, kToken, "lstrip", false));
    GRAFT_ASSIGN_OR_RETURN(token.rstrip, BoolField(entry, kToken, "rstrip", false));
    GRAFT_ASSIGN_OR_RETURN(token.normalized, BoolField(entry, kToken, "normalized", true));
    GRAFT_ASSIGN_OR_RETURN(token.special, BoolField(entry, kToken, "special", false));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(absl::string_view tokenizer_json) {
  const size_t valid = ValidUtf8Prefix(tokenizer_json);
  if (valid != tokenizer_json.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.json is not UTF-8 at byte ", valid));
  }
  GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(tokenizer_json));
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json must be an object, not ", json.type_name()));
  }
  auto impl = std::make_unique<Impl>();
  GRAFT_RETURN_IF_ERROR(impl->ReadParts(json));
  GRAFT_ASSIGN_OR_RETURN(impl->model,
                         ParseModel(json.Find("model"), impl->pre_tokenizer.byte_level));
  GRAFT_ASSIGN_OR_RETURN(std::vector<AddedToken> tokens,
                         ParseAddedTokens(json.Find("added_tokens")));
  GRAFT_RETURN_IF_ERROR(
      impl->added.Build(std::move(tokens), impl->model->vocab(), impl->normalizer.get()));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

}  // namespace graft::data
