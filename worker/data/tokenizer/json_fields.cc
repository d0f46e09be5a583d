#include "worker/data/tokenizer/json_fields.h"

#include "worker/data/unicode/utf8.h"

namespace graft::data {

absl::StatusOr<uint32_t> CharField(const Json& json, absl::string_view where,
                                   absl::string_view key) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, StringField(json, where, key));
  size_t at = 0;
  if (text.empty() || !IsValidUtf8(text)) return WrongField(where, key, "one character", &json);
  const uint32_t code_point = NextCodePoint(text, at);
  if (at != text.size()) return WrongField(where, key, "one character", &json);
  return code_point;
}

absl::StatusOr<Regex> PatternField(const Json& json, absl::string_view where) {
  const Json* pattern = json.Find("pattern");
  const Json* literal = pattern == nullptr ? nullptr : pattern->Find("String");
  const Json* regex = pattern == nullptr ? nullptr : pattern->Find("Regex");
  if (literal != nullptr && literal->is_string()) return Regex::Literal(literal->as_string());
  if (regex != nullptr && regex->is_string()) return Regex::Compile(regex->as_string());
  return WrongField(where, "pattern", "{\"String\": ...} or {\"Regex\": ...}", pattern);
}

absl::StatusOr<std::string> TypeField(const Json& json, absl::string_view where) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json: ", where, " must be an object, not ", json.type_name()));
  }
  return StringField(json, where, "type");
}

}  // namespace graft::data
