#include "base/json.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace graft {
namespace {

// Objects up to this size are searched for repeated keys pair by pair, larger ones by hash.
constexpr size_t kSmallObject = 16;

void AppendUtf8(uint32_t code_point, std::string& out) {
  if (code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out.push_back(static_cast<char>(0xc0 | code_point >> 6));
    out.push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
  } else if (code_point < 0x10000) {
    out.push_back(static_cast<char>(0xe0 | code_point >> 12));
    out.push_back(static_cast<char>(0x80 | (code_point >> 6 & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
  } else {
    out.push_back(static_cast<char>(0xf0 | code_point >> 18));
    out.push_back(static_cast<char>(0x80 | (code_point >> 12 & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (code_point >> 6 & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
  }
}

// Keeps of each repeated key the last value, at the place of the first.
void DropRepeatedKeys(Json::Object& object) {
  if (object.size() <= kSmallObject) {
    for (size_t i = 1; i < object.size();) {
      size_t j = 0;
      while (j < i && object[j].first != object[i].first) ++j;
      if (j == i) {
        ++i;
        continue;
      }
      object[j].second = std::move(object[i].second);
      object.erase(object.begin() + static_cast<ptrdiff_t>(i));
    }
    return;
  }
  absl::flat_hash_map<absl::string_view, size_t> first;
  first.reserve(object.size());
  std::vector<bool> drop(object.size(), false);
  bool any = false;
  for (size_t i = 0; i < object.size(); ++i) {
    const auto [it, inserted] = first.try_emplace(object[i].first, i);
    if (inserted) continue;
    object[it->second].second = std::move(object[i].second);
    drop[i] = any = true;
  }
  if (!any) return;
  first.clear();
  Json::Object kept;
  for (size_t i = 0; i < object.size(); ++i) {
    if (!drop[i]) kept.push_back(std::move(object[i]));
  }
  object = std::move(kept);
}

class Parser {
 public:
  Parser(absl::string_view text, const Json::ParseOptions& options)
      : begin_(text.data()), at_(text.data()), end_(text.data() + text.size()), options_(options) {}

  absl::StatusOr<Json> ParseDocument() {
    if (end_ - at_ >= 3 && absl::string_view(at_, 3) == "\xef\xbb\xbf") at_ += 3;
    Json value;
    GRAFT_RETURN_IF_ERROR(ParseValue(0, value));
    SkipSpace();
    if (at_ != end_) return Error("unexpected text after the value");
    return value;
  }

 private:
  absl::Status Error(absl::string_view what) const {
    int64_t line = 1, column = 1;
    for (const char* p = begin_; p < at_ && p < end_; ++p) {
      if (*p == '\n') {
        ++line;
        column = 1;
      } else {
        ++column;
      }
    }
    return absl::InvalidArgumentError(
        absl::StrCat("JSON, line ", line, ", column ", column, ": ", what));
  }

  void SkipSpace() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  }

  bool Consume(absl::string_view word) {
    if (static_cast<size_t>(end_ - at_) < word.size()) return false;
    if (absl::string_view(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  absl::Status ParseValue(int depth, Json& out) {
    if (depth > options_.max_depth) return Error("nested too deeply");
    SkipSpace();
    if (at_ == end_) return Error("the text ends where a value is expected");
    switch (*at_) {
      case '{':
        return ParseObject(depth, out);
      case '[':
        return ParseArray(depth, out);
      case '"': {
        std::string text;
        GRAFT_RETURN_IF_ERROR(ParseString(text));
        out = Json(std::move(text));
        return absl::OkStatus();
      }
      case 't':
        if (Consume("true")) return out = Json(true), absl::OkStatus();
        break;
      case 'f':
        if (Consume("false")) return out = Json(false), absl::OkStatus();
        break;
      case 'n':
        if (Consume("null")) return out = Json(nullptr), absl::OkStatus();
        break;
      default:
        break;
    }
    if (options_.allow_nan) {
      if (Consume("NaN")) return out = Json(std::nan("")), absl::OkStatus();
      if (Consume("Infinity")) return out = Json(HUGE_VAL), absl::OkStatus();
      if (Consume("-Infinity")) return out = Json(-HUGE_VAL), absl::OkStatus();
    }
    return ParseNumber(out);
  }

  absl::Status ParseObject(int depth, Json& out) {
    ++at_;
    Json::Object object;
    SkipSpace();
    if (at_ < end_ && *at_ == '}') {
      ++at_;
      out = Json(std::move(object));
      return absl::OkStatus();
    }
    for (;;) {
      SkipSpace();
      if (at_ == end_ || *at_ != '"') return Error("expected a key in quotes");
      object.emplace_back();
      GRAFT_RETURN_IF_ERROR(ParseString(object.back().first));
      SkipSpace();
      if (at_ == end_ || *at_ != ':') return Error("expected ':' after the key");
      ++at_;
      GRAFT_RETURN_IF_ERROR(ParseValue(depth + 1, object.back().second));
      SkipSpace();
      if (at_ == end_) return Error("the object is not closed");
      const char c = *at_++;
      if (c == '}') break;
      if (c != ',') return --at_, Error("expected ',' or '}'");
    }
    DropRepeatedKeys(object);
    out = Json(std::move(object));
    return absl::OkStatus();
  }

  absl::Status ParseArray(int depth, Json& out) {
    ++at_;
    Json::Array array;
    SkipSpace();
    if (at_ < end_ && *at_ == ']') {
      ++at_;
      out = Json(std::move(array));
      return absl::OkStatus();
    }
    for (;;) {
      array.emplace_back();
      GRAFT_RETURN_IF_ERROR(ParseValue(depth + 1, array.back()));
      SkipSpace();
      if (at_ == end_) return Error("the array is not closed");
      const char c = *at_++;
      if (c == ']') break;
      if (c != ',') return --at_, Error("expected ',' or ']'");
    }
    out = Json(std::move(array));
    return absl::OkStatus();
  }

  absl::StatusOr<uint32_t> ParseHex4() {
    if (end_ - at_ < 4) return Error("\\u needs four hexadecimal digits");
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = *at_;
      uint32_t digit;
      if (c >= '0' && c <= '9') {
        digit = static_cast<uint32_t>(c - '0');
      } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
        digit = static_cast<uint32_t>((c | 0x20) - 'a' + 10);
      } else {
        return Error("\\u needs four hexadecimal digits");
      }
      value = value << 4 | digit;
    }
    return value;
  }

  absl::Status ParseEscape(std::string& out) {
    if (at_ == end_) return Error("the string is not closed");
    switch (const char c = *at_++; c) {
      case '"':
      case '\\':
      case '/':
        out.push_back(c);
        return absl::OkStatus();
      case 'b':
        out.push_back('\b');
        return absl::OkStatus();
      case 'f':
        out.push_back('\f');
        return absl::OkStatus();
      case 'n':
        out.push_back('\n');
        return absl::OkStatus();
      case 'r':
        out.push_back('\r');
        return absl::OkStatus();
      case 't':
        out.push_back('\t');
        return absl::OkStatus();
      case 'u': {
        GRAFT_ASSIGN_OR_RETURN(uint32_t code_point, ParseHex4());
        if (code_point >= 0xd800 && code_point < 0xdc00 && Consume("\\u")) {
          GRAFT_ASSIGN_OR_RETURN(const uint32_t low, ParseHex4());
          if (low >= 0xdc00 && low < 0xe000) {
            code_point = 0x10000 + ((code_point - 0xd800) << 10) + (low - 0xdc00);
          } else {
            AppendUtf8(0xfffd, out);
            code_point = low;
          }
        }
        if (code_point >= 0xd800 && code_point < 0xe000) code_point = 0xfffd;
        AppendUtf8(code_point, out);
        return absl::OkStatus();
      }
      default:
        return --at_, Error("unknown escape in a string");
    }
  }

  // The first byte that a string cannot hold as it is (a quote, a backslash, a control character),
  // or `end`. Eight bytes at a time: a byte of `found` has its high bit set where its byte is such
  // a one; above the lowest of them a borrow may set others.
  static const char* PlainEnd(const char* at, const char* end) {
    static_assert(std::endian::native == std::endian::little);
    constexpr uint64_t kOnes = ~uint64_t{0} / 255;
    for (; end - at >= 8; at += 8) {
      uint64_t word;
      std::memcpy(&word, at, sizeof(word));
      const uint64_t quote = word ^ (kOnes * '"');
      const uint64_t backslash = word ^ (kOnes * '\\');
      const uint64_t found = (((quote - kOnes) & ~quote) | ((backslash - kOnes) & ~backslash) |
                              ((word - kOnes * 0x20) & ~word)) &
                             (kOnes * 0x80);
      if (found != 0) return at + std::countr_zero(found) / 8;
    }
    while (at < end && *at != '"' && *at != '\\' && static_cast<uint8_t>(*at) >= 0x20) ++at;
    return at;
  }

  absl::Status ParseString(std::string& out) {
    ++at_;
    for (;;) {
      const char* run = at_;
      at_ = PlainEnd(at_, end_);
      out.append(run, at_);
      if (at_ == end_) return Error("the string is not closed");
      if (*at_ == '"') {
        ++at_;
        return absl::OkStatus();
      }
      if (*at_ != '\\') return Error("a control character in a string must be escaped");
      ++at_;
      GRAFT_RETURN_IF_ERROR(ParseEscape(out));
    }
  }

  static bool IsDigit(char c) { return c >= '0' && c <= '9'; }

  absl::Status ParseNumber(Json& out) {
    const char* start = at_;
    const char* p = at_;
    if (p < end_ && *p == '-') ++p;
    if (p == end_ || !IsDigit(*p)) return Error("expected a value");
    if (*p == '0' && p + 1 < end_ && IsDigit(p[1])) return Error("a number starts with 0");
    while (p < end_ && IsDigit(*p)) ++p;
    bool integer = true;
    if (p < end_ && *p == '.') {
      integer = false;
      ++p;
      if (p == end_ || !IsDigit(*p)) return Error("digits are missing after '.'");
      while (p < end_ && IsDigit(*p)) ++p;
    }
    if (p < end_ && (*p == 'e' || *p == 'E')) {
      integer = false;
      ++p;
      if (p < end_ && (*p == '+' || *p == '-')) ++p;
      if (p == end_ || !IsDigit(*p)) return Error("digits are missing in the exponent");
      while (p < end_ && IsDigit(*p)) ++p;
    }
    at_ = p;
    if (integer) {
      int64_t value = 0;
      if (std::from_chars(start, p, value).ec == std::errc()) {
        out = Json(value);
        return absl::OkStatus();
      }
    }
    double value = 0;
    const auto result = std::from_chars(start, p, value);
    if (result.ec == std::errc::result_out_of_range) {
      // Python reads 1e999 as infinity and 1e-999 as zero.
      value = std::strtod(std::string(start, p).c_str(), nullptr);
    }
    out = Json(value);
    return absl::OkStatus();
  }

  const char* begin_;
  const char* at_;
  const char* end_;
  const Json::ParseOptions& options_;
};

void AppendQuoted(absl::string_view text, std::string& out) {
  constexpr char kDigits[] = "0123456789abcdef";
  out.push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        out.append("\\\"");
        break;
      case '\\':
        out.append("\\\\");
        break;
      case '\n':
        out.append("\\n");
        break;
      case '\r':
        out.append("\\r");
        break;
      case '\t':
        out.append("\\t");
        break;
      case '\b':
        out.append("\\b");
        break;
      case '\f':
        out.append("\\f");
        break;
      default:
        if (static_cast<uint8_t>(c) < 0x20) {
          out.append("\\u00");
          out.push_back(kDigits[c >> 4]);
          out.push_back(kDigits[c & 15]);
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
}

void AppendDouble(double value, std::string& out) {
  if (!std::isfinite(value)) {
    out.append("null");
    return;
  }
  char buffer[40];
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value);
  const absl::string_view text(buffer, static_cast<size_t>(result.ptr - buffer));
  out.append(text.data(), text.size());
  // An integral double must read back as a double.
  if (text.find_first_of(".e") == absl::string_view::npos) out.append(".0");
}

void NewLine(int indent, int depth, std::string& out) {
  if (indent < 0) return;
  out.push_back('\n');
  out.append(static_cast<size_t>(indent * depth), ' ');
}

void AppendJson(const Json& value, int indent, int depth, std::string& out) {
  if (value.is_null()) {
    out.append("null");
  } else if (value.is_bool()) {
    out.append(value.as_bool() ? "true" : "false");
  } else if (value.is_int()) {
    absl::StrAppend(&out, value.as_int());
  } else if (value.is_double()) {
    AppendDouble(value.as_double(), out);
  } else if (value.is_string()) {
    AppendQuoted(value.as_string(), out);
  } else if (value.is_array()) {
    out.push_back('[');
    bool first = true;
    for (const Json& element : value.as_array()) {
      if (!first) out.push_back(',');
      first = false;
      NewLine(indent, depth + 1, out);
      AppendJson(element, indent, depth + 1, out);
    }
    if (!first) NewLine(indent, depth, out);
    out.push_back(']');
  } else {
    out.push_back('{');
    bool first = true;
    for (const auto& [key, element] : value.as_object()) {
      if (!first) out.push_back(',');
      first = false;
      NewLine(indent, depth + 1, out);
      AppendQuoted(key, out);
      out.append(indent < 0 ? ":" : ": ");
      AppendJson(element, indent, depth + 1, out);
    }
    if (!first) NewLine(indent, depth, out);
    out.push_back('}');
  }
}

}  // namespace

absl::StatusOr<Json> Json::Parse(absl::string_view text) { return Parse(text, ParseOptions()); }

absl::StatusOr<Json> Json::Parse(absl::string_view text, const ParseOptions& options) {
  return Parser(text, options).ParseDocument();
}

absl::string_view Json::type_name() const {
  constexpr absl::string_view kNames[] = {"null",   "boolean", "integer", "number",
                                          "string", "array",   "object"};
  return kNames[value_.index()];
}

bool Json::as_bool() const {
  GRAFT_CHECK(is_bool()) << type_name();
  return std::get<bool>(value_);
}

int64_t Json::as_int() const {
  GRAFT_CHECK(is_int()) << type_name();
  return std::get<int64_t>(value_);
}

double Json::as_double() const {
  if (is_int()) return static_cast<double>(std::get<int64_t>(value_));
  GRAFT_CHECK(is_double()) << type_name();
  return std::get<double>(value_);
}

const std::string& Json::as_string() const {
  GRAFT_CHECK(is_string()) << type_name();
  return std::get<std::string>(value_);
}

const Json::Array& Json::as_array() const {
  GRAFT_CHECK(is_array()) << type_name();
  return std::get<Array>(value_);
}

const Json::Object& Json::as_object() const {
  GRAFT_CHECK(is_object()) << type_name();
  return std::get<Object>(value_);
}

Json::Array& Json::mutable_array() {
  GRAFT_CHECK(is_array()) << type_name();
  return std::get<Array>(value_);
}

Json::Object& Json::mutable_object() {
  GRAFT_CHECK(is_object()) << type_name();
  return std::get<Object>(value_);
}

std::string Json::take_string() && {
  GRAFT_CHECK(is_string()) << type_name();
  return std::move(std::get<std::string>(value_));
}

const Json* Json::Find(absl::string_view key) const {
  if (!is_object()) return nullptr;
  for (const auto& [name, value] : std::get<Object>(value_)) {
    if (name == key) return &value;
  }
  return nullptr;
}

Json* Json::Find(absl::string_view key) {
  return const_cast<Json*>(static_cast<const Json*>(this)->Find(key));
}

std::string Json::GetString(absl::string_view key, absl::string_view fallback) const {
  const Json* value = Find(key);
  return value != nullptr && value->is_string() ? value->as_string() : std::string(fallback);
}

int64_t Json::GetInt(absl::string_view key, int64_t fallback) const {
  const Json* value = Find(key);
  return value != nullptr && value->is_int() ? value->as_int() : fallback;
}

double Json::GetDouble(absl::string_view key, double fallback) const {
  const Json* value = Find(key);
  return value != nullptr && value->is_number() ? value->as_double() : fallback;
}

bool Json::GetBool(absl::string_view key, bool fallback) const {
  const Json* value = Find(key);
  return value != nullptr && value->is_bool() ? value->as_bool() : fallback;
}

Json& Json::Set(absl::string_view key, Json value) {
  if (is_null()) value_ = Object();
  if (Json* member = Find(key)) {
    *member = std::move(value);
  } else {
    mutable_object().emplace_back(std::string(key), std::move(value));
  }
  return *this;
}

void Json::Append(Json value) {
  if (is_null()) value_ = Array();
  mutable_array().push_back(std::move(value));
}

std::string Json::Dump(int indent) const {
  std::string out;
  AppendJson(*this, indent, 0, out);
  return out;
}

std::string JsonQuote(absl::string_view text) {
  std::string out;
  AppendQuoted(text, out);
  return out;
}

}  // namespace graft
