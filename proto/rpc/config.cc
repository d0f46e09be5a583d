#include "rpc/config.h"

#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/types/optional.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/json_util.h"
#include "rpc/nearest_name.h"

namespace graft::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

std::vector<std::string> FieldNames(const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  return names;
}

const FieldDescriptor* FindField(const Descriptor& type, const std::string& key) {
  const FieldDescriptor* field = type.FindFieldByName(key);
  return field != nullptr ? field : type.FindFieldByCamelcaseName(key);
}

// Where each value of a JSON text starts. The text has been parsed before, so it is well-formed.
class LineFinder {
 public:
  explicit LineFinder(absl::string_view text) : text_(text) {}

  // The line on which the key or element stands that `path` leads to; 1 where there is none.
  int Find(const std::vector<std::string>& path) {
    wanted_ = &path;
    at_ = 0;
    line_ = found_ = 1;
    Value(0, true);
    return found_;
  }

 private:
  void Skip() {
    while (at_ < text_.size() &&
           (absl::ascii_isspace(text_[at_]) || text_[at_] == ',' || text_[at_] == ':')) {
      line_ += text_[at_++] == '\n';
    }
  }
  std::string String() {
    const size_t start = ++at_;
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    return std::string(text_.substr(start, at_++ - start));
  }
  void Member(size_t depth, bool on_path, const std::string& name) {
    const bool hit = on_path && depth < wanted_->size() && name == (*wanted_)[depth];
    if (hit) found_ = line_;
    Value(depth + 1, hit);
  }
  void Value(size_t depth, bool on_path) {
    Skip();
    if (at_ >= text_.size()) return;
    const char open = text_[at_];
    if (open == '"') {
      String();
    } else if (open == '{' || open == '[') {
      ++at_;
      for (int index = 0;; ++index) {
        Skip();
        if (at_ >= text_.size() || text_[at_] == '}' || text_[at_] == ']') break;
        if (open == '{') {
          const std::string key = String();
          Member(depth, on_path, key);
        } else {
          Member(depth, on_path, absl::StrCat("[", index, "]"));
        }
      }
      ++at_;
    } else {
      while (at_ < text_.size() && !absl::ascii_isspace(text_[at_]) &&
             !absl::StrContains(",]}", text_.substr(at_, 1))) {
        ++at_;
      }
    }
  }

  const absl::string_view text_;
  const std::vector<std::string>* wanted_ = nullptr;
  size_t at_ = 0;
  int line_ = 1;
  int found_ = 1;
};

std::string ShowPath(const std::vector<std::string>& path) {
  return absl::StrReplaceAll(absl::StrJoin(path, "."), {{".[", "["}});
}

// Walks the JSON beside the message's type and stops at the first key or value that does not fit.
class JsonChecker {
 public:
  JsonChecker(absl::string_view text, absl::string_view source) : text_(text), source_(source) {}

  absl::Status CheckMessage(const Json& json, const Descriptor& type) {
    // Well-known types (durations, times, wrappers) have JSON forms of their own.
    if (absl::StartsWith(type.full_name(), "google.protobuf.")) return absl::OkStatus();
    if (!json.is_object()) return WrongType(json, "an object");
    for (const auto& [key, value] : json.as_object()) {
      path_.push_back(key);
      const FieldDescriptor* field = FindField(type, key);
      if (field == nullptr) {
        return Error(absl::StrCat("there is no such key", DidYouMean(key, FieldNames(type))));
      }
      GRAFT_RETURN_IF_ERROR(CheckField(value, *field));
      path_.pop_back();
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(source_, ":", LineFinder(text_).Find(path_),
                                                   ": ", ShowPath(path_), ": ", what));
  }
  absl::Status WrongType(const Json& json, absl::string_view wanted) const {
    return Error(absl::StrCat("expected ", wanted, ", not ", json.Dump().substr(0, 40)));
  }

  absl::Status CheckField(const Json& json, const FieldDescriptor& field) {
    if (json.is_null()) return absl::OkStatus();
    if (field.is_map()) {
      if (!json.is_object()) return WrongType(json, "an object");
      for (const auto& [key, value] : json.as_object()) {
        path_.push_back(key);
        GRAFT_RETURN_IF_ERROR(CheckValue(value, *field.message_type()->FindFieldByNumber(2)));
        path_.pop_back();
      }
      return absl::OkStatus();
    }
    if (!field.is_repeated()) return CheckValue(json, field);
    if (!json.is_array()) return WrongType(json, "a list");
    for (size_t i = 0; i < json.as_array().size(); ++i) {
      path_.push_back(absl::StrCat("[", i, "]"));
      GRAFT_RETURN_IF_ERROR(CheckValue(json.as_array()[i], field));
      path_.pop_back();
    }
    return absl::OkStatus();
  }

