#include "worker/data/chat/chat_template.h"

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/data/chat/assistant_spans.h"
#include "worker/data/chat/jinja_interpreter.h"
#include "worker/data/chat/jinja_parser.h"

namespace graft::data {
namespace {

using jinja::Arena;
using jinja::Kind;
using jinja::Origin;
using jinja::Range;
using jinja::Value;

Value ToValue(Arena& arena, const Json& json, Origin origin) {
  if (json.is_string()) return Value::String(ViewStr(arena, json.as_string(), origin));
  if (json.is_null()) return Value::None().WithOrigin(origin);
  if (json.is_bool()) return Value::Bool(json.as_bool()).WithOrigin(origin);
  if (json.is_int()) return Value::Int(json.as_int()).WithOrigin(origin);
  if (json.is_double()) return Value::Float(json.as_double()).WithOrigin(origin);
  if (json.is_array()) {
    const Value list = jinja::NewList(arena, Kind::kList, json.as_array().size());
    for (const Json& item : json.as_array()) list.list().Push(arena, ToValue(arena, item, origin));
    return list;
  }
  const Value dict = jinja::NewDict(arena);
  for (const auto& [key, value] : json.as_object()) {
    dict.dict().Set(arena, Value::String(ViewStr(arena, key, origin)),
                    ToValue(arena, value, origin));
  }
  return dict;
}

// The reasoning of a message goes by three names; a template reads one of them.
const Json* ReasoningOf(const Json::Object& message) {
  constexpr absl::string_view kNames[] = {"reasoning_content", "thinking", "reasoning"};
  const Json* found[std::size(kNames)] = {};
  for (const auto& [key, value] : message) {
    if (key.size() < kNames[1].size()) continue;  // role, content
    for (size_t i = 0; i < std::size(kNames); ++i) {
      if (jinja::SameText(key, kNames[i]) && !value.is_null()) found[i] = &value;
    }
  }
  for (const Json* value : found) {
    if (value != nullptr) return value;
  }
  return nullptr;
}

// Messages as the template sees them. The role and the keys are the template's words, the rest is
// the message's.
class MessageValues {
 public:
  explicit MessageValues(Arena& arena) : arena_(arena) {}

  Value Convert(const Json& message, Origin origin) {
    const Json::Object& members = message.as_object();
    const Json* const reasoning = ReasoningOf(members);
    const Value dict = jinja::NewDict(arena_, members.size() + (reasoning == nullptr ? 0 : 2));
    if (reasoning != nullptr) Set(dict.dict(), "thinking", *reasoning, origin);
    for (const auto& [key, value] : members) {
      const bool own = !jinja::SameText(key, "role") && !jinja::SameText(key, "name");
      if (value.is_string()) text_bytes_ += value.as_string().size();
      if (reasoning == nullptr) {
        dict.dict().Append(arena_, Key(dict.dict().size, key),
                           ToValue(arena_, value, own ? origin : 0));
      } else {
        Set(dict.dict(), key, value, own ? origin : 0);
      }
    }
    if (reasoning != nullptr) Set(dict.dict(), "reasoning_content", *reasoning, origin);
    last_ = &dict.dict();
    return dict;
  }

  // Of the messages' own strings, so far.
  size_t text_bytes() const { return text_bytes_; }

 private:
  void Set(jinja::Dict& dict, absl::string_view key, const Json& value, Origin origin) {
    dict.Set(arena_, Key(dict.size, key), ToValue(arena_, value, origin));
  }

  // Messages mostly have the same members in the same order and so share their keys.
  Value Key(uint32_t place, absl::string_view key) const {
    if (last_ != nullptr && place < last_->size) {
      const Value& before = last_->entries[place].key;
      if (jinja::SameText(before.view(), key)) return before;
    }
    return Value::String(ViewStr(arena_, key));
  }

