#include "client/graft/job_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/duration.pb.h"
#include "rpc/nearest_name.h"

namespace graft::client {
namespace {

using ::google::protobuf::Descriptor;
using ::google::protobuf::EnumDescriptor;
using ::google::protobuf::EnumValueDescriptor;
using ::google::protobuf::FieldDescriptor;
using ::google::protobuf::Message;
using ::google::protobuf::Reflection;

constexpr int kMaxDepth = 32;

// Where a value stands, for messages.
struct Place {
  std::string file;
  std::string path;

  Place Below(absl::string_view key) const {
    return {file, path.empty() ? std::string(key) : absl::StrCat(path, ".", key)};
  }
  Place At(size_t index) const { return {file, absl::StrCat(path, "[", index, "]")}; }
};

absl::Status Error(const Place& place, const YAML::Node& node, absl::string_view what) {
  const YAML::Mark mark = node.Mark();
  std::string where = place.file;
  if (!mark.is_null()) absl::StrAppend(&where, ":", mark.line + 1, ":", mark.column + 1);
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": ", place.path.empty() ? "" : absl::StrCat(place.path, ": "), what));
}

std::string Hint(absl::string_view word, const std::vector<std::string>& known) {
  const std::string nearest = rpc::NearestName(word, known);
  if (!nearest.empty()) return absl::StrCat("; did you mean \"", nearest, "\"?");
  return absl::StrCat("; known: ", absl::StrJoin(known, ", "));
}

// "FINETUNING_TYPE_" of FinetuningType, whose values are FINETUNING_TYPE_LORA and so on.
std::string ShortName(const EnumValueDescriptor& value) {
  const std::string& zero = value.type()->value(0)->name();
  const absl::string_view prefix = absl::string_view(zero).substr(0, zero.rfind("UNSPECIFIED"));
  absl::string_view name = value.name();
  absl::ConsumePrefix(&name, prefix);
  return absl::AsciiStrToLower(name);
}

absl::StatusOr<int> ParseEnum(const EnumDescriptor& type, const YAML::Node& node,
                              const Place& place) {
  const std::string word = absl::StrReplaceAll(absl::AsciiStrToLower(node.Scalar()), {{"-", "_"}});
  std::vector<std::string> known;
  for (int i = 1; i < type.value_count(); ++i) {
    const EnumValueDescriptor& value = *type.value(i);
    known.push_back(ShortName(value));
    if (known.back() == word || absl::AsciiStrToLower(value.name()) == word) return value.number();
  }
  return Error(place, node,
               absl::StrCat("unknown value \"", node.Scalar(), "\"", Hint(word, known)));
}

