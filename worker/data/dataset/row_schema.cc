#include "worker/data/dataset/row_schema.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace graft::data {
namespace {

constexpr absl::string_view kRoles[] = {"system", "developer", "user",    "assistant",
                                        "tool",   "function",  "ipython", "environment"};

std::string Found(const Json* value) {
  if (value == nullptr) return "nothing";
  if (value->is_string() && value->as_string().empty()) return "an empty string";
  if (value->is_null()) return "null";
  const absl::string_view type = value->type_name();
  const bool vowel = type == "integer" || type == "object" || type == "array";
  return absl::StrCat(vowel ? "an " : "a ", type);
}

std::string MemberNames(const Json& object) {
  std::vector<std::string> names;
  for (const auto& [key, value] : object.as_object()) {
    names.push_back(absl::StrCat("\"", key, "\""));
    if (names.size() == 8) break;
  }
  return names.empty() ? "an empty object"
                       : absl::StrCat("an object with ", absl::StrJoin(names, ", "));
}

using Problem = absl::optional<SchemaProblem>;

Problem Wrong(std::string path, std::string expected, std::string found) {
  return SchemaProblem{std::move(path), std::move(expected), std::move(found)};
}

// Fills templates such as "{question}\n{context}".
Problem FillTemplate(const std::string& pattern, const Json& row, std::string& out) {
  for (size_t pos = 0; pos < pattern.size(); ++pos) {
    const char c = pattern[pos];
    if ((c == '{' || c == '}') && pos + 1 < pattern.size() && pattern[pos + 1] == c) {
      out += c;
      ++pos;
      continue;
    }
    if (c != '{') {
      out += c;
      continue;
    }
    const size_t close = pattern.find('}', pos);
    if (close == std::string::npos) return Wrong("", "a template with closed braces", pattern);
    const std::string name = pattern.substr(pos + 1, close - pos - 1);
    const Json* value = row.Find(name);
    if (value == nullptr || value->is_null()) {
      return Wrong(name, absl::StrCat("the member \"", name, "\" that the template names"),
                   value == nullptr ? MemberNames(row) : "null");
    }
    out += value->is_string() ? value->as_string() : value->Dump();
    pos = close;
  }
  return absl::nullopt;
}

Problem CheckContent(const Json& message, const std::string& path) {
  const Json* content = message.Find("content");
  const Json* calls = message.Find("tool_calls");
  const bool has_calls = calls != nullptr && calls->is_array() && !calls->as_array().empty();
  if (content == nullptr || content->is_null()) {
    if (has_calls) return absl::nullopt;
    return Wrong(path + ".content", "a string", Found(content));
  }
  if (content->is_string()) return absl::nullopt;
  if (!content->is_array()) {
    return Wrong(path + ".content", "a string or a list of text parts", Found(content));
  }
  for (size_t i = 0; i < content->as_array().size(); ++i) {
    const Json& part = content->as_array()[i];
    const std::string at = absl::StrCat(path, ".content[", i, "]");
    if (!part.is_object())
      return Wrong(at, "an object {\"type\": \"text\", \"text\"}", Found(&part));
    if (part.GetString("type") != "text") {
      return Wrong(at + ".type", "\"text\": images and sound are not trained on",
                   absl::StrCat("\"", part.GetString("type"), "\""));
    }
    const Json* text = part.Find("text");
    if (text == nullptr || !text->is_string()) return Wrong(at + ".text", "a string", Found(text));
  }
  return absl::nullopt;
}

Problem CheckToolCalls(const Json& message, const std::string& path) {
  const Json* calls = message.Find("tool_calls");
  if (calls == nullptr || calls->is_null()) return absl::nullopt;
  if (!calls->is_array()) return Wrong(path + ".tool_calls", "a list", Found(calls));
  for (size_t i = 0; i < calls->as_array().size(); ++i) {
    const Json& call = calls->as_array()[i];
    const std::string at = absl::StrCat(path, ".tool_calls[", i, "]");
    if (!call.is_object()) return Wrong(at, "an object", Found(&call));
    const Json* function = call.Find("function");
    const Json& body = function != nullptr && function->is_object() ? *function : call;
    const Json* name = body.Find("name");
    if (name == nullptr || !name->is_string()) {
      return Wrong(at + ".function.name", "a string", Found(name));
    }
    const Json* arguments = body.Find("arguments");
    if (arguments != nullptr && !arguments->is_object() && !arguments->is_string()) {
      return Wrong(at + ".function.arguments", "an object (or its JSON text)", Found(arguments));
    }
  }
  return absl::nullopt;
}

Problem CheckMessage(const Json& message, const std::string& path) {
  if (!message.is_object()) {
    return Wrong(path, "an object {\"role\", \"content\"}", Found(&message));
  }
  const Json* role = message.Find("role");
  if (role == nullptr && message.Find("from") != nullptr) {
    return Wrong(path + ".role", "\"role\" and \"content\"", "\"from\" and \"value\" (ShareGPT)");
  }
  if (role == nullptr || !role->is_string()) return Wrong(path + ".role", "a string", Found(role));
  if (std::find(std::begin(kRoles), std::end(kRoles), role->as_string()) == std::end(kRoles)) {
    return Wrong(path + ".role", absl::StrCat("one of ", absl::StrJoin(kRoles, ", ")),
                 absl::StrCat("\"", role->as_string(), "\""));
  }
  if (Problem problem = CheckContent(message, path); problem.has_value()) return problem;
  return CheckToolCalls(message, path);
}

Problem CheckMessages(const Json* messages, const std::string& path, bool may_be_empty = false) {
  if (messages == nullptr || !messages->is_array()) {
    return Wrong(path, "a list of messages", Found(messages));
  }
  if (messages->as_array().empty() && !may_be_empty) {
    return Wrong(path, "at least one message", "an empty list");
  }
  for (size_t i = 0; i < messages->as_array().size(); ++i) {
    Problem problem = CheckMessage(messages->as_array()[i], absl::StrCat(path, "[", i, "]"));
    if (problem.has_value()) return problem;
  }
  return absl::nullopt;
}

bool HasAssistant(const Json& messages) {
  const Json::Array& list = messages.as_array();
  return std::any_of(list.begin(), list.end(),
                     [](const Json& message) { return message.GetString("role") == "assistant"; });
}

// A list of tools, or its JSON text.
Problem TakeTools(const Json* tools, const std::string& path, Json& out) {
  if (tools == nullptr || tools->is_null()) return absl::nullopt;
  out = *tools;
  if (out.is_string()) {
    absl::StatusOr<Json> parsed = Json::Parse(out.as_string());
    if (!parsed.ok()) return Wrong(path, "a list of tools", "text that is not JSON");
    out = *std::move(parsed);
  }
  if (!out.is_array()) return Wrong(path, "a list of tools", Found(&out));
  for (size_t i = 0; i < out.as_array().size(); ++i) {
    const Json& tool = out.as_array()[i];
    if (!tool.is_object()) return Wrong(absl::StrCat(path, "[", i, "]"), "an object", Found(&tool));
  }
  if (out.as_array().empty()) out = Json();
  return absl::nullopt;
}

Problem TakeString(const Json& row, const std::string& name, bool may_be_empty, std::string& out) {
  const Json* value = row.Find(name);
  if (value == nullptr || !value->is_string() || (value->as_string().empty() && !may_be_empty)) {
    return Wrong(name, may_be_empty ? "a string" : "a string that is not empty", Found(value));
  }
  out = value->as_string();
  return absl::nullopt;
}

void Append(const Json& messages, Json& out) {
  if (!messages.is_array()) return;
  for (const Json& message : messages.as_array()) out.Append(message);
}

Problem ReadChat(const DatasetOptions& options, const Json& json, Row& row) {
  const Json* messages = json.Find(options.fields.messages);
  Problem problem = CheckMessages(messages, options.fields.messages);
  if (problem.has_value()) return problem;
  if (!HasAssistant(*messages)) {
    return Wrong(options.fields.messages, "at least one message of the assistant to learn from",
                 "none");
  }
  row.messages = *messages;
  return TakeTools(json.Find(options.fields.tools), options.fields.tools, row.tools);
}

// TRL's conversational prompt/completion: two lists of messages; the answer alone is learnt.
Problem ReadConversationalPrompt(const DatasetOptions& options, const Json& json, Row& row) {
  const Json* prompt = json.Find(options.fields.prompt);
  const Json* completion = json.Find(options.fields.completion);
  Problem problem = CheckMessages(prompt, options.fields.prompt);
  if (!problem.has_value()) problem = CheckMessages(completion, options.fields.completion);
  if (problem.has_value()) return problem;
  if (!HasAssistant(*completion)) {
    return Wrong(options.fields.completion, "a message of the assistant", "none");
  }
  row.messages = Json::MakeArray();
  for (Json message : prompt->as_array()) {
    message.Set("train", false);
    row.messages.Append(std::move(message));
  }
  Append(*completion, row.messages);
  return TakeTools(json.Find(options.fields.tools), options.fields.tools, row.tools);
}

Problem ReadPromptCompletion(const DatasetOptions& options, const Json& json, Row& row) {
  const Json* prompt = json.Find(options.fields.prompt);
  if (options.prompt_template.empty() && prompt != nullptr && prompt->is_array()) {
    return ReadConversationalPrompt(options, json, row);
  }
  Problem problem = options.prompt_template.empty()
                        ? TakeString(json, options.fields.prompt, true, row.prompt)
                        : FillTemplate(options.prompt_template, json, row.prompt);
  if (problem.has_value()) return problem;
  problem = options.completion_template.empty()
                ? TakeString(json, options.fields.completion, false, row.completion)
                : FillTemplate(options.completion_template, json, row.completion);
  if (!problem.has_value() && row.completion.empty()) {
    return Wrong(options.fields.completion, "a completion that is not empty", "an empty string");
  }
  return problem;
}

// Messages that both answers begin with are the prompt.
void SplitCommonPrompt(Row& row) {
  Json::Array& chosen = row.chosen_messages.mutable_array();
  Json::Array& rejected = row.rejected_messages.mutable_array();
  size_t common = 0;
  while (common < chosen.size() && common < rejected.size() && chosen[common] == rejected[common]) {
    row.messages.Append(chosen[common++]);
  }
  chosen.erase(chosen.begin(), chosen.begin() + static_cast<ptrdiff_t>(common));
  rejected.erase(rejected.begin(), rejected.begin() + static_cast<ptrdiff_t>(common));
}

Problem ReadPreferenceMessages(const DatasetOptions& options, const Json& json, Row& row) {
  const FieldNames& fields = options.fields;
  Problem problem = CheckMessages(json.Find(fields.chosen), fields.chosen);
  if (!problem.has_value()) problem = CheckMessages(json.Find(fields.rejected), fields.rejected);
  if (problem.has_value()) return problem;
  row.chosen_messages = *json.Find(fields.chosen);
  row.rejected_messages = *json.Find(fields.rejected);
  row.messages = Json::MakeArray();
  const Json* prompt = json.Find(fields.prompt);
  if (prompt == nullptr || prompt->is_null()) {
    SplitCommonPrompt(row);
  } else if (prompt->is_string()) {
    Json message = Json::MakeObject();
    row.messages.Append(message.Set("role", "user").Set("content", prompt->as_string()));
  } else {
    problem = CheckMessages(prompt, fields.prompt);
    if (problem.has_value()) return problem;
    row.messages = *prompt;
  }
  for (const auto& [name, answer] :
       {std::pair<const std::string&, const Json&>{fields.chosen, row.chosen_messages},
        {fields.rejected, row.rejected_messages}}) {
    if (!HasAssistant(answer)) {
      return Wrong(name, "a message of the assistant behind the prompt", "none");
    }
  }
  return TakeTools(json.Find(fields.tools), fields.tools, row.tools);
}

Problem ReadPreference(const DatasetOptions& options, const Json& json, Row& row) {
  const Json* chosen = json.Find(options.fields.chosen);
  if (chosen != nullptr && chosen->is_array()) return ReadPreferenceMessages(options, json, row);
  Problem problem = options.prompt_template.empty()
                        ? TakeString(json, options.fields.prompt, true, row.prompt)
                        : FillTemplate(options.prompt_template, json, row.prompt);
  if (!problem.has_value()) problem = TakeString(json, options.fields.chosen, false, row.chosen);
  if (!problem.has_value())
    problem = TakeString(json, options.fields.rejected, false, row.rejected);
  return problem;
}

}  // namespace

