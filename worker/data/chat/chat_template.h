// A chat template, compiled once and rendered many times: Jinja as jinja2 3.1.6 renders it in the
// environment of Hugging Face's apply_chat_template (sandbox, trim_blocks, lstrip_blocks, loop
// controls, generation blocks, tojson unescaped, strftime_now, raise_exception).
//
//   GRAFT_ASSIGN_OR_RETURN(ChatTemplate chat, ChatTemplate::Compile(text));
//   GRAFT_ASSIGN_OR_RETURN(RenderedChat out, chat.Render({.messages = &messages, .tools = &tools,
//                                                         .bos_token = "<s>", .eos_token =
//                                                         "</s>"}));
//   // out.text is the prompt; out.assistant_spans are the bytes that the model has to write.
//
// How the assistant's bytes are known for any template: every string of a message remembers the
// message it came from through slicing, joining, trimming and tojson, so the output knows which of
// its bytes stem from which message. What stands between the end of the prompt (the template
// rendered up to that message with add_generation_prompt) and the first of those bytes is the
// model's to write as well ("<think>", "<tool_call>"), and so is the end-of-turn token behind the
// last of them. Templates with {% generation %} blocks say it themselves; their word counts.
//
// Life cycle: immutable after Compile(); Render() may be called from any number of threads.
// Hazards: a template is hostile input. Steps, depth and output are bounded (RenderLimits); what a
// template does with raise_exception() comes back as INVALID_ARGUMENT with its own words.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/json.h"

namespace graft::data {

// Bounds of one rendering. A template that needs more is refused with RESOURCE_EXHAUSTED.
struct RenderLimits {
  int64_t max_steps = 20'000'000;          // expressions evaluated and statements run
  int64_t max_output_bytes = 64LL << 20;   // of the output and of any one string
  int64_t max_memory_bytes = 512LL << 20;  // allocated by values over the whole rendering
  int max_depth = 200;                     // of nested calls, blocks and expressions
};

// Half-open range of bytes.
struct ByteSpan {
  size_t begin = 0;
  size_t end = 0;
  friend bool operator==(const ByteSpan&, const ByteSpan&) = default;
};

// The bytes that one message wrote.
struct MessageBytes {
  int message = 0;  // index into `messages`
  ByteSpan bytes;
};

struct ChatInput {
  const Json* messages = nullptr;   // array of {"role", "content", ...}; must be set
  const Json* tools = nullptr;      // array of JSON schemas, or nullptr: rendered as `none`
  const Json* documents = nullptr;  // or nullptr
  bool add_generation_prompt = false;
  // Variables of the template: the special tokens as tokenizer_config.json spells them.
  absl::string_view bos_token;
  absl::string_view eos_token;
  // Further variables ("enable_thinking": false, "pad_token": ...); an object, or nullptr.
  const Json* kwargs = nullptr;
  // What strftime_now() shows, in UTC.
  absl::Time now = absl::UnixEpoch();
  // Tokens that end a turn ("<|im_end|>"). Where empty, eos_token and the markers in common use.
  std::vector<std::string> end_of_turn;
  // Messages whose bytes shall not be learnt although the assistant wrote them are marked in the
  // row: "weight": 0 or "train": false on the message.
  RenderLimits limits;
};

// From where the assistant's spans are known.
enum class SpanSource {
  kNone,              // the template wrote nothing of any assistant message
  kProvenance,        // from the values' provenance, as told above
  kGenerationBlocks,  // from the template's own {% generation %} blocks
};

struct RenderedChat {
  std::string text;
  // What the model has to write, end-of-turn token included; in order, disjoint.
  std::vector<ByteSpan> assistant_spans;
  SpanSource span_source = SpanSource::kNone;
  // False where the last assistant turn is followed by no end-of-turn token: the caller appends
  // EOS.
  bool ends_with_end_of_turn = false;
};

class ChatTemplate {
 public:
  // INVALID_ARGUMENT with the line for a syntax error; UNIMPLEMENTED names a statement that no chat
  // template uses (include, import, extends, block, autoescape, trans).
  static absl::StatusOr<ChatTemplate> Compile(absl::string_view source);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The text alone: as apply_chat_template(tokenize=False). The quickest.
  absl::StatusOr<std::string> RenderText(const ChatInput& input) const;
  // Text and assistant spans.
  absl::StatusOr<RenderedChat> Render(const ChatInput& input) const;
  // The text and which message wrote which of its bytes (roles excepted), in order.
  absl::StatusOr<std::pair<std::string, std::vector<MessageBytes>>> RenderWithProvenance(
      const ChatInput& input) const;

  bool has_generation_blocks() const;
  // Whether the template reads `tools` (or another variable of that name) at all.
  bool Mentions(absl::string_view variable) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// The template of a model's folder: the text of chat_template.jinja if given, else the member
// "chat_template" of tokenizer_config.json, which is a string or a list of {"name", "template"}.
// `name` chooses among several ("default", "tool_use", "rag"). NOT_FOUND where there is none.
absl::StatusOr<std::string> FindChatTemplate(const Json* tokenizer_config,
                                             absl::string_view chat_template_jinja,
                                             absl::string_view name = "default");

}  // namespace graft::data