class Reader {
 public:
  absl::Status ReadMessage(const YAML::Node& node, const Place& place, int depth, Message& out) {
    if (depth > kMaxDepth) return Error(place, node, "nested too deeply");
    const Descriptor& type = *out.GetDescriptor();
    if (type.full_name() == "google.protobuf.Duration") return ReadDuration(node, place, out);
    if (node.IsScalar()) return ReadShortForm(node, place, depth, out);
    if (!node.IsMap()) return Error(place, node, "expected a map of keys");
    std::vector<std::string> seen;
    for (const auto& pair : node) {
      if (!pair.first.IsScalar()) return Error(place, pair.first, "a key must be a word");
      const std::string& key = pair.first.Scalar();
      if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
        return Error(place.Below(key), pair.first, "the key stands here twice");
      }
      seen.push_back(key);
      const FieldDescriptor* field = type.FindFieldByName(key);
      if (field == nullptr) return UnknownKey(pair.first, type, place);
      GRAFT_RETURN_IF_ERROR(CheckOneof(*field, pair.first, place, out));
      GRAFT_RETURN_IF_ERROR(ReadField(pair.second, place.Below(key), depth, *field, out));
    }
    return absl::OkStatus();
  }

  absl::Status ReadField(const YAML::Node& node, const Place& place, int depth,
                         const FieldDescriptor& field, Message& out) {
    if (node.IsNull()) return absl::OkStatus();  // "key:" with nothing: the default
    if (field.is_map()) return ReadMap(node, place, field, out);
    if (!field.is_repeated()) return ReadValue(node, place, depth, field, out, /*add=*/false);
    if (!node.IsSequence()) return ReadValue(node, place, depth, field, out, /*add=*/true);
    for (size_t i = 0; i < node.size(); ++i) {
      GRAFT_RETURN_IF_ERROR(ReadValue(node[i], place.At(i), depth, field, out, /*add=*/true));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status UnknownKey(const YAML::Node& key, const Descriptor& type, const Place& place) {
    std::vector<std::string> known;
    for (int i = 0; i < type.field_count(); ++i) known.push_back(type.field(i)->name());
    return Error(place, key,
                 absl::StrCat("unknown key \"", key.Scalar(), "\"", Hint(key.Scalar(), known)));
  }

  absl::Status CheckOneof(const FieldDescriptor& field, const YAML::Node& key, const Place& place,
                          const Message& out) {
    const auto* oneof = field.real_containing_oneof();
    if (oneof == nullptr || !out.GetReflection()->HasOneof(out, oneof)) return absl::OkStatus();
    return Error(place.Below(field.name()), key,
                 absl::StrCat("only one of the alternatives may be given, and \"",
                              out.GetReflection()->GetOneofFieldDescriptor(out, oneof)->name(),
                              "\" is there already"));
  }

  absl::Status ReadDuration(const YAML::Node& node, const Place& place, Message& out) {
    absl::Duration duration;
    double seconds = 0;
    if (!node.IsScalar()) return Error(place, node, "expected a duration such as \"30m\"");
    if (absl::SimpleAtod(node.Scalar(), &seconds)) {
      duration = absl::Seconds(seconds);
    } else if (!absl::ParseDuration(node.Scalar(), &duration)) {
      return Error(place, node, "expected a duration such as \"30m\" or \"1h30m\"");
    }
    auto& message = static_cast<google::protobuf::Duration&>(out);
    message.set_seconds(absl::ToInt64Seconds(duration));
    message.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration % absl::Seconds(1))));
    return absl::OkStatus();
  }

  // A word or number where a message is expected.
  absl::Status ReadShortForm(const YAML::Node& node, const Place& place, int depth, Message& out) {
    const Descriptor& type = *out.GetDescriptor();
    if (type.full_name() == "graft.v1.Interval") return ReadInterval(node, place, depth, out);
    const FieldDescriptor* first = type.field_count() > 0 ? type.field(0) : nullptr;
    if (first != nullptr && first->cpp_type() == FieldDescriptor::CPPTYPE_STRING &&
        !first->is_repeated()) {
      return ReadField(node, place, depth, *first, out);
    }
    if (const FieldDescriptor* field = type.FindFieldByName(node.Scalar());
        field != nullptr && field->real_containing_oneof() != nullptr &&
        field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      out.GetReflection()->MutableMessage(&out, field);
      return absl::OkStatus();
    }
    if (type.real_oneof_decl_count() == 1) return UnknownKey(node, type, place);
    return Error(place, node, "expected a map of keys");
  }

  absl::Status ReadInterval(const YAML::Node& node, const Place& place, int depth, Message& out) {
    int64_t steps = 0;
    double epochs = 0;
    const char* field = "time";
    if (absl::SimpleAtoi(node.Scalar(), &steps)) {
      field = "steps";
    } else if (absl::SimpleAtod(node.Scalar(), &epochs)) {
      field = "epochs";
    }
    return ReadField(node, place, depth, *out.GetDescriptor()->FindFieldByName(field), out);
  }

  absl::Status ReadMap(const YAML::Node& node, const Place& place, const FieldDescriptor& field,
                       Message& out) {
    if (!node.IsMap()) return Error(place, node, "expected a map of keys");
    const FieldDescriptor& value_field = *field.message_type()->map_value();
    for (const auto& pair : node) {
      Message& entry = *out.GetReflection()->AddMessage(&out, &field);
      GRAFT_RETURN_IF_ERROR(
          ReadField(pair.first, place, 0, *field.message_type()->map_key(), entry));
      GRAFT_RETURN_IF_ERROR(
          ReadField(pair.second, place.Below(pair.first.Scalar()), 0, value_field, entry));
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::StatusOr<T> Integer(const YAML::Node& node, const Place& place) {
    T value = 0;
    if (node.IsScalar() && absl::SimpleAtoi(node.Scalar(), &value)) return value;
    return Error(
        place, node,
        absl::StrCat("expected a whole number", std::is_signed_v<T> ? "" : " of at least 0",
                     node.IsScalar() ? absl::StrCat(", not \"", node.Scalar(), "\"") : ""));
  }

  absl::Status ReadValue(const YAML::Node& node, const Place& place, int depth,
                         const FieldDescriptor& field, Message& out, bool add) {
    const Reflection& reflection = *out.GetReflection();
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Message* child =
          add ? reflection.AddMessage(&out, &field) : reflection.MutableMessage(&out, &field);
      return ReadMessage(node, place, depth + 1, *child);
    }
    if (!node.IsScalar()) return Error(place, node, "expected one value");
    const auto put = [&](auto setter, auto adder, auto value) {
      if (add) {
        (reflection.*adder)(&out, &field, value);
      } else {
        (reflection.*setter)(&out, &field, value);
      }
    };
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32: {
        GRAFT_ASSIGN_OR_RETURN(const int32_t value, Integer<int32_t>(node, place));
        put(&Reflection::SetInt32, &Reflection::AddInt32, value);
        return absl::OkStatus();
      }
      case FieldDescriptor::CPPTYPE_INT64: {
        GRAFT_ASSIGN_OR_RETURN(const int64_t value, Integer<int64_t>(node, place));
        put(&Reflection::SetInt64, &Reflection::AddInt64, value);
        return absl::OkStatus();
      }
      case FieldDescriptor::CPPTYPE_UINT32: {
        GRAFT_ASSIGN_OR_RETURN(const uint32_t value, Integer<uint32_t>(node, place));
        put(&Reflection::SetUInt32, &Reflection::AddUInt32, value);
        return absl::OkStatus();
      }
      case FieldDescriptor::CPPTYPE_UINT64: {
        GRAFT_ASSIGN_OR_RETURN(const uint64_t value, Integer<uint64_t>(node, place));
        put(&Reflection::SetUInt64, &Reflection::AddUInt64, value);
        return absl::OkStatus();
      }
      case FieldDescriptor::CPPTYPE_DOUBLE:
      case FieldDescriptor::CPPTYPE_FLOAT: {
        double value = 0;
        if (!absl::SimpleAtod(node.Scalar(), &value)) {
          return Error(place, node, absl::StrCat("expected a number, not \"", node.Scalar(), "\""));
        }
        if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
          put(&Reflection::SetDouble, &Reflection::AddDouble, value);
        } else {
          put(&Reflection::SetFloat, &Reflection::AddFloat, static_cast<float>(value));
        }
        return absl::OkStatus();
      }
      case FieldDescriptor::CPPTYPE_BOOL: {
        const std::string word = absl::AsciiStrToLower(node.Scalar());
        if (word != "true" && word != "false") {
          return Error(place, node,
                       absl::StrCat("expected true or false, not \"", node.Scalar(), "\""));
        }
        put(&Reflection::SetBool, &Reflection::AddBool, word == "true");
        return absl::OkStatus();
      }
      case FieldDescriptor::CPPTYPE_ENUM: {
        GRAFT_ASSIGN_OR_RETURN(const int value, ParseEnum(*field.enum_type(), node, place));
        put(&Reflection::SetEnumValue, &Reflection::AddEnumValue, value);
        return absl::OkStatus();
      }
      case FieldDescriptor::CPPTYPE_STRING: {
        const std::string text = node.Scalar();
        if (add) {
          reflection.AddString(&out, &field, text);
        } else {
          reflection.SetString(&out, &field, text);
        }
        return absl::OkStatus();
      }
      default:
        return Error(place, node, "this field cannot be given in a file");
    }
  }
};

