// Tokenizer::FromJson: the model and the added tokens of a tokenizer.json.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/bpe.h"
#include "worker/data/tokenizer/json_fields.h"
#include "worker/data/tokenizer/json_reader.h"
#include "worker/data/tokenizer/tokenizer.h"
#include "worker/data/tokenizer/tokenizer_impl.h"
#include "worker/data/tokenizer/unigram.h"
#include "worker/data/tokenizer/word_models.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr absl::string_view kModel = "model";

// The member `model`: what is large read straight from the text, the rest as values.
struct ModelMembers {
  Json rest = Json::MakeObject();  // `vocab` and `merges` among it where they have another shape
  absl::optional<TokenTable> vocab;
  absl::optional<std::vector<BpeModel::Merge>> merges;
};

absl::Status BadMerge(size_t index) {
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer.json: model.merges[", index, "] must be \"left right\" or [\"left\", \"right\"]"));
}

// Reads a tokenizer.json. What a call finds wrong with the JSON itself is false, and what is wrong
// with its content in status().
class TokenizerFileReader {
 public:
  explicit TokenizerFileReader(absl::string_view text) : reader_(text) {}

  bool Read(Json& parts, ModelMembers& model) {
    return reader_.Members([&](absl::string_view key) {
      if (key != "model" || reader_.Peek() != '{') return ReadValue(key, parts);
      model = ModelMembers();
      return reader_.Members([&](absl::string_view member) { return ReadMember(member, model); });
    }) && reader_.Peek() == '\0';
  }
  const absl::Status& status() const { return status_; }

 private:
  bool Fail(absl::Status status) {
    status_ = std::move(status);
    return false;
  }

  bool ReadValue(absl::string_view key, Json& into) {
    absl::string_view raw;
    if (!reader_.Skip(raw)) return false;
    auto value = Json::Parse(raw);
    if (!value.ok()) return false;
    into.Set(key, *std::move(value));
    return true;
  }

  bool ReadMember(absl::string_view key, ModelMembers& model) {
    if (key == "vocab" && reader_.Peek() == '{') return ReadVocab(model.vocab.emplace());
    if (key == "merges" && reader_.Peek() == '[') return ReadMerges(model.merges.emplace());
    return ReadValue(key, model.rest);
  }

  // {"token": id, ...}
  bool ReadVocab(TokenTable& table) {
    std::vector<TokenTable::Entry> entries;
    entries.reserve(reader_.bytes_left() / kBytesPerEntry);
    const bool read = reader_.Members([&](absl::string_view token) {
      int64_t id = 0;
      if (!reader_.ReadInt(id)) return BadId(token);
      entries.push_back({token, id});
      return true;
    });
    if (!read) return false;
    absl::Status added = table.AddAll(entries);
    return added.ok() || Fail(std::move(added));
  }

  bool BadId(absl::string_view token) {
    absl::string_view raw;
    const auto value = reader_.Skip(raw) ? Json::Parse(raw) : absl::StatusOr<Json>();
    if (!value.ok()) return false;
    return Fail(absl::InvalidArgumentError(absl::StrCat(
        "tokenizer.json: model.vocab['", token, "'] must be an id, not ", value->type_name())));
  }

  // "left right", or ["left", "right"].
  bool ReadMerges(std::vector<BpeModel::Merge>& merges) {
    merges.reserve(reader_.bytes_left() / kBytesPerEntry);
    size_t index = 0;
    return reader_.Elements([&] {
      const size_t here = index++;
      if (reader_.Peek() != '"') return ReadPair(here, merges);
      absl::string_view text;
      if (!reader_.ReadString(text)) return false;
      if (text.substr(0, 8) == "#version") return true;
      const size_t space = text.find(' ');
      if (space == absl::string_view::npos ||
          text.find(' ', space + 1) != absl::string_view::npos) {
        return Fail(BadMerge(here));
      }
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      return true;
    });
  }

  bool ReadPair(size_t index, std::vector<BpeModel::Merge>& merges) {
    absl::string_view parts[2];
    size_t count = 0;
    if (reader_.Peek() != '[') return Fail(BadMerge(index));
    const bool read = reader_.Elements([&] {
      if (count == 2 || reader_.Peek() != '"') return Fail(BadMerge(index));
      return reader_.ReadString(parts[count++]);
    });
    if (!read) return false;
    if (count != 2) return Fail(BadMerge(index));
    merges.emplace_back(parts[0], parts[1]);
    return true;
  }

  // A vocabulary and its merges spend rather more than this on an entry; memory that is reserved
  // and not used costs nothing, growing costs a copy.
  static constexpr size_t kBytesPerEntry = 24;

  JsonReader reader_;
  absl::Status status_;
};

absl::StatusOr<TokenTable> TakeVocab(ModelMembers& model) {
  if (model.vocab) return *std::move(model.vocab);
  return WrongField(kModel, "vocab", "an object of tokens and ids", model.rest.Find("vocab"));
}