absl::optional<RowFormat> DetectFormat(const Json& row, const DatasetOptions& options) {
  const auto has = [&](const std::string& name) { return row.Find(name) != nullptr; };
  const FieldNames& fields = options.fields;
  if (has(fields.messages)) return RowFormat::kChat;
  if (has(fields.chosen) && has(fields.rejected)) return RowFormat::kPreference;
  if ((has(fields.prompt) || !options.prompt_template.empty()) &&
      (has(fields.completion) || !options.completion_template.empty())) {
    return RowFormat::kPromptCompletion;
  }
  if (has(fields.text)) return RowFormat::kText;
  return absl::nullopt;
}

absl::optional<SchemaProblem> ReadRow(RowFormat format, const DatasetOptions& options, Json json,
                                      Row& row) {
  if (!json.is_object()) return Wrong("", "an object", Found(&json));
  if (const Json* kwargs = json.Find("chat_template_kwargs"); kwargs != nullptr) {
    if (!kwargs->is_object() && !kwargs->is_null()) {
      return Wrong("chat_template_kwargs", "an object", Found(kwargs));
    }
    row.kwargs = *kwargs;
  }
  Problem problem;
  switch (format) {
    case RowFormat::kChat:
      problem = ReadChat(options, json, row);
      break;
    case RowFormat::kPromptCompletion:
      problem = ReadPromptCompletion(options, json, row);
      break;
    case RowFormat::kText:
      problem = TakeString(json, options.fields.text, false, row.text);
      break;
    default:
      problem = ReadPreference(options, json, row);
  }
  if (problem.has_value() && problem->found == "nothing") problem->found = MemberNames(json);
  return problem;
}

