// Renders chat templates for the parity scripts. Reads a JSON object per line from standard input:
//   {"template", "messages", "tools", "documents", "add_generation_prompt", "bos_token",
//    "eos_token", "kwargs", "now" (Unix seconds)}
// and writes one per line, offsets in bytes: {"text", "spans": [[begin, end], ...],
//    "bytes": [[message, begin, end], ...], "source", "ends"} or {"error"}.
//
//   template_driver [tokenizer.json]
//
// With a tokenizer the answer also holds the row's "ids" and "mask".
#include <iostream>
#include <memory>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/data/chat/chat_template.h"
#include "worker/data/dataset/tokenized.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace {

using graft::Json;
using graft::data::ChatInput;
using graft::data::ChatTemplate;

// The tokens of the row and which of them are learnt.
absl::Status AddTokens(const ChatTemplate& chat, const ChatInput& input,
                       const graft::data::Tokenizer& tokenizer, Json& answer) {
  graft::data::Row row;
  row.messages = *input.messages;
  if (input.tools != nullptr) row.tools = *input.tools;
  graft::data::TokenizeOptions options;
  options.chat = &chat;
  options.bos_token = std::string(input.bos_token);
  options.eos_token = std::string(input.eos_token);
  options.chat_kwargs = input.kwargs;
  options.now = input.now;
  GRAFT_ASSIGN_OR_RETURN(const auto rows, graft::data::TokenizeRow(graft::data::RowFormat::kChat,
                                                                   row, tokenizer, options));
  Json ids = Json::MakeArray(), mask = Json::MakeArray();
  for (const int32_t id : rows[0].ids) ids.Append(id);
  for (const uint8_t learnt : rows[0].mask) mask.Append(static_cast<int>(learnt));
  answer.Set("ids", std::move(ids)).Set("mask", std::move(mask));
  return absl::OkStatus();
}

Json Render(const Json& request, const graft::data::Tokenizer* tokenizer) {
  Json answer = Json::MakeObject();
  auto chat = ChatTemplate::Compile(request.GetString("template"));
  if (!chat.ok()) return answer.Set("error", chat.status().ToString());
  const std::string bos = request.GetString("bos_token");
  const std::string eos = request.GetString("eos_token");
  const auto member = [&](const char* name) -> const Json* {
    const Json* value = request.Find(name);
    return value == nullptr || value->is_null() ? nullptr : value;
  };
  ChatInput input;
  input.messages = member("messages");
  input.tools = member("tools");
  input.documents = member("documents");
  input.kwargs = member("kwargs");
  input.bos_token = bos;
  input.eos_token = eos;
  input.add_generation_prompt = request.GetBool("add_generation_prompt");
  input.now = absl::FromUnixSeconds(request.GetInt("now"));
  const auto text = chat->RenderText(input);
  if (!text.ok()) return answer.Set("error", text.status().ToString());
  answer.Set("text", *text);
  const auto rendered = chat->Render(input);
  if (!rendered.ok() || rendered->text != *text) return answer.Set("error", "Render() differs");
  Json spans = Json::MakeArray();
  for (const auto& span : rendered->assistant_spans) {
    spans.Append(
        Json(Json::Array{static_cast<int64_t>(span.begin), static_cast<int64_t>(span.end)}));
  }
  answer.Set("spans", spans);
  const auto provenance = chat->RenderWithProvenance(input);
  Json bytes = Json::MakeArray();
  for (const auto& part : provenance->second) {
    bytes.Append(Json(Json::Array{part.message, static_cast<int64_t>(part.bytes.begin),
                                  static_cast<int64_t>(part.bytes.end)}));
  }
  answer.Set("bytes", bytes);
  answer.Set("source", static_cast<int>(rendered->span_source));
  answer.Set("ends", rendered->ends_with_end_of_turn);
  if (tokenizer != nullptr && !input.add_generation_prompt) {
    const absl::Status status = AddTokens(*chat, input, *tokenizer, answer);
    if (!status.ok()) answer.Set("error", status.ToString());
  }
  return answer;
}

}  // namespace

int main(int argc, char** argv) {
  std::unique_ptr<graft::data::Tokenizer> tokenizer;
  if (argc > 1) {
    const auto text = graft::ReadFile(argv[1]);
    auto loaded = text.ok()
                      ? graft::data::Tokenizer::FromJson(*text)
                      : absl::StatusOr<std::unique_ptr<graft::data::Tokenizer>>(text.status());
    if (!loaded.ok()) return std::cerr << loaded.status() << "\n", 1;
    tokenizer = *std::move(loaded);
  }
  std::string line;
  while (std::getline(std::cin, line)) {
    auto request = Json::Parse(line, {.allow_nan = true});
    Json answer = Json::MakeObject();
    if (request.ok()) {
      answer = Render(*request, tokenizer.get());
    } else {
      answer.Set("error", request.status().ToString());
    }
    std::cout << answer.Dump() << std::endl;
  }
}
