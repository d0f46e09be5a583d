#include "client/cli/command.h"

#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "google/protobuf/util/json_util.h"

namespace graft::cli {
namespace {

constexpr absl::string_view kHintUrl = "graft.dev/cli/hint";

bool IsPlainYaml(const std::string& text) {
  if (text.empty() || absl::ascii_isspace(static_cast<unsigned char>(text.front())) ||
      absl::ascii_isspace(static_cast<unsigned char>(text.back()))) {
    return false;
  }
  static const auto& words =
      *new std::vector<std::string>{"true", "false", "null", "yes", "no", "on", "off", "~"};
  for (const std::string& word : words) {
    if (absl::EqualsIgnoreCase(text, word)) return false;
  }
  for (const char c : text) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && !absl::StrContains("_/.-", c)) {
      return false;
    }
  }
  return !absl::ascii_isdigit(static_cast<unsigned char>(text.front())) && text.front() != '-' &&
         text.front() != '.';
}

void AppendYaml(const Json& value, int indent, std::string& out) {
  const std::string space(static_cast<size_t>(indent), ' ');
  if (value.is_object() && !value.as_object().empty()) {
    for (const auto& [key, member] : value.as_object()) {
      absl::StrAppend(&out, space, IsPlainYaml(key) ? key : JsonQuote(key), ":");
      const bool nested = (member.is_object() && !member.as_object().empty()) ||
                          (member.is_array() && !member.as_array().empty());
      out.append(nested ? "\n" : " ");
      AppendYaml(member, nested ? indent + 2 : 0, out);
    }
  } else if (value.is_array() && !value.as_array().empty()) {
    for (const Json& element : value.as_array()) {
      std::string text;
      AppendYaml(element, indent + 2, text);
      // The element's first line stands behind its dash.
      absl::string_view first = text;
      absl::ConsumePrefix(&first, std::string(static_cast<size_t>(indent) + 2, ' '));
      absl::StrAppend(&out, space, "- ", first);
    }
  } else if (value.is_string()) {
    absl::StrAppend(
        &out, space,
        IsPlainYaml(value.as_string()) ? value.as_string() : JsonQuote(value.as_string()), "\n");
  } else {
    absl::StrAppend(&out, space, value.Dump(), "\n");
  }
}

std::string ToYaml(const Json& value) {
  std::string out;
  AppendYaml(value, 0, out);
  return out;
}

absl::StatusOr<Json> JsonOf(const google::protobuf::Message& message) {
  return Json::Parse(ToJson(message, false));
}

}  // namespace

absl::Status Invocation::ParseFlags(absl::string_view usage) {
  flags.String("context", &context_name_, "NAME", "the context to use instead of the current one");
  flags.String("workspace", &workspace_, "NAME", "the workspace to use instead of the context's");
  flags.Short('w');
  flags.Bool("help", &help_, "this text");
  flags.Short('h');
  if (name_flags_only_) return absl::CancelledError("");
  GRAFT_RETURN_IF_ERROR(flags.Parse(args_));
  if (!help_) return absl::OkStatus();
  Write(absl::StrCat("usage: ", usage, "\n\nflags:\n", flags.Help()));
  return absl::CancelledError("");
}

absl::Status Invocation::ParseWithFile(absl::string_view usage, std::string* file) {
  flags.String("output", file, "FILE", "where to write");
  flags.Short('o');
  return ParseFlags(usage);
}