// yaml-cpp speaks in exceptions; they end here.
absl::StatusOr<YAML::Node> Load(absl::string_view text, absl::string_view file_name) {
  if (text.size() > kMaxJobFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": larger than the ", kMaxJobFileBytes, " bytes that are read"));
  }
  try {
    return YAML::Load(std::string(text));
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ":", e.mark.line + 1, ":", e.mark.column + 1, ": ", e.msg));
  }
}

}  // namespace

absl::Status ParseMessage(absl::string_view text, absl::string_view file_name, Message& message) {
  GRAFT_ASSIGN_OR_RETURN(const YAML::Node root, Load(text, file_name));
  if (root.IsNull()) return absl::OkStatus();
  return Reader().ReadMessage(root, {std::string(file_name), ""}, 0, message);
}

absl::StatusOr<JobFile> ParseJobFile(absl::string_view text, absl::string_view file_name) {
  GRAFT_ASSIGN_OR_RETURN(const YAML::Node root, Load(text, file_name));
  const Place place{std::string(file_name), ""};
  JobFile file;
  if (!root.IsMap()) return Error(place, root, "a job file is a map of sections");
  YAML::Node spec(YAML::NodeType::Map);
  Reader reader;
  std::vector<std::string> known = {"name", "description", "labels", "project"};
  const Descriptor& spec_type = *v1::JobSpec::descriptor();
  for (int i = 0; i < spec_type.field_count(); ++i) known.push_back(spec_type.field(i)->name());
  std::vector<std::string> seen;
  for (const auto& pair : root) {
    if (!pair.first.IsScalar()) return Error(place, pair.first, "a key must be a word");
    const std::string& key = pair.first.Scalar();
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      return Error(place.Below(key), pair.first, "the key stands here twice");
    }
    seen.push_back(key);
    if (key == "name") {
      if (!pair.second.IsScalar()) return Error(place.Below(key), pair.second, "expected a word");
      file.job_id = pair.second.Scalar();
    } else if (key == "description" || key == "labels" || key == "project") {
      GRAFT_RETURN_IF_ERROR(reader.ReadField(pair.second, place.Below(key), 0,
                                             *v1::Job::descriptor()->FindFieldByName(key),
                                             file.job));
    } else if (const FieldDescriptor* field = spec_type.FindFieldByName(key)) {
      GRAFT_RETURN_IF_ERROR(
          reader.ReadField(pair.second, place.Below(key), 0, *field, *file.job.mutable_spec()));
    } else {
      return Error(place, pair.first, absl::StrCat("unknown key \"", key, "\"", Hint(key, known)));
    }
  }
  return file;
}

absl::Status SetField(absl::string_view path, absl::string_view value, Message& message) {
  const std::string file = absl::StrCat("--set ", path, "=", value);
  GRAFT_ASSIGN_OR_RETURN(const YAML::Node node, Load(value, file));
  Message* at = &message;
  std::string walked;
  const std::vector<std::string> keys = absl::StrSplit(path, '.');
  for (size_t i = 0; i < keys.size(); ++i) {
    const Descriptor& type = *at->GetDescriptor();
    const FieldDescriptor* field = type.FindFieldByName(keys[i]);
    if (field == nullptr) {
      std::vector<std::string> known;
      for (int f = 0; f < type.field_count(); ++f) known.push_back(type.field(f)->name());
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": unknown key \"", keys[i], "\"", Hint(keys[i], known)));
    }
    if (i + 1 == keys.size()) {
      if (field->is_repeated()) at->GetReflection()->ClearField(at, field);
      return Reader().ReadField(node, {file, std::string(path)}, 0, *field, *at);
    }
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field->is_repeated()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": \"", keys[i], "\" has no keys below it"));
    }
    at = at->GetReflection()->MutableMessage(at, field);
  }
  return absl::OkStatus();
}

}  // namespace graft::client