// --- the place of a value in JSON text that is known to be valid

namespace {

class PathFinder {
 public:
  explicit PathFinder(absl::string_view text) : text_(text) { Space(); }

  size_t pos() const { return pos_; }

  // Moves to the value of member `name`; stays where it is not.
  bool EnterMember(absl::string_view name) {
    const size_t start = pos_;
    if (Peek() != '{') return false;
    ++pos_;
    for (Space(); Peek() == '"'; Space()) {
      const size_t key = pos_;
      Skip();
      const absl::string_view spelled = text_.substr(key + 1, pos_ - key - 2);
      Space();
      ++pos_;  // :
      Space();
      if (spelled == name) return true;
      Skip();
      Space();
      if (Peek() != ',') break;
      ++pos_;
    }
    pos_ = start;
    return false;
  }

  bool EnterElement(size_t index) {
    const size_t start = pos_;
    if (Peek() != '[') return false;
    ++pos_;
    for (Space(); pos_ < text_.size() && Peek() != ']'; Space()) {
      if (index-- == 0) return true;
      Skip();
      Space();
      if (Peek() == ',') ++pos_;
    }
    pos_ = start;
    return false;
  }

 private:
  char Peek() const { return pos_ < text_.size() ? text_[pos_] : 0; }
  void Space() {
    while (pos_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[pos_]))) {
      ++pos_;
    }
  }
  void SkipString() {
    for (++pos_; pos_ < text_.size() && text_[pos_] != '"'; ++pos_) pos_ += text_[pos_] == '\\';
    ++pos_;
  }
  // Over one value.
  void Skip() {
    int depth = 0;
    do {
      const char c = Peek();
      if (c == '"') {
        SkipString();
        continue;
      }
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      ++pos_;
      if (depth > 0 || c == '}' || c == ']') continue;
      while (pos_ < text_.size() &&
             absl::string_view(",}] \t\r\n").find(text_[pos_]) == absl::string_view::npos) {
        ++pos_;
      }
    } while (depth > 0 && pos_ < text_.size());
    pos_ = std::min(pos_, text_.size());
  }

  absl::string_view text_;
  size_t pos_ = 0;
};

}  // namespace

size_t LocatePath(absl::string_view text, absl::string_view path) {
  PathFinder finder(text);
  for (size_t pos = 0; pos < path.size();) {
    if (path[pos] == '[') {
      const size_t close = std::min(path.find(']', pos), path.size());
      size_t index = 0;
      if (!absl::SimpleAtoi(path.substr(pos + 1, close - pos - 1), &index) ||
          !finder.EnterElement(index)) {
        break;
      }
      pos = close + 1;
    } else {
      if (path[pos] == '.') ++pos;
      const size_t end = std::min(path.find_first_of(".[", pos), path.size());
      if (!finder.EnterMember(path.substr(pos, end - pos))) break;
      pos = end;
    }
  }
  return finder.pos();
}

}  // namespace graft::data
