// format % values and str.format().
#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {

namespace {

constexpr int kMaxFieldWidth = 1 << 20;

// The parts of a conversion: %[flags][width][.precision]type, or [[fill]align][sign][#][0][width]
// [,][.precision][type] after the colon of a replacement field.
struct FieldSpec {
  std::string fill = " ";
  char align = 0;  // < > ^ =
  char sign = 0;   // + - space
  bool alternate = false;
  bool comma = false;
  int width = 0;
  int precision = -1;
  char type = 0;
};

// Groups the digits before the point by thousands.
std::string WithCommas(const std::string& digits) {
  const size_t end = std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string out;
  for (size_t i = 0; i < end; ++i) {
    if (i > 0 && (end - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out + digits.substr(end);
}

std::string InBase(uint64_t value, int base, bool upper) {
  if (value == 0) return "0";
  std::string out;
  const char* const digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  for (; value > 0; value /= base) out += digits[value % base];
  std::reverse(out.begin(), out.end());
  return out;
}

std::string FormatMagnitude(double value, const FieldSpec& spec) {
  const int precision = spec.precision < 0 ? 6 : std::min(spec.precision, 300);
  switch (spec.type) {
    case 'f':
    case 'F':
      return absl::StrFormat("%.*f", precision, value);
    case 'e':
      return absl::StrFormat("%.*e", precision, value);
    case 'E':
      return absl::StrFormat("%.*E", precision, value);
    case '%':
      return absl::StrFormat("%.*f%%", precision, value * 100);
    case 0:
      if (spec.precision < 0) return FloatRepr(value);
      [[fallthrough]];
    default:
      return absl::StrFormat("%.*g", precision == 0 ? 1 : precision, value);
  }
}

std::string IntegerMagnitude(uint64_t value, const FieldSpec& spec) {
  switch (spec.type) {
    case 'x':
      return (spec.alternate ? "0x" : "") + InBase(value, 16, false);
    case 'X':
      return (spec.alternate ? "0X" : "") + InBase(value, 16, true);
    case 'o':
      return (spec.alternate ? "0o" : "") + InBase(value, 8, false);
    case 'b':
      return (spec.alternate ? "0b" : "") + InBase(value, 2, false);
    default:
      return std::to_string(value);
  }
}

bool IsFloatType(char type) {
  return absl::string_view("fFeEgG%").find(type) != absl::string_view::npos && type != 0;
}

// Sign and digits of a number.
void NumberParts(const Value& value, const FieldSpec& spec, std::string& sign,
                 std::string& digits) {
  bool negative;
  if (value.is_integral() && !IsFloatType(spec.type)) {
    const int64_t number = value.as_int();
    negative = number < 0;
    digits = IntegerMagnitude(
        negative ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number), spec);
  } else {
    const double number = value.as_float();
    negative = std::signbit(number) && !std::isnan(number);
    digits = FormatMagnitude(std::fabs(number), spec);
  }
  if (spec.comma) digits = WithCommas(digits);
  sign = negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
}

void AppendPadded(Interpreter& in, const Str& body, const std::string& sign, const FieldSpec& spec,
                  char default_align, Text& out) {
  const char align = spec.align != 0 ? spec.align : default_align;
  const int64_t pad = spec.width - CharCount(body) - static_cast<int64_t>(sign.size());
  const int64_t left = align == '>' || align == '=' ? pad : align == '^' ? pad / 2 : 0;
  if (align == '=') out.Append(sign);
  out.Repeat(spec.fill, left);
  if (align != '=') out.Append(sign);
  out.Append(body);
  out.Repeat(spec.fill, pad - std::max<int64_t>(left, 0));
}

void AppendNumber(Interpreter& in, const Value& value, const FieldSpec& spec, Text& out) {
  std::string sign, digits;
  NumberParts(value, spec, sign, digits);
  AppendPadded(in, *ViewStr(in.arena(), digits, value.origin()), sign, spec, '>', out);
}

// The first `precision` characters.
const Str& Cut(Interpreter& in, const Str& text, int precision) {
  if (precision < 0 || CharCount(text) <= precision) return text;
  return *SubStr(in.arena(), text, 0, ByteOfChar(text, precision));
}

class PercentFormatter {
 public:
  PercentFormatter(Interpreter& in, const Str& format, const Value& values)
      : in_(in), format_(format), values_(values), out_(in.arena()) {}

  Value Run() {
    const absl::string_view f = format_.view();
    while (pos_ < f.size() && !in_.failed()) {
      const size_t percent = std::min(f.find('%', pos_), f.size());
      out_.Append(format_, pos_, percent);
      pos_ = percent + 1;
      if (percent < f.size()) Conversion();
    }
    if (values_.is_tuple() && !by_name_ && next_ < values_.list().size) {
      return in_.Fail("not all arguments converted during string formatting");
    }
    if (!values_.is_tuple() && !values_.is_dict() && next_ == 0 && !by_name_) {
      return in_.Fail("not all arguments converted during string formatting");
    }
    return in_.failed() ? Value() : out_.FinishValue();
  }

 private:
  char Peek() const { return pos_ < format_.size ? format_.data[pos_] : 0; }

  int Number() {
    int value = 0;
    for (; Peek() >= '0' && Peek() <= '9'; ++pos_) {
      value = std::min(value * 10 + (Peek() - '0'), kMaxFieldWidth);
    }
    return value;
  }

  Value Next() {
    if (!values_.is_tuple()) {
      if (next_++ == 0) return values_;
    } else if (next_ < values_.list().size) {
      return values_.list().items[next_++];
    }
    return in_.Fail("not enough arguments for format string");
  }

  Value Named() {
    const size_t close = format_.view().find(')', pos_);
    if (close == absl::string_view::npos) return in_.Fail("incomplete format key");
    const Value key = SubString(in_.arena(), format_, pos_ + 1, close);
    pos_ = close + 1;
    by_name_ = true;
    if (!values_.is_dict()) return in_.Fail("format requires a mapping");
    const Value* value = values_.dict().Find(key);
    return value != nullptr ? *value : in_.Fail(absl::StrCat("KeyError: '", key.view(), "'"));
  }

  void Conversion() {
    if (Peek() == '%') {
      ++pos_;
      return out_.Append('%');
    }
    Value value;
    bool have_value = false;
    if (Peek() == '(') {
      value = Named();
      have_value = true;
    }
    FieldSpec spec;
    for (; absl::string_view("-+ #0").find(Peek()) != absl::string_view::npos && Peek(); ++pos_) {
      if (Peek() == '-') spec.align = '<';
      if (Peek() == '+' || (Peek() == ' ' && spec.sign == 0)) spec.sign = Peek();
      if (Peek() == '#') spec.alternate = true;
      if (Peek() == '0' && spec.align == 0) spec.fill = "0";
    }
    if (spec.align == '<') spec.fill = " ";
    spec.width = Number();
    if (Peek() == '.') {
      ++pos_;
      spec.precision = Number();
    }
    spec.type = Peek();
    ++pos_;
    if (in_.failed()) return;
    if (!have_value) value = Next();
    if (!in_.failed()) Convert(value, spec);
  }

  void Convert(const Value& value, FieldSpec spec) {
    if (spec.type == 's' || spec.type == 'r') {
      Text text(in_.arena());
      spec.type == 's' ? AppendStr(value, text) : AppendRepr(value, text);
      if (spec.fill == "0") spec.fill = " ";
      return AppendPadded(in_, Cut(in_, *text.Finish(), spec.precision), "", spec, '>', out_);
    }
    if (spec.type == 0) {
      in_.Fail("incomplete format");
      return;
    }
    if (absl::string_view("diuxXofFeEgG").find(spec.type) == absl::string_view::npos) {
      in_.Fail(absl::StrCat("unsupported format character '", std::string(1, spec.type), "'"));
      return;
    }
    if (!value.is_number()) {
      in_.Fail(absl::StrCat("%", std::string(1, spec.type), " format: a number is required, not ",
                            TypeName(value)));
      return;
    }
    Value number = value;
    if (!IsFloatType(spec.type) && value.is_float()) {
      if (!(std::fabs(value.as_float()) < 9e18)) {
        in_.Fail("cannot convert this float to an integer");
        return;
      }
      number = Value::Int(static_cast<int64_t>(value.as_float()));
    }
    if (spec.fill == "0" && spec.align == 0) spec.align = '=';
    AppendNumber(in_, number, spec, out_);
  }

  Interpreter& in_;
  const Str& format_;
  const Value values_;
  Text out_;
  size_t pos_ = 0;
  size_t next_ = 0;
  bool by_name_ = false;
};

class BraceFormatter {
 public:
  BraceFormatter(Interpreter& in, const Str& format, const Args& args)
      : in_(in), format_(format), args_(args), out_(in.arena()) {}

  Value Run() {
    const absl::string_view f = format_.view();
    for (size_t pos = 0; pos < f.size() && !in_.failed();) {
      const char c = f[pos];
      if (c != '{' && c != '}') {
        const size_t end = std::min(f.find_first_of("{}", pos), f.size());
        out_.Append(format_, pos, end);
        pos = end;
      } else if (pos + 1 < f.size() && f[pos + 1] == c) {
        out_.Append(c);
        pos += 2;
      } else if (c == '}') {
        return in_.Fail("Single '}' encountered in format string");
      } else {
        pos = Field(pos + 1);
      }
    }
    return in_.failed() ? Value() : out_.FinishValue();
  }

 private:
  // The replacement field that starts at `pos`; the position behind it.
  size_t Field(size_t pos) {
    const absl::string_view f = format_.view();
    const size_t close = f.find('}', pos);
    if (close == absl::string_view::npos) {
      in_.Fail("expected '}' before end of string");
      return f.size();
    }
    absl::string_view field = f.substr(pos, close - pos);
    if (field.find('{') != absl::string_view::npos) {
      in_.FailWith(absl::StatusCode::kUnimplemented, "nested replacement fields in str.format()");
      return f.size();
    }
    absl::string_view spec;
    if (const size_t colon = field.find(':'); colon != absl::string_view::npos) {
      spec = field.substr(colon + 1);
      field = field.substr(0, colon);
    }
    char conversion = 0;
    if (const size_t bang = field.find('!'); bang != absl::string_view::npos) {
      conversion = bang + 1 < field.size() ? field[bang + 1] : '?';
      field = field.substr(0, bang);
    }
    const Value value = Resolve(field);
    if (!in_.failed()) Convert(value, conversion, spec);
    return close + 1;
  }

  // "0", "name", "", followed by .attribute and [index].
  Value Resolve(absl::string_view field) {
    const size_t end = std::min(field.find_first_of(".["), field.size());
    Value value = First(field.substr(0, end));
    for (size_t pos = end; pos < field.size() && !in_.failed();) {
      if (field[pos] == '.') {
        const size_t stop = std::min(field.find_first_of(".[", pos + 1), field.size());
        value = in_.Attr(value, *NewStr(in_.arena(), field.substr(pos + 1, stop - pos - 1)));
        pos = stop;
      } else {
        const size_t stop = field.find(']', pos);
        if (stop == absl::string_view::npos) return in_.Fail("Missing ']' in format string");
        const absl::string_view key = field.substr(pos + 1, stop - pos - 1);
        int64_t index;
        value = in_.Item(
            value, absl::SimpleAtoi(key, &index) ? Value::Int(index) : NewString(in_.arena(), key));
        pos = stop + 1;
      }
    }
    return value;
  }

  Value First(absl::string_view name) {
    int64_t index = 0;
    if (name.empty() || absl::SimpleAtoi(name, &index)) {
      if (name.empty()) index = static_cast<int64_t>(next_++);
      if (index < 0 || static_cast<size_t>(index) >= args_.positional.size()) {
        return in_.Fail("Replacement index out of range for positional args tuple");
      }
      return args_.positional[index];
    }
    for (const auto& [key, value] : args_.named) {
      if (key->view() == name) return value;
    }
    return in_.Fail(absl::StrCat("KeyError: '", name, "'"));
  }

  static bool IsAlign(char c) {
    return c != 0 && absl::string_view("<>^=").find(c) != absl::string_view::npos;
  }

  bool ParseSpec(absl::string_view text, FieldSpec& spec) {
    size_t pos = 0;
    const auto peek = [&] { return pos < text.size() ? text[pos] : '\0'; };
    if (!text.empty()) {
      const size_t length = DecodeAt(text, 0).length;
      if (length < text.size() && IsAlign(text[length])) {
        spec.fill = std::string(text.substr(0, length));
        spec.align = text[length];
        pos = length + 1;
      } else if (IsAlign(text[0])) {
        spec.align = text[pos++];
      }
    }
    if (peek() == '+' || peek() == '-' || peek() == ' ') spec.sign = text[pos++];
    if (peek() == '#') spec.alternate = ++pos > 0;
    if (peek() == '0') {
      ++pos;
      if (spec.align == 0) {
        spec.fill = "0";
        spec.align = '=';
      }
    }
    const auto number = [&] {
      int value = 0;
      for (; peek() >= '0' && peek() <= '9'; ++pos) {
        value = std::min(value * 10 + (peek() - '0'), kMaxFieldWidth);
      }
      return value;
    };
    spec.width = number();
    if (peek() == ',') spec.comma = ++pos > 0;
    if (peek() == '.') {
      ++pos;
      spec.precision = number();
    }
    if (pos < text.size()) spec.type = text[pos++];
    return pos == text.size();
  }

  void Convert(Value value, char conversion, absl::string_view spec_text) {
    if (conversion == 's' || conversion == 'r') {
      Text text(in_.arena());
      conversion == 's' ? AppendStr(value, text) : AppendRepr(value, text);
      value = text.FinishValue();
    } else if (conversion != 0) {
      in_.Fail("unknown conversion specifier");
      return;
    }
    FieldSpec spec;
    if (!ParseSpec(spec_text, spec)) {
      in_.Fail(absl::StrCat("Invalid format specifier '", spec_text, "'"));
      return;
    }
    if (spec_text.empty()) return AppendStr(value, out_);
    if (value.is_string()) {
      if (spec.type != 0 && spec.type != 's') {
        in_.Fail("Unknown format code for object of type 'str'");
        return;
      }
      if (spec.align == '=') spec.align = '<';
      return AppendPadded(in_, Cut(in_, value.str(), spec.precision), "", spec, '<', out_);
    }
    if (!value.is_number() ||
        (spec.type != 0 &&
         absl::string_view("dbxXoeEfFgG%n").find(spec.type) == absl::string_view::npos)) {
      in_.Fail(absl::StrCat("unsupported format string for ", TypeName(value)));
      return;
    }
    if (value.is_float() && absl::string_view("dbxXo").find(spec.type) != absl::string_view::npos &&
        spec.type != 0) {
      in_.Fail("Unknown format code for object of type 'float'");
      return;
    }
    AppendNumber(in_, value, spec, out_);
  }

  Interpreter& in_;
  const Str& format_;
  const Args& args_;
  Text out_;
  size_t next_ = 0;
};

}  // namespace

Value PercentFormat(Interpreter& in, const Str& format, const Value& values) {
  return PercentFormatter(in, format, values).Run();
}

Value BraceFormat(Interpreter& in, const Str& format, const Args& args) {
  return BraceFormatter(in, format, args).Run();
}

}  // namespace graft::jinja