  Arena& arena_;
  const jinja::Dict* last_ = nullptr;
  size_t text_bytes_ = 0;
};

constexpr size_t kMaxReserved = 1 << 20;  // of the output; what is longer grows by itself
constexpr size_t kAroundMessage = 64;     // bytes that a template puts around a message, about

// What one rendering gives.
struct Rendering {
  std::string text;
  std::vector<Range> ranges;
  std::vector<Range> generated;
  bool generated_elsewhere = false;
};

bool IsAssistant(const Json& message) { return message.GetString("role") == "assistant"; }

bool IsLearnt(const Json& message) {
  const Json* weight = message.Find("weight");
  if (weight != nullptr && weight->is_number() && weight->as_double() == 0) return false;
  const Json* train = message.Find("train");
  return train == nullptr || !train->is_bool() || train->as_bool();
}

// The end of the last byte that a message wrote.
size_t LastMessageByte(const std::vector<Range>& ranges) {
  size_t end = 0;
  for (const Range& range : ranges) end = std::max<size_t>(end, range.end);
  return end;
}

absl::Status CheckInput(const ChatInput& input) {
  GRAFT_CHECK(input.messages != nullptr) << "ChatInput::messages must be set";
  if (!input.messages->is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat("messages: expected an array, found ", input.messages->type_name()));
  }
  for (size_t i = 0; i < input.messages->as_array().size(); ++i) {
    const Json& message = input.messages->as_array()[i];
    if (!message.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("messages[", i, "]: expected an object, found ", message.type_name()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

struct ChatTemplate::Impl {
  std::unique_ptr<const jinja::Program> program;
  // The variables of the context, found once.
  jinja::NameId messages, tools, documents, add_generation_prompt, bos_token, eos_token;

  explicit Impl(std::unique_ptr<const jinja::Program> parsed)
      : program(std::move(parsed)),
        messages(program->FindName("messages")),
        tools(program->FindName("tools")),
        documents(program->FindName("documents")),
        add_generation_prompt(program->FindName("add_generation_prompt")),
        bos_token(program->FindName("bos_token")),
        eos_token(program->FindName("eos_token")) {}

  // The template over the first `count` messages.
  absl::StatusOr<Rendering> Run(const ChatInput& input, size_t count, bool generation_prompt,
                                bool track) const;
  std::vector<ByteSpan> GeneratedSpans(const ChatInput& input, const Rendering& all) const;
  void FindTurns(const ChatInput& input, const Rendering& all, RenderedChat& out) const;
};

absl::StatusOr<Rendering> ChatTemplate::Impl::Run(const ChatInput& input, size_t count,
                                                  bool generation_prompt, bool track) const {
  Arena arena(input.limits.max_memory_bytes, input.limits.max_output_bytes);
  jinja::Interpreter interpreter(*program, arena, {input.limits.max_steps, input.limits.max_depth},
                                 input.now);
  const Json::Array& given = input.messages->as_array();
  const Value list = jinja::NewList(arena, Kind::kList, count);
  MessageValues convert(arena);
  for (size_t i = 0; i < count; ++i) {
    list.list().Push(arena, convert.Convert(given[i], track ? static_cast<Origin>(i) + 1 : 0));
  }
  interpreter.Define(messages, list);
  const auto define = [&](jinja::NameId name, const Json* json) {
    if (name == jinja::Program::kNoName) return;
    interpreter.Define(name, json == nullptr ? Value::None() : ToValue(arena, *json, 0));
  };
  define(tools, input.tools);
  define(documents, input.documents);
  interpreter.Define(add_generation_prompt, Value::Bool(generation_prompt));
  const auto token = [&](jinja::NameId name, absl::string_view text) {
    if (!text.empty()) interpreter.Define(name, Value::String(ViewStr(arena, text)));
  };
  token(bos_token, input.bos_token);
  token(eos_token, input.eos_token);
  if (input.kwargs != nullptr && input.kwargs->is_object()) {
    for (const auto& [name, value] : input.kwargs->as_object()) {
      define(program->FindName(name), &value);
    }
  }
  interpreter.ReserveOutput(
      std::min(convert.text_bytes() + (count + 1) * kAroundMessage, kMaxReserved));
  GRAFT_RETURN_IF_ERROR(interpreter.Run());
  Rendering rendering;
  rendering.ranges = interpreter.output().ranges();
  rendering.generated = interpreter.generated();
  rendering.generated_elsewhere = interpreter.generated_elsewhere();
  rendering.text = interpreter.TakeText();
  return rendering;
}

// Blocks of messages that are not to be learnt are left out.
std::vector<ByteSpan> ChatTemplate::Impl::GeneratedSpans(const ChatInput& input,
                                                         const Rendering& all) const {
  std::vector<ByteSpan> spans;
  for (const Range& block : all.generated) {
    bool learnt = block.begin < block.end;
    for (const Range& range : all.ranges) {
      if (range.begin >= block.end || range.end <= block.begin) continue;
      learnt = learnt && IsLearnt(input.messages->as_array()[range.origin - 1]);
    }
    if (learnt) spans.push_back({block.begin, block.end});
  }
  return spans;
}

void ChatTemplate::Impl::FindTurns(const ChatInput& input, const Rendering& all,
                                   RenderedChat& out) const {
  const Json::Array& messages = input.messages->as_array();
  std::vector<std::string> end_of_turn = input.end_of_turn;
  if (end_of_turn.empty()) {
    end_of_turn = DefaultEndOfTurn(input.eos_token);
  } else if (!input.eos_token.empty()) {
    end_of_turn.emplace_back(input.eos_token);
  }
  // What opens a turn hangs on who spoke before it, so one prompt per role is enough.
  std::map<std::string, absl::optional<std::string>> openings;
  TurnContext context{all.text, all.ranges, end_of_turn, nullptr};
  context.opening = [&](int count) {
    const std::string role = count == 0 ? "" : messages[count - 1].GetString("role");
    const auto [it, added] = openings.try_emplace(role);
    if (added) {
      const absl::StatusOr<Rendering> prompt = Run(input, count, true, true);
      if (prompt.ok()) it->second = prompt->text.substr(LastMessageByte(prompt->ranges));
    }
    return it->second;
  };
  const bool blocks = !all.generated.empty() && !all.generated_elsewhere;
  if (blocks) {
    out.span_source = SpanSource::kGenerationBlocks;
    out.assistant_spans = GeneratedSpans(input, all);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!IsAssistant(messages[i])) continue;
    const AssistantTurn turn = FindTurn(context, static_cast<int>(i));
    if (turn.spans.empty()) continue;
    out.ends_with_end_of_turn = turn.ends_with_token;
    if (blocks || !IsLearnt(messages[i])) continue;
    out.span_source = SpanSource::kProvenance;
    out.assistant_spans.insert(out.assistant_spans.end(), turn.spans.begin(), turn.spans.end());
  }
  std::sort(out.assistant_spans.begin(), out.assistant_spans.end(),
            [](const ByteSpan& a, const ByteSpan& b) { return a.begin < b.begin; });
}

ChatTemplate::ChatTemplate(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<ChatTemplate> ChatTemplate::Compile(absl::string_view source) {
  GRAFT_ASSIGN_OR_RETURN(auto program, jinja::Parse(source));
  return ChatTemplate(std::make_unique<Impl>(std::move(program)));
}

absl::StatusOr<std::string> ChatTemplate::RenderText(const ChatInput& input) const {
  GRAFT_RETURN_IF_ERROR(CheckInput(input));
  GRAFT_ASSIGN_OR_RETURN(Rendering all, impl_->Run(input, input.messages->as_array().size(),
                                                   input.add_generation_prompt, false));
  return std::move(all.text);
}

absl::StatusOr<RenderedChat> ChatTemplate::Render(const ChatInput& input) const {
  GRAFT_RETURN_IF_ERROR(CheckInput(input));
  GRAFT_ASSIGN_OR_RETURN(Rendering all, impl_->Run(input, input.messages->as_array().size(),
                                                   input.add_generation_prompt, true));
  RenderedChat out;
  impl_->FindTurns(input, all, out);
  out.text = std::move(all.text);
  return out;
}

absl::StatusOr<std::pair<std::string, std::vector<MessageBytes>>>
ChatTemplate::RenderWithProvenance(const ChatInput& input) const {
  GRAFT_RETURN_IF_ERROR(CheckInput(input));
  GRAFT_ASSIGN_OR_RETURN(Rendering all, impl_->Run(input, input.messages->as_array().size(),
                                                   input.add_generation_prompt, true));
  std::vector<MessageBytes> bytes;
  for (const Range& range : all.ranges) {
    bytes.push_back({static_cast<int>(range.origin) - 1, {range.begin, range.end}});
  }
  return std::make_pair(std::move(all.text), std::move(bytes));
}

bool ChatTemplate::has_generation_blocks() const { return impl_->program->has_generation; }

bool ChatTemplate::Mentions(absl::string_view variable) const {
  return impl_->program->name_ids.contains(variable);
}

absl::StatusOr<std::string> FindChatTemplate(const Json* tokenizer_config,
                                             absl::string_view chat_template_jinja,
                                             absl::string_view name) {
  if (!chat_template_jinja.empty() && name == "default") return std::string(chat_template_jinja);
  const Json* member =
      tokenizer_config == nullptr ? nullptr : tokenizer_config->Find("chat_template");
  if (member != nullptr && member->is_string()) return member->as_string();
  if (member != nullptr && member->is_array()) {
    for (const Json& entry : member->as_array()) {
      if (entry.GetString("name") == name) return entry.GetString("template");
    }
    return absl::NotFoundError(absl::StrCat("the model has no chat template named '", name, "'"));
  }
  if (!chat_template_jinja.empty()) return std::string(chat_template_jinja);
  return absl::NotFoundError(
      "the model has no chat template (chat_template.jinja, or chat_template in "
      "tokenizer_config.json); use prompt/completion rows or give a template");
}

}  // namespace graft::data
