// Structs to and from JSON by one listing of their fields.
//
//   struct Batch { int64_t global = 8; int64_t micro = 1; };
//   template <typename V> void VisitFields(V& v, Batch& b) { v("global", b.global); v("micro",
//   b.micro); } GRAFT_RETURN_IF_ERROR(ReadFields(json, "batch", batch));   // strict: names an
//   unknown key Json json = WriteFields(batch);
//
// Fields are bool, int64_t, double, std::string, Json, optional and vectors of these, enums with an
// `EnumNames` specialisation, and structs with a VisitFields. An absent key keeps the field's
// default.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/json.h"

namespace graft::trainer {

// Specialise: static std::vector<std::pair<E, const char*>> Names().
template <typename E>
struct EnumNames;

template <typename E>
std::string EnumName(E value) {
  for (const auto& [candidate, name] : EnumNames<E>::Names()) {
    if (candidate == value) return name;
  }
  return "";
}

enum class UnknownKeys { kRefused, kIgnored };

template <typename T>
absl::Status ReadFields(const Json& json, const std::string& path, T& out,
                        UnknownKeys unknown = UnknownKeys::kRefused);
template <typename T>
Json WriteFields(const T& value);

namespace internal {

template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};
template <typename T>
struct IsOptional : std::false_type {};
template <typename T>
struct IsOptional<std::optional<T>> : std::true_type {};

inline absl::Status WrongType(const std::string& path, const char* wanted, const Json& got) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": wanted ", wanted, ", got ", got.type_name()));
}

template <typename E>
absl::Status ReadEnum(const Json& json, const std::string& path, E& out) {
  if (!json.is_string()) return WrongType(path, "a string", json);
  std::vector<std::string> known;
  for (const auto& [value, name] : EnumNames<E>::Names()) {
    if (json.as_string() == name) {
      out = value;
      return absl::OkStatus();
    }
    known.push_back(name);
  }
  return absl::InvalidArgumentError(absl::StrCat(path, ": unknown value \"", json.as_string(),
                                                 "\"; known are ", absl::StrJoin(known, ", ")));
}

template <typename T>
absl::Status ReadValue(const Json& json, const std::string& path, T& out, UnknownKeys unknown) {
  if constexpr (std::is_same_v<T, Json>) {
    out = json;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!json.is_bool()) return WrongType(path, "a boolean", json);
    out = json.as_bool();
  } else if constexpr (std::is_same_v<T, int64_t>) {
    if (!json.is_int()) return WrongType(path, "an integer", json);
    out = json.as_int();
  } else if constexpr (std::is_same_v<T, double>) {
    if (!json.is_number()) return WrongType(path, "a number", json);
    out = json.as_double();
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!json.is_string()) return WrongType(path, "a string", json);
    out = json.as_string();
  } else if constexpr (std::is_enum_v<T>) {
    return ReadEnum(json, path, out);
  } else if constexpr (IsOptional<T>::value) {
    if (json.is_null()) {
      out.reset();
      return absl::OkStatus();
    }
    return ReadValue(json, path, out.emplace(), unknown);
  } else if constexpr (IsVector<T>::value) {
    if (!json.is_array()) return WrongType(path, "an array", json);
    out.clear();
    for (size_t i = 0; i < json.as_array().size(); ++i) {
      typename T::value_type element{};
      const absl::Status status =
          ReadValue(json.as_array()[i], absl::StrCat(path, "[", i, "]"), element, unknown);
      if (!status.ok()) return status;
      out.push_back(std::move(element));
    }
  } else {
    return ReadFields(json, path, out, unknown);
  }
  return absl::OkStatus();
}

template <typename T>
Json WriteValue(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return Json(EnumName(value));
  } else if constexpr (IsOptional<T>::value) {
    return value.has_value() ? WriteValue(*value) : Json();
  } else if constexpr (IsVector<T>::value) {
    Json array = Json::MakeArray();
    for (const auto& element : value) array.Append(WriteValue(element));
    return array;
  } else if constexpr (std::is_constructible_v<Json, T>) {
    return Json(value);
  } else {
    return WriteFields(value);
  }
}

class FieldReader {
 public:
  FieldReader(const Json& json, std::string path, UnknownKeys unknown)
      : json_(json), path_(std::move(path)), unknown_(unknown) {}

  template <typename T>
  void operator()(const char* key, T& field) {
    known_.push_back(key);
    if (!status_.ok()) return;
    const Json* value = json_.Find(key);
    if (value == nullptr) return;
    status_ =
        ReadValue(*value, path_.empty() ? key : absl::StrCat(path_, ".", key), field, unknown_);
  }

  absl::Status Finish() const {
    if (!status_.ok() || unknown_ == UnknownKeys::kIgnored) return status_;
    for (const auto& [key, value] : json_.as_object()) {
      bool found = false;
      for (const std::string& known : known_) found = found || known == key;
      if (!found) {
        return absl::InvalidArgumentError(absl::StrCat(path_.empty() ? "top level" : path_,
                                                       ": unknown key \"", key, "\"; known are ",
                                                       absl::StrJoin(known_, ", ")));
      }
    }
    return absl::OkStatus();
  }

 private:
  const Json& json_;
  const std::string path_;
  const UnknownKeys unknown_;
  std::vector<std::string> known_;
  absl::Status status_;
};

class FieldWriter {
 public:
  template <typename T>
  void operator()(const char* key, const T& field) {
    json_.Set(key, WriteValue(field));
  }
  Json Take() { return std::move(json_); }

 private:
  Json json_ = Json::MakeObject();
};

}  // namespace internal

// INVALID_ARGUMENT with the path of the key that is unknown or of the wrong type.
template <typename T>
absl::Status ReadFields(const Json& json, const std::string& path, T& out, UnknownKeys unknown) {
  if (!json.is_object()) {
    return internal::WrongType(path.empty() ? "top level" : path, "an object", json);
  }
  internal::FieldReader reader(json, path, unknown);
  VisitFields(reader, out);
  return reader.Finish();
}

template <typename T>
Json WriteFields(const T& value) {
  internal::FieldWriter writer;
  VisitFields(writer, const_cast<T&>(value));  // a writer only reads
  return writer.Take();
}

}  // namespace graft::trainer
