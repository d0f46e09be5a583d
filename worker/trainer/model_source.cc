#include "worker/trainer/model_source.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/spec/gguf.h"

namespace graft::trainer {
namespace {

// A tokenizer.json of a large vocabulary has 30 MB.
constexpr int64_t kMaxTokenizerBytes = int64_t{256} << 20;

absl::Status InFile(const absl::Status& status, absl::string_view file) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(file, ": ", status.message()));
}

std::vector<std::string> Strings(const Json* array) {
  std::vector<std::string> out;
  if (array == nullptr || !array->is_array()) return out;
  out.reserve(array->as_array().size());
  for (const Json& item : array->as_array()) {
    out.push_back(item.is_string() ? item.as_string() : std::string());
  }
  return out;
}

absl::optional<int32_t> TokenId(const spec::GgufHeader& gguf, absl::string_view key) {
  const Json* value = gguf.Find(absl::StrCat("tokenizer.ggml.", key));
  if (value == nullptr || !value->is_int()) return absl::nullopt;
  return static_cast<int32_t>(value->as_int());
}

absl::optional<bool> Flag(const spec::GgufHeader& gguf, absl::string_view key) {
  const Json* value = gguf.Find(absl::StrCat("tokenizer.ggml.", key));
  if (value == nullptr || !value->is_bool()) return absl::nullopt;
  return value->as_bool();
}

std::string Text(const spec::GgufHeader& gguf, absl::string_view key) {
  const Json* value = gguf.Find(key);
  return value != nullptr && value->is_string() ? value->as_string() : std::string();
}

data::GgufTokenizerFields TokenizerFields(const spec::GgufHeader& gguf) {
  data::GgufTokenizerFields f;
  f.model = Text(gguf, "tokenizer.ggml.model");
  f.pre = Text(gguf, "tokenizer.ggml.pre");
  f.tokens = Strings(gguf.Find("tokenizer.ggml.tokens"));
  f.merges = Strings(gguf.Find("tokenizer.ggml.merges"));
  if (const Json* scores = gguf.Find("tokenizer.ggml.scores"); scores && scores->is_array()) {
    for (const Json& s : scores->as_array()) {
      f.scores.push_back(s.is_number() ? static_cast<float>(s.as_double()) : 0.0f);
    }
  }
  if (const Json* types = gguf.Find("tokenizer.ggml.token_type"); types && types->is_array()) {
    for (const Json& t : types->as_array()) {
      f.token_types.push_back(t.is_int() ? static_cast<int32_t>(t.as_int()) : 1);
    }
  }
  f.bos_token_id = TokenId(gguf, "bos_token_id");
  f.eos_token_id = TokenId(gguf, "eos_token_id");
  f.unknown_token_id = TokenId(gguf, "unknown_token_id");
  f.separator_token_id = TokenId(gguf, "seperator_token_id");
  f.padding_token_id = TokenId(gguf, "padding_token_id");
  f.cls_token_id = TokenId(gguf, "cls_token_id");
  f.add_bos_token = Flag(gguf, "add_bos_token");
  f.add_eos_token = Flag(gguf, "add_eos_token");
  f.add_space_prefix = Flag(gguf, "add_space_prefix");
  f.remove_extra_whitespaces = Flag(gguf, "remove_extra_whitespaces");
  f.precompiled_charsmap = Text(gguf, "tokenizer.ggml.precompiled_charsmap");
  f.chat_template = Text(gguf, "tokenizer.chat_template");
  return f;
}

std::string TokenText(const data::Tokenizer& tokenizer, int64_t id) {
  const auto token = tokenizer.IdToToken(static_cast<int32_t>(id));
  return token.has_value() ? std::string(*token) : std::string();
}

absl::Status OpenGgufTokenizer(const std::string& file, ModelSource& model) {
  GRAFT_ASSIGN_OR_RETURN(const auto source, model.files->Open(file));
  GRAFT_ASSIGN_OR_RETURN(const spec::GgufHeader gguf, spec::ReadGguf(*source, file));
  const data::GgufTokenizerFields fields = TokenizerFields(gguf);
  auto tokenizer = data::Tokenizer::FromGguf(fields);
  if (!tokenizer.ok()) return InFile(tokenizer.status(), file);
  model.tokenizer = *std::move(tokenizer);
  model.tokenizer_config = data::GgufTokenizerConfig(fields);
  model.chat_template_text = fields.chat_template;
  if (fields.bos_token_id) model.bos_token = TokenText(*model.tokenizer, *fields.bos_token_id);
  if (fields.eos_token_id) {
    model.eos_id = *fields.eos_token_id;
    model.eos_token = TokenText(*model.tokenizer, model.eos_id);
  }
  model.add_bos = fields.add_bos_token.value_or(false);
  return absl::OkStatus();
}

