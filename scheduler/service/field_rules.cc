#include "scheduler/service/field_rules.h"

#include "absl/strings/str_cat.h"
#include "graft/v1/options.pb.h"

namespace graft::scheduler {

using google::protobuf::FieldDescriptor;

void SetDefault(google::protobuf::Message& message, const FieldDescriptor& field) {
  if (field.is_repeated() || !field.options().HasExtension(graft::v1::rule)) return;
  const std::string& text = field.options().GetExtension(graft::v1::rule).default_value();
  if (text.empty()) return;
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(&message, &field, std::stoi(text));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(&message, &field, std::stoll(text));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(&message, &field, std::stod(text));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(&message, &field, text == "true");
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(&message, &field, text.substr(1, text.size() - 2));
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto* value = field.enum_type()->FindValueByName(text);
      if (value != nullptr) reflection.SetEnum(&message, &field, value);
      return;
    }
    default:
      return;
  }
}

std::string OutOfBounds(const google::protobuf::Message& message, const FieldDescriptor& field) {
  if (field.is_repeated() || !field.options().HasExtension(graft::v1::rule)) return "";
  const graft::v1::FieldRule& rule = field.options().GetExtension(graft::v1::rule);
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  double value = 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      value = reflection.GetInt32(message, &field);
      break;
    case FieldDescriptor::CPPTYPE_INT64:
      value = static_cast<double>(reflection.GetInt64(message, &field));
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      value = reflection.GetDouble(message, &field);
      break;
    default:
      return "";
  }
  const bool low =
      rule.has_min() && (rule.min_exclusive() ? !(value > rule.min()) : !(value >= rule.min()));
  if (low) {
    return absl::StrCat("is ", value, "; it must be ",
                        rule.min_exclusive() ? "above " : "at least ", rule.min());
  }
  if (rule.has_max() && !(value <= rule.max())) {
    return absl::StrCat("is ", value, "; it must be at most ", rule.max());
  }
  return "";
}

}  // namespace graft::scheduler
