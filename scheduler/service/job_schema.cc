#include "scheduler/service/job_schema.h"

#include <map>
#include <memory>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/json.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "graft/v1/job.pb.h"
#include "graft/v1/options.pb.h"
#include "scheduler/service/enum_names.h"
#include "scheduler/service/job_spec_comments.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

// Comments of fields by full name. The generated code has none; they come from the descriptor set
// that the build makes beside it.
const std::map<std::string, std::string>& Comments() {
  static const auto* comments = [] {
    auto* map = new std::map<std::string, std::string>;
    google::protobuf::FileDescriptorSet set;
    GRAFT_CHECK(set.ParseFromArray(kJobSpecComments, static_cast<int>(kJobSpecCommentsSize)))
        << "the embedded descriptors cannot be read";
    for (const auto& file : set.file()) {
      // A path is 4, message, (3, nested,)* 2, field.
      for (const auto& location : file.source_code_info().location()) {
        const auto& path = location.path();
        if (path.size() < 4 || path.size() % 2 != 0 || path.Get(0) != 4 ||
            path.Get(path.size() - 2) != 2) {
          continue;
        }
        const google::protobuf::DescriptorProto* message = &file.message_type(path.Get(1));
        std::string name = absl::StrCat(file.package(), ".", message->name());
        bool nested = true;
        for (int i = 2; i + 2 < path.size(); i += 2) {
          nested &= path.Get(i) == 3;
          if (!nested) break;
          message = &message->nested_type(path.Get(i + 1));
          absl::StrAppend(&name, ".", message->name());
        }
        if (!nested) continue;
        std::string text = location.leading_comments();
        for (char& c : text) c = c == '\n' ? ' ' : c;
        (*map)[absl::StrCat(name, ".", message->field(path.Get(path.size() - 1)).name())] =
            std::string(absl::StripAsciiWhitespace(text));
      }
    }
    return map;
  }();
  return *comments;
}

std::string CommentOf(const FieldDescriptor& field) {
  const auto it = Comments().find(field.full_name());
  return it == Comments().end() ? "" : it->second;
}

bool IsOurs(const Descriptor* type) {
  return type != nullptr && absl::StartsWith(type->full_name(), "graft.v1.");
}

// A method's section belongs to that method alone.
bool Concerns(const FieldDescriptor& field, v1::Method method) {
  if (field.containing_type()->full_name() != "graft.v1.MethodSection") return true;
  return method == v1::METHOD_UNSPECIFIED || field.number() == method;
}

std::vector<std::string> EnumWords(const EnumDescriptor& type) {
  std::vector<std::string> words;
  for (int i = 1; i < type.value_count(); ++i) {
    words.push_back(absl::AsciiStrToLower(EnumShort(type, type.value(i)->number())));
  }
  return words;
}

// The default as the file would have it; null where absence has no fixed value.
Json DefaultOf(const FieldDescriptor& field) {
  const std::string& text = field.options().GetExtension(v1::rule).default_value();
  if (text.empty()) return Json();
  if (field.enum_type() != nullptr) {
    const auto* value = field.enum_type()->FindValueByName(text);
    return value == nullptr
               ? Json()
               : Json(absl::AsciiStrToLower(EnumShort(*field.enum_type(), value->number())));
  }
  const absl::StatusOr<Json> json = Json::Parse(text);
  return json.ok() ? *json : Json();
}

Json ObjectSchema(const Descriptor& type, v1::Method method);

Json ValueSchema(const FieldDescriptor& field, v1::Method method) {
  Json schema = Json::MakeObject();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      schema.Set("type", "integer");
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT:
      schema.Set("type", "number");
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      schema.Set("type", "boolean");
      break;
    case FieldDescriptor::CPPTYPE_ENUM: {
      Json words = Json::MakeArray();
      for (const std::string& word : EnumWords(*field.enum_type())) words.Append(word);
      schema.Set("enum", std::move(words));
      break;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (IsOurs(field.message_type())) return ObjectSchema(*field.message_type(), method);
      schema.Set("type", "string");  // a duration, a time
      break;
    default:
      schema.Set("type", "string");
  }
  return schema;
}

void AddRule(const FieldDescriptor& field, Json& schema) {
  if (const std::string comment = CommentOf(field); !comment.empty()) {
    schema.Set("description", comment);
  }
  if (!field.options().HasExtension(v1::rule)) return;
  const v1::FieldRule& rule = field.options().GetExtension(v1::rule);
  if (Json value = DefaultOf(field); !value.is_null()) schema.Set("default", std::move(value));
  if (rule.has_min()) schema.Set(rule.min_exclusive() ? "exclusiveMinimum" : "minimum", rule.min());
  if (rule.has_max()) schema.Set("maximum", rule.max());
}

Json FieldSchema(const FieldDescriptor& field, v1::Method method) {
  Json schema;
  if (field.is_map()) {
    schema.Set("type", "object");
    schema.Set("additionalProperties", ValueSchema(*field.message_type()->map_value(), method));
  } else if (field.is_repeated()) {
    schema.Set("type", "array").Set("items", ValueSchema(field, method));
  } else {
    schema = ValueSchema(field, method);
  }
  AddRule(field, schema);
  return schema;
}

Json ObjectSchema(const Descriptor& type, v1::Method method) {
  Json properties = Json::MakeObject();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (Concerns(field, method)) properties.Set(field.name(), FieldSchema(field, method));
  }
  Json schema = Json::MakeObject();
  schema.Set("type", "object").Set("properties", std::move(properties));
  schema.Set("additionalProperties", false);
  return schema;
}

void AppendComment(const FieldDescriptor& field, const std::string& indent, std::string& out) {
  const std::string comment = CommentOf(field);
  if (!comment.empty()) absl::StrAppend(&out, indent, "# ", comment, "\n");
}

// Sections with their defaults; what has none stands commented out.
void AppendYaml(const Descriptor& type, v1::Method method, int depth, std::string& out) {
  const std::string indent(static_cast<size_t>(2 * depth), ' ');
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (!Concerns(field, method)) continue;
    AppendComment(field, indent, out);
    const bool section = !field.is_repeated() && IsOurs(field.message_type());
    const bool choice = field.real_containing_oneof() != nullptr;
    if (section && depth == 0) {
      absl::StrAppend(&out, indent, field.name(), ":\n");
      AppendYaml(*field.message_type(), method, depth + 1, out);
    } else if (const Json value = DefaultOf(field); !value.is_null() && !choice) {
      absl::StrAppend(&out, indent, field.name(), ": ", value.Dump(), "\n");
    } else {
      absl::StrAppend(&out, indent, "# ", field.name(), ":\n");
    }
  }
}

}  // namespace

std::string JobSchema(v1::Method method) {
  Json schema = Json::MakeObject();
  schema.Set("$schema", "https://json-schema.org/draft/2020-12/schema");
  schema.Set("title", "A job of Graft");
  Json body = ObjectSchema(*v1::JobSpec::descriptor(), method);
  for (auto& [key, value] : body.mutable_object()) schema.Set(key, std::move(value));
  return schema.Dump(2);
}

std::string ExampleJobFile(v1::Method method) {
  std::string out;
  AppendYaml(*v1::JobSpec::descriptor(), method, 0, out);
  return out;
}

}  // namespace graft::scheduler
