// A JSON value, its parser and its printer.
//
//   GRAFT_ASSIGN_OR_RETURN(Json config, Json::Parse(text));
//   const Json* layers = config.Find("num_hidden_layers");
//   if (layers != nullptr && layers->is_int()) ...
//
// Objects keep the order of their keys, and of a repeated key the last value (as Python does).
// Integers outside of int64 become doubles. Strings are UTF-8; unpaired surrogates become U+FFFD.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  struct ParseOptions {
    int max_depth = 256;
    // NaN, Infinity and -Infinity, which Python's json writes.
    bool allow_nan = false;
  };

  Json() : value_(nullptr) {}
  Json(std::nullptr_t) : value_(nullptr) {}                      // NOLINT
  Json(bool value) : value_(value) {}                            // NOLINT
  Json(int value) : value_(static_cast<int64_t>(value)) {}       // NOLINT
  Json(int64_t value) : value_(value) {}                         // NOLINT
  Json(uint64_t value) : value_(static_cast<int64_t>(value)) {}  // NOLINT
  Json(double value) : value_(value) {}                          // NOLINT
  Json(std::string value) : value_(std::move(value)) {}          // NOLINT
  Json(absl::string_view value) : value_(std::string(value)) {}  // NOLINT
  Json(const char* value) : value_(std::string(value)) {}        // NOLINT
  Json(Array value) : value_(std::move(value)) {}                // NOLINT
  Json(Object value) : value_(std::move(value)) {}               // NOLINT
  static Json MakeObject() { return Json(Object()); }
  static Json MakeArray() { return Json(Array()); }

  // INVALID_ARGUMENT with line and column. One value, nothing after it but white space.
  static absl::StatusOr<Json> Parse(absl::string_view text);
  static absl::StatusOr<Json> Parse(absl::string_view text, const ParseOptions& options);

  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  bool is_double() const { return std::holds_alternative<double>(value_); }
  bool is_number() const { return is_int() || is_double(); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  // "null", "boolean", "integer", "number", "string", "array" or "object", for messages.
  absl::string_view type_name() const;

  // The value; GRAFT_CHECKs that the type is right.
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;  // also of an integer
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;
  Array& mutable_array();
  Object& mutable_object();
  std::string take_string() &&;

  // The member `key` of an object; nullptr where it is absent or this is no object. Linear.
  const Json* Find(absl::string_view key) const;
  Json* Find(absl::string_view key);
  // The member of an object as the type asked for; `fallback` where it is absent, null or of
  // another type.
  std::string GetString(absl::string_view key, absl::string_view fallback = "") const;
  int64_t GetInt(absl::string_view key, int64_t fallback = 0) const;
  double GetDouble(absl::string_view key, double fallback = 0) const;
  bool GetBool(absl::string_view key, bool fallback = false) const;

  // Sets a member of an object (a null value becomes an object first) and returns this.
  Json& Set(absl::string_view key, Json value);
  // Appends to an array (a null value becomes an array first).
  void Append(Json value);

  // indent < 0: one line, "," and ":" without spaces. indent >= 0: as Python's json.dumps(indent=).
  // Doubles print so that they read back the same; NaN and infinities print as null.
  std::string Dump(int indent = -1) const;

  bool operator==(const Json& other) const { return value_ == other.value_; }

 private:
  std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object> value_;
};

// `text` in quotes with everything escaped that JSON demands; other characters stay UTF-8.
std::string JsonQuote(absl::string_view text);

}  // namespace graft