// "eos_token": "</s>" or {"content": "</s>", ...}.
std::string SpecialToken(const Json& config, absl::string_view key) {
  const Json* value = config.Find(key);
  if (value != nullptr && value->is_object()) return value->GetString("content");
  return value != nullptr && value->is_string() ? value->as_string() : std::string();
}

absl::Status OpenFolderTokenizer(ModelSource& model) {
  const spec::ModelFiles& files = *model.files;
  if (!spec::HasFile(files, "tokenizer.json")) {
    if (!spec::HasFile(files, "tokenizer.model")) {
      return absl::NotFoundError(
          absl::StrCat(model.path, " has neither tokenizer.json nor tokenizer.model"));
    }
    GRAFT_ASSIGN_OR_RETURN(const std::string bytes,
                           spec::ReadWhole(files, "tokenizer.model", kMaxTokenizerBytes));
    auto tokenizer = data::Tokenizer::FromSentencePiece(bytes);
    if (!tokenizer.ok()) return InFile(tokenizer.status(), "tokenizer.model");
    model.tokenizer = *std::move(tokenizer);
  } else {
    GRAFT_ASSIGN_OR_RETURN(const std::string text,
                           spec::ReadWhole(files, "tokenizer.json", kMaxTokenizerBytes));
    auto tokenizer = data::Tokenizer::FromJson(text);
    if (!tokenizer.ok()) return InFile(tokenizer.status(), "tokenizer.json");
    model.tokenizer = *std::move(tokenizer);
  }
  Json config = Json::MakeObject();
  if (spec::HasFile(files, "tokenizer_config.json")) {
    GRAFT_ASSIGN_OR_RETURN(const std::string text,
                           spec::ReadWhole(files, "tokenizer_config.json", spec::kMaxConfigBytes));
    auto parsed = Json::Parse(text);
    if (!parsed.ok()) return InFile(parsed.status(), "tokenizer_config.json");
    config = *std::move(parsed);
  }
  std::string jinja;
  if (spec::HasFile(files, "chat_template.jinja")) {
    GRAFT_ASSIGN_OR_RETURN(jinja,
                           spec::ReadWhole(files, "chat_template.jinja", spec::kMaxConfigBytes));
  }
  auto chat = data::FindChatTemplate(&config, jinja);
  if (chat.ok()) model.chat_template_text = *std::move(chat);
  model.bos_token = SpecialToken(config, "bos_token");
  model.eos_token = SpecialToken(config, "eos_token");
  model.add_bos = config.GetBool("add_bos_token", false);
  return absl::OkStatus();
}

// What the tokenizer's files left open comes from the model's configuration.
void ResolveSpecialTokens(ModelSource& model) {
  const spec::DecoderSpec& spec = model.description.spec;
  if (model.bos_token.empty() && spec.bos_id >= 0) {
    model.bos_token = TokenText(*model.tokenizer, spec.bos_id);
  }
  if (model.eos_id < 0 && !model.eos_token.empty()) {
    model.eos_id = model.tokenizer->TokenToId(model.eos_token).value_or(-1);
  }
  if (model.eos_id < 0 && !spec.eos_ids.empty()) {
    model.eos_id = static_cast<int32_t>(spec.eos_ids.front());
    model.eos_token = TokenText(*model.tokenizer, model.eos_id);
  }
  model.stop_ids = spec.eos_ids;
  if (model.eos_id >= 0 && std::find(model.stop_ids.begin(), model.stop_ids.end(), model.eos_id) ==
                               model.stop_ids.end()) {
    model.stop_ids.push_back(model.eos_id);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenModel(const std::string& path,
                                                       const std::string& chat_template) {
  auto model = std::make_unique<ModelSource>();
  model->path = path;
  GRAFT_ASSIGN_OR_RETURN(model->files, spec::LocalModelFiles(path));
  GRAFT_ASSIGN_OR_RETURN(model->description, spec::ReadModel(*model->files));
  GRAFT_ASSIGN_OR_RETURN(model->reader,
                         spec::ParameterReader::Open(*model->files, model->description));
  const std::string gguf = spec::FindGguf(*model->files);
  const bool in_gguf = model->description.format == spec::FileFormat::kGguf &&
                       !spec::HasFile(*model->files, "tokenizer.json");
  GRAFT_RETURN_IF_ERROR(in_gguf ? OpenGgufTokenizer(gguf, *model) : OpenFolderTokenizer(*model));
  ResolveSpecialTokens(*model);
  if (!chat_template.empty()) model->chat_template_text = chat_template;
  if (!model->chat_template_text.empty()) {
    auto compiled = data::ChatTemplate::Compile(model->chat_template_text);
    if (!compiled.ok()) return InFile(compiled.status(), "the chat template");
    model->chat_template = *std::move(compiled);
  }
  return model;
}

}  // namespace graft::trainer