  absl::Status CheckValue(const Json& json, const FieldDescriptor& field) {
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return CheckMessage(json, *field.message_type());
      case FieldDescriptor::CPPTYPE_STRING:
        return json.is_string() ? absl::OkStatus() : WrongType(json, "a string");
      case FieldDescriptor::CPPTYPE_BOOL:
        return json.is_bool() ? absl::OkStatus() : WrongType(json, "true or false");
      case FieldDescriptor::CPPTYPE_ENUM:
        return CheckEnum(json, field);
      case FieldDescriptor::CPPTYPE_FLOAT:
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return json.is_number() ? absl::OkStatus() : WrongType(json, "a number");
      default:
        return json.is_int() ? absl::OkStatus() : WrongType(json, "an integer");
    }
  }

  absl::Status CheckEnum(const Json& json, const FieldDescriptor& field) {
    std::vector<std::string> names;
    for (int i = 0; i < field.enum_type()->value_count(); ++i) {
      names.push_back(field.enum_type()->value(i)->name());
    }
    if (!json.is_string())
      return WrongType(json, absl::StrCat("one of ", absl::StrJoin(names, ", ")));
    if (field.enum_type()->FindValueByName(json.as_string()) != nullptr) return absl::OkStatus();
    return Error(absl::StrCat("'", json.as_string(), "' is no value of this key",
                              DidYouMean(json.as_string(), names)));
  }

  const absl::string_view text_;
  const absl::string_view source_;
  std::vector<std::string> path_;
};

// Keeps the first complaint of protobuf's parser, whose lines and columns start at 0.
class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (!text.empty()) return;
    text = message;
    at_line = line;
    at_column = column;
  }
  std::string text;
  int at_line = 0;
  int at_column = 0;
};

// The names of the messages that enclose a place of a protobuf text.
std::vector<std::string> EnclosingPath(absl::string_view text, int line, int column) {
  std::vector<std::string> path;
  google::protobuf::io::ArrayInputStream stream(text.data(), static_cast<int>(text.size()));
  FirstError ignored;
  google::protobuf::io::Tokenizer tokenizer(&stream, &ignored);
  tokenizer.set_comment_style(google::protobuf::io::Tokenizer::SH_COMMENT_STYLE);
  std::string name;
  while (tokenizer.Next()) {
    const auto& token = tokenizer.current();
    if (std::make_pair(token.line, token.column) >= std::make_pair(line, column)) break;
    if (token.type == google::protobuf::io::Tokenizer::TYPE_IDENTIFIER) name = token.text;
    if (token.text == "{" || token.text == "<") path.push_back(name);
    if ((token.text == "}" || token.text == ">") && !path.empty()) path.pop_back();
  }
  return path;
}

// The type that a path of field names leads to, and nullptr where it leads nowhere.
const Descriptor* TypeAt(const Descriptor* type, const std::vector<std::string>& path) {
  for (const std::string& name : path) {
    const FieldDescriptor* field = type->FindFieldByName(name);
    type = field == nullptr ? nullptr : field->message_type();
    if (type == nullptr) break;
  }
  return type;
}

// What stands between the first pair of quotes after `marker`.
std::string QuotedAfter(absl::string_view text, absl::string_view marker) {
  const size_t at = text.find(marker);
  if (at == absl::string_view::npos) return "";
  const size_t open = text.find('"', at);
  const size_t close = open == absl::string_view::npos ? open : text.find('"', open + 1);
  if (close == absl::string_view::npos) return "";
  return std::string(text.substr(open + 1, close - open - 1));
}

}  // namespace

absl::Status ParseJsonConfig(absl::string_view text, absl::string_view source,
                             google::protobuf::Message& config) {
  const absl::StatusOr<Json> json = Json::Parse(text);
  if (!json.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", json.status().message()));
  }
  GRAFT_RETURN_IF_ERROR(JsonChecker(text, source).CheckMessage(*json, *config.GetDescriptor()));
  const auto status = google::protobuf::util::JsonStringToMessage(
      google::protobuf::StringPiece(text.data(), text.size()), &config);
  if (status.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(source, ": ", status.ToString()));
}