absl::StatusOr<std::unique_ptr<Model>> ParseBpe(ModelMembers& model, bool raw_bytes) {
  const Json& json = model.rest;
  const Json* dropout = json.Find("dropout");
  if (dropout != nullptr && dropout->is_number() && dropout->as_double() != 0) {
    return absl::UnimplementedError(
        "tokenizer.json: model.dropout: merges left out at random are not supported; set it to "
        "null");
  }
  BpeOptions options;
  GRAFT_ASSIGN_OR_RETURN(options.unk_token, OptionalStringField(json, kModel, "unk_token"));
  GRAFT_ASSIGN_OR_RETURN(options.continuing_subword_prefix,
                         OptionalStringField(json, kModel, "continuing_subword_prefix"));
  GRAFT_ASSIGN_OR_RETURN(options.end_of_word_suffix,
                         OptionalStringField(json, kModel, "end_of_word_suffix"));
  // Empty is the same as absent, and lets the model take raw bytes.
  if (options.continuing_subword_prefix == "") options.continuing_subword_prefix.reset();
  if (options.end_of_word_suffix == "") options.end_of_word_suffix.reset();
  GRAFT_ASSIGN_OR_RETURN(options.fuse_unk, BoolField(json, kModel, "fuse_unk", false));
  GRAFT_ASSIGN_OR_RETURN(options.byte_fallback, BoolField(json, kModel, "byte_fallback", false));
  GRAFT_ASSIGN_OR_RETURN(options.ignore_merges, BoolField(json, kModel, "ignore_merges", false));
  GRAFT_ASSIGN_OR_RETURN(TokenTable vocab, TakeVocab(model));
  if (!model.merges) return WrongField(kModel, "merges", "an array", json.Find("merges"));
  return BpeModel::Create(std::move(vocab), *model.merges, std::move(options), raw_bytes);
}

absl::StatusOr<std::unique_ptr<Model>> ParseUnigram(const Json& json) {
  const Json* vocab = json.Find("vocab");
  if (vocab == nullptr || !vocab->is_array()) {
    return WrongField(kModel, "vocab", "an array of [token, score]", vocab);
  }
  std::vector<std::pair<std::string, double>> tokens;
  for (const Json& entry : vocab->as_array()) {
    if (!entry.is_array() || entry.as_array().size() != 2 || !entry.as_array()[0].is_string() ||
        !entry.as_array()[1].is_number()) {
      return WrongField(kModel, "vocab", "an array of [token, score]", vocab);
    }
    tokens.emplace_back(entry.as_array()[0].as_string(), entry.as_array()[1].as_double());
  }
  absl::optional<int64_t> unk_id;
  if (const Json* unk = json.Find("unk_id"); unk != nullptr && !unk->is_null()) {
    GRAFT_ASSIGN_OR_RETURN(unk_id, IntField(json, kModel, "unk_id", 0, TokenTable::kMaxId));
  }
  GRAFT_ASSIGN_OR_RETURN(const bool fallback, BoolField(json, kModel, "byte_fallback", false));
  return UnigramModel::Create(std::move(tokens), unk_id, fallback);
}

absl::StatusOr<std::unique_ptr<Model>> ParseWordPiece(ModelMembers& model) {
  const Json& json = model.rest;
  WordPieceModel::Options options;
  GRAFT_ASSIGN_OR_RETURN(options.unk_token, StringField(json, kModel, "unk_token"));
  GRAFT_ASSIGN_OR_RETURN(options.continuing_subword_prefix,
                         StringField(json, kModel, "continuing_subword_prefix"));
  GRAFT_ASSIGN_OR_RETURN(options.max_input_chars_per_word,
                         IntField(json, kModel, "max_input_chars_per_word", 0, int64_t{1} << 31));
  GRAFT_ASSIGN_OR_RETURN(TokenTable vocab, TakeVocab(model));
  return std::make_unique<WordPieceModel>(std::move(vocab), std::move(options));
}

// Files of before 2021 do not name the type; each has members that the others lack.
std::string ModelType(const ModelMembers& model) {
  const std::string type = model.rest.GetString("type");
  if (!type.empty()) return type;
  if (model.merges || model.rest.Find("merges") != nullptr) return "BPE";
  if (model.rest.Find("max_input_chars_per_word") != nullptr) return "WordPiece";
  return model.vocab ? "WordLevel" : "Unigram";
}

absl::StatusOr<std::unique_ptr<Model>> ParseModel(ModelMembers& model, bool raw_bytes) {
  const std::string type = ModelType(model);
  if (type == "BPE") return ParseBpe(model, raw_bytes);
  if (type == "Unigram") return ParseUnigram(model.rest);
  if (type == "WordPiece") return ParseWordPiece(model);
  if (type == "WordLevel") {
    GRAFT_ASSIGN_OR_RETURN(std::string unk, StringField(model.rest, kModel, "unk_token"));
    GRAFT_ASSIGN_OR_RETURN(TokenTable vocab, TakeVocab(model));
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
  Json json = Json::MakeObject();
  ModelMembers model;
  TokenizerFileReader reader(tokenizer_json);
  if (!reader.Read(json, model)) {
    GRAFT_RETURN_IF_ERROR(reader.status());
    GRAFT_ASSIGN_OR_RETURN(const Json whole, Json::Parse(tokenizer_json));
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json must be an object with the members of a tokenizer, not ",
                     whole.type_name()));
  }
  if (model.rest.as_object().empty() && !model.vocab) {
    return absl::InvalidArgumentError("tokenizer.json: the member 'model' is missing");
  }
  auto impl = std::make_unique<Impl>();
  GRAFT_RETURN_IF_ERROR(impl->ReadParts(json));
  GRAFT_ASSIGN_OR_RETURN(impl->model, ParseModel(model, impl->pre_tokenizer.byte_level));
  GRAFT_ASSIGN_OR_RETURN(std::vector<AddedToken> tokens,
                         ParseAddedTokens(json.Find("added_tokens")));
  GRAFT_RETURN_IF_ERROR(
      impl->added.Build(std::move(tokens), impl->model->vocab(), impl->normalizer.get()));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

}  // namespace graft::data
