// Members of a tokenizer.json, read strictly: a member that is there has the right type.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/regex.h"

namespace graft::data {

// Parts are nested in sequences no deeper than this.
inline constexpr int kMaxPartDepth = 16;

// What other formats are read into: a part of a type, and a sequence of parts.
inline Json TypedPart(absl::string_view type) { return Json::MakeObject().Set("type", Json(type)); }
inline Json SequencePart(absl::string_view members, Json::Array parts) {
  return TypedPart("Sequence").Set(members, Json(std::move(parts)));
}

inline absl::Status WrongField(absl::string_view where, absl::string_view key,
                               absl::string_view want, const Json* value) {
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.json: ", where, ".", key, " must be ", want, ", not ",
                   value == nullptr ? absl::string_view("absent") : value->type_name()));
}

inline absl::StatusOr<bool> BoolField(const Json& json, absl::string_view where,
                                      absl::string_view key, bool fallback) {
  const Json* value = json.Find(key);
  if (value == nullptr || value->is_null()) return fallback;
  if (!value->is_bool()) return WrongField(where, key, "a boolean", value);
  return value->as_bool();
}

inline absl::StatusOr<std::string> StringField(const Json& json, absl::string_view where,
                                               absl::string_view key) {
  const Json* value = json.Find(key);
  if (value == nullptr || !value->is_string()) return WrongField(where, key, "a string", value);
  return value->as_string();
}

inline absl::StatusOr<absl::optional<std::string>> OptionalStringField(const Json& json,
                                                                       absl::string_view where,
                                                                       absl::string_view key) {
  const Json* value = json.Find(key);
  if (value == nullptr || value->is_null()) return absl::optional<std::string>();
  if (!value->is_string()) return WrongField(where, key, "a string", value);
  return absl::optional<std::string>(value->as_string());
}

inline absl::StatusOr<int64_t> IntField(const Json& json, absl::string_view where,
                                        absl::string_view key, int64_t low, int64_t high) {
  const Json* value = json.Find(key);
  if (value == nullptr || !value->is_int() || value->as_int() < low || value->as_int() > high) {
    return WrongField(where, key, absl::StrCat("an integer of ", low, "..", high), value);
  }
  return value->as_int();
}

// A member that holds one character.
absl::StatusOr<uint32_t> CharField(const Json& json, absl::string_view where,
                                   absl::string_view key);

// {"String": "..."} or {"Regex": "..."}.
absl::StatusOr<Regex> PatternField(const Json& json, absl::string_view where);

// The parts of a sequence: the members of the array `key`, each read by `parse(member, depth + 1)`.
template <typename Part>
absl::StatusOr<std::vector<std::unique_ptr<Part>>> PartsField(
    const Json& json, absl::string_view where, absl::string_view key, int depth,
    absl::StatusOr<std::unique_ptr<Part>> (*parse)(const Json&, int)) {
  const Json* members = json.Find(key);
  if (members == nullptr || !members->is_array())
    return WrongField(where, key, "an array", members);
  std::vector<std::unique_ptr<Part>> parts;
  for (const Json& member : members->as_array()) {
    GRAFT_ASSIGN_OR_RETURN(std::unique_ptr<Part> part, parse(member, depth + 1));
    parts.push_back(std::move(part));
  }
  return parts;
}

// The member `type`.
absl::StatusOr<std::string> TypeField(const Json& json, absl::string_view where);

}  // namespace graft::data