absl::Status ParseTextConfig(absl::string_view text, absl::string_view source,
                             google::protobuf::Message& config) {
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (parser.ParseFromString(std::string(text), &config)) return absl::OkStatus();
  std::vector<std::string> path = EnclosingPath(text, error.at_line, error.at_column);
  std::string what = error.text;
  const std::string key = QuotedAfter(error.text, "has no field named");
  const Descriptor* type = TypeAt(config.GetDescriptor(), path);
  if (!key.empty() && type != nullptr) {
    what = absl::StrCat("there is no such key", DidYouMean(key, FieldNames(*type)));
    path.push_back(key);
  }
  const std::string where = path.empty() ? "" : absl::StrCat(ShowPath(path), ": ");
  return absl::InvalidArgumentError(
      absl::StrCat(source, ":", error.at_line + 1, ": ", where, what));
}

absl::Status ReadConfig(const std::string& path, google::protobuf::Message& config) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  const absl::string_view body = absl::StripLeadingAsciiWhitespace(text);
  if (absl::EndsWith(path, ".json") || absl::StartsWith(body, "{")) {
    return ParseJsonConfig(text, path, config);
  }
  return ParseTextConfig(text, path, config);
}

namespace {

bool IsOption(const FieldDescriptor& field) {
  return !field.is_repeated() && field.message_type() == nullptr && field.enum_type() == nullptr;
}

// An option with its value; a switch may go without one.
struct Option {
  std::string name;  // "port_file"
  absl::optional<std::string> value;
};

Option SplitOption(absl::string_view argument) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(argument.substr(2), absl::MaxSplits('=', 1));
  Option option{.name = absl::StrReplaceAll(parts.first, {{"-", "_"}}), .value = absl::nullopt};
  if (absl::StrContains(argument, '=')) option.value = std::string(parts.second);
  return option;
}

std::string FlagName(absl::string_view name) {
  return absl::StrCat("--", absl::StrReplaceAll(name, {{"_", "-"}}));
}

absl::Status UnknownOption(const std::string& name, const Descriptor& type) {
  std::vector<std::string> known = {"config"};
  for (int i = 0; i < type.field_count(); ++i) {
    if (IsOption(*type.field(i))) known.push_back(type.field(i)->name());
  }
  const std::string nearest = NearestName(name, known);
  for (std::string& one : known) one = FlagName(one);
  return absl::InvalidArgumentError(
      absl::StrCat("there is no option ", FlagName(name),
                   nearest.empty() ? absl::StrCat("; known are ", absl::StrJoin(known, ", "))
                                   : absl::StrCat("; did you mean ", FlagName(nearest), "?")));
}

// Reads the value as a protobuf text would give it, so that each type has one reader.
absl::Status SetOption(const FieldDescriptor& field, const std::string& value,
                       google::protobuf::Message& config) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    config.GetReflection()->SetString(&config, &field, value);
    return absl::OkStatus();
  }
  google::protobuf::TextFormat::Parser parser;
  FirstError error;
  parser.RecordErrorsTo(&error);
  if (parser.ParseFieldValueFromString(value, &field, &config)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(FlagName(field.name()), " cannot be '", value, "': ", error.text));
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadArguments(const std::vector<std::string>& arguments,
                                                       google::protobuf::Message& config) {
  const Descriptor& type = *config.GetDescriptor();
  std::vector<std::string> words;
  std::vector<std::pair<const FieldDescriptor*, std::string>> options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!absl::StartsWith(arguments[i], "--")) {
      words.push_back(arguments[i]);
      continue;
    }
    Option option = SplitOption(arguments[i]);
    const FieldDescriptor* field = type.FindFieldByName(option.name);
    const bool is_config = option.name == "config";
    if (!is_config && (field == nullptr || !IsOption(*field))) {
      return UnknownOption(option.name, type);
    }
    const bool is_switch = !is_config && field->cpp_type() == FieldDescriptor::CPPTYPE_BOOL;
    if (!option.value.has_value() && is_switch) option.value = "true";
    if (!option.value.has_value()) {
      if (i + 1 == arguments.size()) {
        return absl::InvalidArgumentError(absl::StrCat(FlagName(option.name), " wants a value"));
      }
      option.value = arguments[++i];
    }
    if (is_config) {
      GRAFT_RETURN_IF_ERROR(ReadConfig(*option.value, config));
    } else {
      options.emplace_back(field, *std::move(option.value));
    }
  }
  for (const auto& [field, value] : options) {
    GRAFT_RETURN_IF_ERROR(SetOption(*field, value, config));
  }
  return words;
}

}  // namespace graft::rpc
