// Chat templates from hostile bytes: compile, then render over a conversation with tools. The first
// byte chooses the options; the rest is the template.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "base/json.h"
#include "worker/data/chat/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using graft::Json;
  static const Json* const messages = new Json(*Json::Parse(
      R"([{"role":"system","content":"s é"},{"role":"user","content":"hi | there"},)"
      R"({"role":"assistant","content":"yo","reasoning_content":"hm","tool_calls":[{"type":)"
      R"("function","function":{"name":"f","arguments":{"a":1,"b":[1.5,null,true]}}}]},)"
      R"({"role":"tool","content":"3"},{"role":"assistant","content":"done"}])"));
  if (size == 0) return 0;
  const absl::string_view source(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto chat = graft::data::ChatTemplate::Compile(source);
  if (!chat.ok()) return 0;
  graft::data::ChatInput input;
  input.messages = messages;
  input.tools = (data[0] & 1) != 0 ? messages : nullptr;
  input.add_generation_prompt = (data[0] & 2) != 0;
  input.bos_token = "<s>";
  input.limits.max_steps = 200'000;
  input.limits.max_output_bytes = 1 << 20;
  input.limits.max_memory_bytes = 32 << 20;
  const auto rendered = chat->Render(input);
  if (!rendered.ok()) return 0;
  size_t end = 0;
  for (const auto& span : rendered->assistant_spans) {
    if (span.begin > span.end || span.end > rendered->text.size()) std::abort();
    end = span.end;
  }
  return end > rendered->text.size();
}
