// Filters that make numbers.
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "worker/data/chat/jinja_filters.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {
namespace {

Value FilterAbs(Interpreter& in, const Value& self, const Args&) {
  if (self.is_float()) return Value::Float(std::fabs(self.as_float()));
  if (self.is_integral() && self.as_int() != INT64_MIN) return Value::Int(std::abs(self.as_int()));
  if (self.is_undefined()) return in.FailUndefined(self);
  return in.Fail(absl::StrCat("bad operand type for abs(): '", TypeName(self), "'"));
}

// Python's float(text): the whole text, spaces around it, underscores between digits.
bool ParseFloat(absl::string_view text, double& value) {
  text = absl::StripAsciiWhitespace(text);
  std::string clean;
  for (const char c : text) {
    if (c != '_') clean += c;
  }
  if (clean.empty() || absl::StrContains(absl::AsciiStrToLower(clean), "x")) return false;
  char* end = nullptr;
  value = std::strtod(clean.c_str(), &end);
  return *end == 0;
}

bool ParseInt(absl::string_view text, int base, int64_t& value) {
  text = absl::StripAsciiWhitespace(text);
  std::string clean;
  for (const char c : text) {
    if (c != '_') clean += c;
  }
  if (clean.empty()) return false;
  errno = 0;
  char* end = nullptr;
  value = std::strtoll(clean.c_str(), &end, base);
  return *end == 0 && errno == 0;
}

Value FilterInt(Interpreter& in, const Value& self, const Args& args) {
  const Value* fallback = args.Find(0, "default");
  const int base = static_cast<int>(IntArg(in, args, 1, "base", 10));
  if (self.is_undefined()) return in.FailUndefined(self);
  if (self.is_integral()) return Value::Int(self.as_int()).WithOrigin(self.origin());
  int64_t value = 0;
  double number = 0;
  const bool is_number = self.is_float() || (self.is_string() && ParseFloat(self.view(), number));
  if (self.is_float()) number = self.as_float();
  if (self.is_string() && base >= 2 && base <= 36 && ParseInt(self.view(), base, value)) {
    return Value::Int(value);
  }
  if (is_number && std::fabs(number) < 9.2e18) return Value::Int(static_cast<int64_t>(number));
  return fallback == nullptr ? Value::Int(0) : *fallback;
}

Value FilterFloat(Interpreter& in, const Value& self, const Args& args) {
  if (self.is_undefined()) return in.FailUndefined(self);
  if (self.is_number()) return Value::Float(self.as_float());
  double number = 0;
  if (self.is_string() && ParseFloat(self.view(), number)) return Value::Float(number);
  const Value* fallback = args.Find(0, "default");
  return fallback == nullptr ? Value::Float(0) : *fallback;
}

Value FilterRound(Interpreter& in, const Value& self, const Args& args) {
  if (!self.is_number()) return in.Fail(absl::StrCat("round needs a number, not ", TypeName(self)));
  const int64_t precision = IntArg(in, args, 0, "precision", 0);
  const Value* method = args.Find(1, "method");
  const std::string how = method != nullptr && method->is_string() ? std::string(method->view())
                                                                   : std::string("common");
  if (precision < -300 || precision > 300) return in.Fail("round: the precision is out of range");
  const double number = self.as_float();
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (how == "ceil" || how == "floor") {
    const double scaled = how == "ceil" ? std::ceil(number * scale) : std::floor(number * scale);
    return Value::Float(scaled / scale);
  }
  if (how != "common") return in.Fail("method must be common, ceil or floor");
  if (self.is_integral() && precision >= 0) return Value::Int(self.as_int());
  if (precision < 0) {
    const double rounded = std::nearbyint(number * scale) / scale;
    return self.is_integral() ? Value::Int(static_cast<int64_t>(rounded)) : Value::Float(rounded);
  }
  // Correctly rounded, half to even on the exact value: through the decimal digits, as Python.
  char buffer[700];
  std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), number);
  return Value::Float(std::strtod(buffer, nullptr));
}

constexpr FilterEntry kNumberFilters[] = {
    {"abs", FilterAbs},
    {"float", FilterFloat},
    {"int", FilterInt},
    {"round", FilterRound},
};

}  // namespace

absl::Span<const FilterEntry> NumberFilters() { return kNumberFilters; }

}  // namespace graft::jinja
