#include "worker/spec/config_reader.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace graft::spec {

const Json* ConfigReader::Find(absl::string_view key) const {
  const Json* value = json_.Find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

bool ConfigReader::Has(absl::string_view key) const { return Find(key) != nullptr; }

void ConfigReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void ConfigReader::FailInvalid(absl::string_view message) {
  Fail(absl::InvalidArgumentError(absl::StrCat("config.json: ", message)));
}

int64_t ConfigReader::Int(absl::string_view key, int64_t min, int64_t max) {
  if (!Has(key)) {
    FailInvalid(absl::StrCat(key, " is missing"));
    return min;
  }
  return Int(key, min, max, min);
}

int64_t ConfigReader::Int(absl::string_view key, int64_t min, int64_t max, int64_t fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  // Some configurations write 4096.0.
  const bool whole = value->is_int() ||
                     (value->is_double() && value->as_double() == std::floor(value->as_double()) &&
                      std::fabs(value->as_double()) < 9e15);
  if (!whole) {
    FailInvalid(absl::StrCat(key, " is no integer"));
    return min;
  }
  const int64_t number =
      value->is_int() ? value->as_int() : static_cast<int64_t>(value->as_double());
  if (number < min || number > max) {
    FailInvalid(absl::StrCat(key, " is ", number, ", not within ", min, " to ", max));
    return min;
  }
  return number;
}

double ConfigReader::Double(absl::string_view key, double fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number() || !std::isfinite(value->as_double())) {
    FailInvalid(absl::StrCat(key, " is no finite number"));
    return fallback;
  }
  return value->as_double();
}

bool ConfigReader::Bool(absl::string_view key, bool fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) {
    FailInvalid(absl::StrCat(key, " is neither true nor false"));
    return fallback;
  }
  return value->as_bool();
}

std::string ConfigReader::String(absl::string_view key, absl::string_view fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) {
    FailInvalid(absl::StrCat(key, " is no string"));
    return std::string(fallback);
  }
  return value->as_string();
}

std::vector<int64_t> ConfigReader::Ints(absl::string_view key) {
  std::vector<int64_t> numbers;
  const Json* value = Find(key);
  if (value == nullptr) return numbers;
  if (!value->is_array()) {
    FailInvalid(absl::StrCat(key, " is no array"));
    return numbers;
  }
  for (const Json& element : value->as_array()) {
    if (element.is_int()) {
      numbers.push_back(element.as_int());
    } else if (element.is_bool()) {
      numbers.push_back(element.as_bool() ? 1 : 0);
    } else {
      FailInvalid(absl::StrCat(key, " holds something else than integers"));
    }
  }
  return numbers;
}

std::vector<int64_t> ConfigReader::IntOrInts(absl::string_view key) {
  const Json* value = Find(key);
  if (value != nullptr && value->is_int()) return {value->as_int()};
  return Ints(key);
}

std::vector<double> ConfigReader::Doubles(absl::string_view key) {
  std::vector<double> numbers;
  const Json* value = Find(key);
  if (value == nullptr) return numbers;
  if (!value->is_array()) {
    FailInvalid(absl::StrCat(key, " is no array"));
    return numbers;
  }
  for (const Json& element : value->as_array()) {
    if (element.is_number() && std::isfinite(element.as_double())) {
      numbers.push_back(element.as_double());
    } else {
      FailInvalid(absl::StrCat(key, " holds something else than finite numbers"));
    }
  }
  return numbers;
}

std::vector<std::string> ConfigReader::Strings(absl::string_view key) {
  std::vector<std::string> strings;
  const Json* value = Find(key);
  if (value == nullptr) return strings;
  if (!value->is_array()) {
    FailInvalid(absl::StrCat(key, " is no array"));
    return strings;
  }
  for (const Json& element : value->as_array()) {
    if (element.is_string()) {
      strings.push_back(element.as_string());
    } else {
      FailInvalid(absl::StrCat(key, " holds something else than strings"));
    }
  }
  return strings;
}

}  // namespace graft::spec
