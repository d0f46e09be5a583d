#include "worker/data/chat/jinja_lexer.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/chat/jinja_chars.h"

namespace graft::jinja {
namespace {

absl::Status SyntaxError(int line, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat("chat template, line ", line, ": ", message));
}

// "\r\n" and "\r" become "\n", and one newline at the very end is dropped.
std::string NormalizeNewlines(absl::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsNameChar(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || (c & 0x80) != 0;
}
bool IsDecimal(char c) { return c >= '0' && c <= '9'; }

// What Python's "unicode-escape" makes of the inside of a literal.
class Unescaper {
 public:
  explicit Unescaper(absl::string_view text) : text_(text) {}

  absl::StatusOr<std::string> Run() {
    while (pos_ < text_.size()) {
      if (text_[pos_] != '\\') {
        out_ += text_[pos_++];
        continue;
      }
      ++pos_;
      if (pos_ == text_.size()) return absl::InvalidArgumentError("\\ at end of string");
      GRAFT_RETURN_IF_ERROR(Escape(text_[pos_++]));
    }
    return std::move(out_);
  }

 private:
  absl::Status Escape(char c) {
    static constexpr absl::string_view kFrom = "\\'\"abfnrtv";
    static constexpr absl::string_view kTo = "\\'\"\a\b\f\n\r\t\v";
    if (c == '\n') return absl::OkStatus();
    if (const size_t i = kFrom.find(c); i != absl::string_view::npos) {
      out_ += kTo[i];
      return absl::OkStatus();
    }
    if (c == 'x') return Hex(2);
    if (c == 'u') return Hex(4);
    if (c == 'U') return Hex(8);
    if (c == 'N') return absl::InvalidArgumentError("\\N{...} is not supported");
    if (c >= '0' && c <= '7') return Octal(c);
    out_ += '\\';
    out_ += c;
    return absl::OkStatus();
  }

  absl::Status Hex(size_t digits) {
    uint32_t value = 0;
    if (pos_ + digits > text_.size() || !absl::SimpleHexAtoi(text_.substr(pos_, digits), &value) ||
        text_[pos_] == '+' || text_[pos_] == '-' || value > 0x10FFFF) {
      return absl::InvalidArgumentError("truncated or illegal \\x, \\u or \\U escape");
    }
    pos_ += digits;
    // Two escaped surrogates make one character; a lone one has no UTF-8.
    if (value >= 0xD800 && value < 0xDC00 && digits == 4) return LowSurrogate(value);
    AppendUtf8(value >= 0xD800 && value < 0xE000 ? 0xFFFD : value, out_);
    return absl::OkStatus();
  }

  absl::Status LowSurrogate(uint32_t high) {
    uint32_t low = 0;
    if (absl::StartsWith(text_.substr(pos_), "\\u") && pos_ + 6 <= text_.size() &&
        absl::SimpleHexAtoi(text_.substr(pos_ + 2, 4), &low) && low >= 0xDC00 && low < 0xE000) {
      pos_ += 6;
      AppendUtf8(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00), out_);
    } else {
      AppendUtf8(0xFFFD, out_);
    }
    return absl::OkStatus();
  }

  absl::Status Octal(char first) {
    uint32_t value = first - '0';
    for (int i = 0; i < 2 && pos_ < text_.size() && text_[pos_] >= '0' && text_[pos_] <= '7'; ++i) {
      value = value * 8 + (text_[pos_++] - '0');
    }
    AppendUtf8(value, out_);
    return absl::OkStatus();
  }

  absl::string_view text_;
  size_t pos_ = 0;
  std::string out_;
};

class Lexer {
 public:
  explicit Lexer(absl::string_view source) : source_(NormalizeNewlines(source)), text_(source_) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (pos_ < text_.size()) GRAFT_RETURN_IF_ERROR(Root());
    Push(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void Push(TokenKind kind, absl::string_view text) {
    Token token;
    token.kind = kind;
    token.line = line_;
    token.text = std::string(text);
    tokens_.push_back(std::move(token));
  }

  // Moves to `end`, counting lines.
  void MoveTo(size_t end) {
    line_ += static_cast<int>(std::count(text_.begin() + pos_, text_.begin() + end, '\n'));
    line_starting_ = end > 0 && end > pos_ && text_[end - 1] == '\n';
    pos_ = end;
  }

  size_t SkipSpace(size_t pos) const { return pos + LeadingSpace(text_.substr(pos)); }

  // Data up to the next tag, and that tag's opening.
  absl::Status Root() {
    size_t tag = pos_;
    for (;; ++tag) {
      tag = text_.find('{', tag);
      if (tag == absl::string_view::npos || tag + 1 >= text_.size()) {
        Push(TokenKind::kData, text_.substr(pos_));
        MoveTo(text_.size());
        return absl::OkStatus();
      }
      const char c = text_[tag + 1];
      if (c == '%' || c == '{' || c == '#') break;
    }
    const char type = text_[tag + 1];
    size_t after = tag + 2;
    char sign = 0;
    if (after < text_.size() && (text_[after] == '-' || text_[after] == '+')) sign = text_[after++];
    PushData(text_.substr(pos_, tag - pos_), sign, type);
    if (type == '%') {
      const size_t raw_end = RawBegin(after);
      if (raw_end != 0) return Raw(raw_end);
    }
    MoveTo(after);
    if (type == '#') return Comment();
    return Tag(type == '%');
  }

  void PushData(absl::string_view data, char sign, char type) {
    if (sign == '-') {
      data.remove_suffix(TrailingSpace(data));
    } else if (sign != '+' && type != '{') {
      const size_t newline = data.rfind('\n');
      const size_t start = newline == absl::string_view::npos ? 0 : newline + 1;
      const absl::string_view indent = data.substr(start);
      if ((start > 0 || line_starting_) && LeadingSpace(indent) == indent.size()) {
        data = data.substr(0, start);
      }
    }
    if (!data.empty()) Push(TokenKind::kData, data);
  }

  // The end of "raw %}" at `pos`, 0 where it is no raw block.
  size_t RawBegin(size_t pos) const {
    pos = SkipSpace(pos);
    if (!absl::StartsWith(text_.substr(pos), "raw")) return 0;
    pos = SkipSpace(pos + 3);
    if (absl::StartsWith(text_.substr(pos), "-%}")) return SkipSpace(pos + 3);
    return absl::StartsWith(text_.substr(pos), "%}") ? pos + 2 : 0;
  }

  // "+%}", "-%}\s*" or "%}\n?" at `pos`: its end, else 0. `close` is "%}" or "#}".
  size_t CloseAt(size_t pos, absl::string_view close) const {
    const absl::string_view rest = text_.substr(pos);
    if (absl::StartsWith(rest, close)) {
      const size_t end = pos + 2;
      return end < text_.size() && text_[end] == '\n' ? end + 1 : end;
    }
    if (rest.empty() || !absl::StartsWith(rest.substr(1), close)) return 0;
    if (rest[0] == '+') return pos + 3;
    return rest[0] == '-' ? SkipSpace(pos + 3) : 0;
  }

  absl::Status Comment() {
    for (size_t pos = pos_; pos < text_.size(); ++pos) {
      const size_t end = CloseAt(pos, "#}");
      if (end == 0) continue;
      MoveTo(end);
      return absl::OkStatus();
    }
    return SyntaxError(line_, "missing end of comment tag");
  }

  absl::Status Raw(size_t body) {
    MoveTo(body);
    for (size_t tag = text_.find("{%", pos_); tag != absl::string_view::npos;
         tag = text_.find("{%", tag + 1)) {
      size_t pos = tag + 2;
      char sign = 0;
      if (pos < text_.size() && (text_[pos] == '-' || text_[pos] == '+')) sign = text_[pos++];
      pos = SkipSpace(pos);
      if (!absl::StartsWith(text_.substr(pos), "endraw")) continue;
      const size_t end = CloseAt(SkipSpace(pos + 6), "%}");
      if (end == 0) continue;
      PushData(text_.substr(pos_, tag - pos_), sign, '%');
      MoveTo(end);
      return absl::OkStatus();
    }
    return SyntaxError(line_, "missing end of raw directive");
  }

  absl::Status Tag(bool block) {
    Push(block ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
    std::string open;
    while (true) {
      if (pos_ >= text_.size()) return absl::OkStatus();  // the parser says what is missing
      if (open.empty()) {
        const size_t end = block ? CloseAt(pos_, "%}") : VariableEnd();
        if (end != 0) {
          Push(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
          MoveTo(end);
          return absl::OkStatus();
        }
      }
      const size_t space = SkipSpace(pos_);
      if (space != pos_) {
        MoveTo(space);
      } else {
        GRAFT_RETURN_IF_ERROR(TagToken(open));
      }
    }
  }

  size_t VariableEnd() const {
    const absl::string_view rest = text_.substr(pos_);
    if (absl::StartsWith(rest, "-}}")) return SkipSpace(pos_ + 3);
    return absl::StartsWith(rest, "}}") ? pos_ + 2 : 0;
  }

  absl::Status TagToken(std::string& open) {
    const char c = text_[pos_];
    if (IsDecimal(c)) return Number();
    if (IsNameChar(c)) return Name();
    if (c == '\'' || c == '"') return String(c);
    return Operator(open);
  }

  absl::Status Name() {
    size_t end = pos_;
    while (end < text_.size() && IsNameChar(text_[end])) ++end;
    Push(TokenKind::kName, text_.substr(pos_, end - pos_));
    MoveTo(end);
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    size_t end = pos_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) {
      return SyntaxError(line_, absl::StrCat("unexpected char ", std::string(1, quote)));
    }
    auto value = Unescaper(text_.substr(pos_ + 1, end - pos_ - 1)).Run();
    if (!value.ok()) return SyntaxError(line_, value.status().message());
    Push(TokenKind::kString, *value);
    MoveTo(end + 1);
    return absl::OkStatus();
  }

  // Digits with single underscores between them.
  size_t DigitsEnd(size_t pos) const {
    while (pos < text_.size() &&
           (IsDecimal(text_[pos]) ||
            (text_[pos] == '_' && pos + 1 < text_.size() && IsDecimal(text_[pos + 1])))) {
      ++pos;
    }
    return pos;
  }

  // The end of an exponent at `pos`, or `pos`.
  size_t ExponentEnd(size_t pos) const {
    if (pos >= text_.size() || (text_[pos] != 'e' && text_[pos] != 'E')) return pos;
    size_t digits = pos + 1;
    if (digits < text_.size() && (text_[digits] == '+' || text_[digits] == '-')) ++digits;
    return digits < text_.size() && IsDecimal(text_[digits]) ? DigitsEnd(digits) : pos;
  }

  absl::Status Number() {
    const size_t whole = DigitsEnd(pos_);
    size_t end = whole;
    const bool after_dot = pos_ > 0 && text_[pos_ - 1] == '.';
    if (!after_dot) {
      if (end + 1 < text_.size() && text_[end] == '.' && IsDecimal(text_[end + 1])) {
        end = DigitsEnd(end + 1);
      }
      end = ExponentEnd(end);
    }
    std::string digits(text_.substr(pos_, end - pos_));
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    if (end == whole) return Integer(digits, end);
    Push(TokenKind::kFloat, digits);
    tokens_.back().number = std::strtod(digits.c_str(), nullptr);
    MoveTo(end);
    return absl::OkStatus();
  }

  absl::Status Integer(const std::string& digits, size_t end) {
    int base = 10;
    size_t first = pos_;
    if (digits == "0" && end < text_.size()) {
      const char c = static_cast<char>(text_[end] | 0x20);
      base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
      if (base != 10) {
        first = ++end;
        while (end < text_.size() && (absl::ascii_isxdigit(text_[end]) || text_[end] == '_')) ++end;
      }
    }
    std::string clean(text_.substr(first, end - first));
    clean.erase(std::remove(clean.begin(), clean.end(), '_'), clean.end());
    errno = 0;
    char* stop = nullptr;
    const int64_t value = std::strtoll(clean.c_str(), &stop, base);
    if (errno != 0 || *stop != 0 || clean.empty()) {
      return SyntaxError(line_, absl::StrCat("integer ", clean, " is malformed or out of range"));
    }
    Push(TokenKind::kInteger, clean);
    tokens_.back().integer = value;
    MoveTo(end);
    return absl::OkStatus();
  }

  absl::Status Operator(std::string& open) {
    static constexpr absl::string_view kLong[] = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr absl::string_view kShort = "+-/*%~[](){}<>=.:|,;";
    const absl::string_view rest = text_.substr(pos_);
    for (const absl::string_view op : kLong) {
      if (!absl::StartsWith(rest, op)) continue;
      Push(TokenKind::kOperator, op);
      MoveTo(pos_ + 2);
      return absl::OkStatus();
    }
    const char c = rest[0];
    if (kShort.find(c) == absl::string_view::npos) {
      return SyntaxError(line_, absl::StrCat("unexpected character '", std::string(1, c), "'"));
    }
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) {
        return SyntaxError(line_, absl::StrCat("unexpected '", std::string(1, c), "'"));
      }
      open.pop_back();
    }
    Push(TokenKind::kOperator, rest.substr(0, 1));
    MoveTo(pos_ + 1);
    return absl::OkStatus();
  }

  const std::string source_;
  const absl::string_view text_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  return Lexer(source).Run();
}

}  // namespace graft::jinja