absl::Status Invocation::Parse(absl::string_view usage) {
  flags.String("output", &format_name_, "FORMAT", "table, wide, json, yaml or name");
  flags.Short('o');
  GRAFT_RETURN_IF_ERROR(ParseFlags(usage));
  const std::pair<const char*, OutputFormat> formats[] = {{"table", OutputFormat::kTable},
                                                          {"wide", OutputFormat::kWide},
                                                          {"json", OutputFormat::kJson},
                                                          {"yaml", OutputFormat::kYaml},
                                                          {"name", OutputFormat::kName}};
  for (const auto& [name, value] : formats) {
    if (format_name_ == name) {
      format_ = value;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--output=", format_name_, ": known are table, wide, json, yaml and name"));
}

absl::StatusOr<std::string> Invocation::Word(size_t n, absl::string_view what) const {
  if (n < flags.words().size()) return flags.words()[n];
  return absl::InvalidArgumentError(absl::StrCat(what, " is missing"));
}

absl::StatusOr<client::Client*> Invocation::Connect() {
  if (client_ != nullptr) return client_.get();
  GRAFT_ASSIGN_OR_RETURN(client::Context context, client::ResolveContext(context_name_));
  if (!workspace_.empty()) context.workspace = workspace_;
  GRAFT_ASSIGN_OR_RETURN(client_, client::Client::Connect(context));
  return client_.get();
}

absl::Status Invocation::Print(const google::protobuf::Message& message,
                               const std::function<std::string()>& table) {
  if (format_ == OutputFormat::kTable || format_ == OutputFormat::kWide) {
    Write(table());
    return absl::OkStatus();
  }
  GRAFT_ASSIGN_OR_RETURN(const Json json, JsonOf(message));
  return PrintJson(json, table);
}

absl::Status Invocation::PrintList(const std::vector<const google::protobuf::Message*>& messages,
                                   const std::function<std::string()>& table) {
  if (format_ == OutputFormat::kTable || format_ == OutputFormat::kWide) {
    Write(table());
    return absl::OkStatus();
  }
  Json list = Json::MakeArray();
  for (const google::protobuf::Message* message : messages) {
    GRAFT_ASSIGN_OR_RETURN(Json json, JsonOf(*message));
    list.Append(std::move(json));
  }
  return PrintJson(list, table);
}

absl::Status Invocation::PrintJson(const Json& value, const std::function<std::string()>& table) {
  switch (format_) {
    case OutputFormat::kTable:
    case OutputFormat::kWide:
      Write(table());
      return absl::OkStatus();
    case OutputFormat::kJson:
      Write(value.Dump(1) + "\n");
      return absl::OkStatus();
    case OutputFormat::kYaml:
    case OutputFormat::kName:
      break;
  }
  const Json::Array one = value.is_array() ? value.as_array() : Json::Array{value};
  for (const Json& element : one) {
    if (format_ == OutputFormat::kName) {
      Write(element.GetString("name") + "\n");
    } else {
      Write((value.is_array() ? "---\n" : "") + ToYaml(element));
    }
  }
  return absl::OkStatus();
}

void Invocation::Write(absl::string_view text) const {
  if (sink_ != nullptr) {
    absl::StrAppend(sink_, text);
  } else {
    fwrite(text.data(), 1, text.size(), stdout);
  }
}

void Invocation::Say(absl::string_view text) const {
  fprintf(stderr, "%.*s\n", static_cast<int>(text.size()), text.data());
}

std::string ShortName(absl::string_view name) {
  const size_t slash = name.rfind('/');
  return Sanitize(slash == absl::string_view::npos ? name : name.substr(slash + 1));
}

std::string ToJson(const google::protobuf::Message& message, bool pretty) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.add_whitespace = pretty;
  std::string out;
  // Only a message with a malformed Any could fail, and the API has none.
  if (!google::protobuf::util::MessageToJsonString(message, &out, options).ok()) return "{}\n";
  return out;
}

absl::Status WithHint(absl::Status status, absl::string_view hint) {
  status.SetPayload(kHintUrl, absl::Cord(hint));
  return status;
}

std::string HintOf(const absl::Status& status) {
  const auto hint = status.GetPayload(kHintUrl);
  return hint ? std::string(*hint) : "";
}

std::vector<const Command*> AllCommands() {
  std::vector<const Command*> commands;
  for (const auto* group :
       {&MachineCommands(), &DoctorCommands(), &ModelCommands(), &FitCommands(), &DatasetCommands(),
        &RowCommands(), &JobCreateCommands(), &JobAgainCommands(), &JobCommands(), &CurveCommands(),
        &PerfCommands(), &ChatCommands(), &ViewCommands(), &ClusterCommands(), &QueueCommands(),
        &AccessCommands(), &PeopleCommands(), &ContextCommands(), &ShellCommands()}) {
    for (const Command& command : *group) commands.push_back(&command);
  }
  return commands;
}

std::string ClockTime(absl::Time time) {
  return absl::FormatTime("%H:%M", time, absl::LocalTimeZone());
}

std::string ClockTime(const google::protobuf::Timestamp& time) {
  return ClockTime(absl::FromUnixSeconds(time.seconds()));
}

std::string AgeOf(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "";
  return HumanAge(absl::Now() - absl::FromUnixSeconds(time.seconds()));
}

std::string WordOf(const std::string& enum_name, absl::string_view prefix) {
  absl::string_view word = enum_name;
  absl::ConsumePrefix(&word, prefix);
  return absl::AsciiStrToLower(word);
}

std::string NewRequestId() {
  SecureRandom random;
  return random.Id(24);
}

}  // namespace graft::cli
