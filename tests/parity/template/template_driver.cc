// Renders chat templates for the parity scripts. Reads a JSON object per line from standard input:
//   {"template", "messages", "tools", "documents", "add_generation_prompt", "bos_token",
//    "eos_token", "kwargs", "now" (Unix seconds)}
// and writes one per line, offsets in bytes: {"text", "spans": [[begin, end], ...],
//    "bytes": [[message, begin, end], ...], "source", "ends"} or {"error"}.
#include <iostream>
#include <string>

#include "base/json.h"
#include "worker/data/chat/chat_template.h"

namespace {

using graft::Json;
using graft::data::ChatInput;
using graft::data::ChatTemplate;

Json Render(const Json& request) {
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
  return answer.Set("ends", rendered->ends_with_end_of_turn);
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    auto request = Json::Parse(line, {.allow_nan = true});
    Json answer = Json::MakeObject();
    if (request.ok()) {
      answer = Render(*request);
    } else {
      answer.Set("error", request.status().ToString());
    }
    std::cout << answer.Dump() << std::endl;
  }
}
