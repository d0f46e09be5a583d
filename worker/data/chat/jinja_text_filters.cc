// Filters that make text. tojson is Hugging Face's.
#include <algorithm>
#include <cstdio>
#include <string>

#include "absl/strings/ascii.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_filters.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {
namespace {

Value FilterUpper(Interpreter& in, const Value& self, const Args&) {
  return MapText(in, in.ToStr(self), ToUpper);
}
Value FilterLower(Interpreter& in, const Value& self, const Args&) {
  return MapText(in, in.ToStr(self), ToLower);
}
Value FilterCapitalize(Interpreter& in, const Value& self, const Args&) {
  return CapitalizeText(in, in.ToStr(self));
}
Value FilterString(Interpreter& in, const Value& self, const Args&) {
  return Value::String(&in.ToStr(self));
}
Value FilterSafe(Interpreter& in, const Value& self, const Args&) {
  Text text(in.arena());
  AppendStr(self, text);
  return Value::String(text.Finish(/*markup=*/true));
}
Value FilterEscape(Interpreter& in, const Value& self, const Args&) {
  const Str& text = in.ToStr(self);
  if (text.markup) return Value::String(&text);
  Text out(in.arena());
  AppendEscaped(text, out);
  return Value::String(out.Finish(/*markup=*/true));
}
Value FilterForceescape(Interpreter& in, const Value& self, const Args&) {
  Text out(in.arena());
  AppendEscaped(in.ToStr(self), out);
  return Value::String(out.Finish(/*markup=*/true));
}

// Words start behind white space and ( [ { < -.
Value FilterTitle(Interpreter& in, const Value& self, const Args&) {
  const Str& text = in.ToStr(self);
  Text out(in.arena());
  bool start = true;
  for (size_t pos = 0; pos < text.size;) {
    const CodePoint c = DecodeAt(text.view(), pos);
    const Str* one = SubStr(in.arena(), text, pos, pos + c.length);
    out.Append(MapText(in, *one, start ? ToUpper : ToLower).str());
    start = IsSpace(c.value) ||
            (c.value < 0x80 && absl::string_view("-({[<").find(static_cast<char>(c.value)) !=
                                   absl::string_view::npos);
    pos += c.length;
  }
  return out.FinishValue();
}

Value FilterTrim(Interpreter& in, const Value& self, const Args& args) {
  const Value* chars = args.Find(0, "chars");
  if (chars != nullptr && !chars->is_none() && !chars->is_string()) {
    return in.Fail("strip arg must be None or str");
  }
  const Str* set = chars != nullptr && chars->is_string() ? &chars->str() : nullptr;
  return StripText(in, in.ToStr(self), set, true, true);
}

Value FilterReplace(Interpreter& in, const Value& self, const Args& args) {
  const Value* from = args.Find(0, "old");
  const Value* to = args.Find(1, "new");
  const Value* count = args.Find(2, "count");
  if (from == nullptr || to == nullptr) return in.Fail("replace needs two arguments");
  const int64_t limit = count == nullptr || !count->is_integral() ? -1 : count->as_int();
  return ReplaceText(in, in.ToStr(self), in.ToStr(*from), in.ToStr(*to), limit);
}

Value CallStrMethod(Interpreter& in, const Value& self, absl::string_view name, const Args& args) {
  const Value text = Value::String(&in.ToStr(self));
  return FindMethod(text, name)->run(in, text, args);
}
Value FilterCenter(Interpreter& in, const Value& self, const Args& args) {
  const Value width = Value::Int(IntArg(in, args, 0, "width", 80));
  return CallStrMethod(in, self, "center", Args{absl::MakeConstSpan(&width, 1), {}});
}

Value FilterIndent(Interpreter& in, const Value& self, const Args& args) {
  if (!self.is_string()) {
    return self.is_undefined() ? in.FailUndefined(self) : in.Fail("indent needs a string");
  }
  const Value* width = args.Find(0, "width");
  const bool first = TruthArg(args, 1, "first");
  const bool blank = TruthArg(args, 2, "blank");
  std::string indention(4, ' ');
  if (width != nullptr && width->is_string()) indention = std::string(width->view());
  if (width != nullptr && width->is_integral()) {
    if (width->as_int() > in.arena().max_text()) return in.Fail("indent: the width is too large");
    indention = std::string(std::max<int64_t>(width->as_int(), 0), ' ');
  }
  const Value newline = NewString(in.arena(), "\n");
  const Value with_newline = in.Add(self, newline);
  const Value lines = CallStrMethod(in, with_newline, "splitlines", Args{});
  Text out(in.arena());
  if (first) out.Append(indention);
  for (uint32_t i = 0; i < lines.list().size; ++i) {
    const Str& line = lines.list().items[i].str();
    if (i > 0) out.Append('\n');
    if (i > 0 && (blank || line.size > 0)) out.Append(indention);
    out.Append(line);
  }
  return out.FinishValue();
}

Value FilterTruncate(Interpreter& in, const Value& self, const Args& args) {
  const Str& text = in.ToStr(self);
  const int64_t length = IntArg(in, args, 0, "length", 255);
  const bool kill_words = TruthArg(args, 1, "killwords");
  const Value* end_arg = args.Find(2, "end");
  const Str& end = end_arg == nullptr ? *NewStr(in.arena(), "...") : in.ToStr(*end_arg);
  const Value* leeway_arg = args.Find(3, "leeway");
  const int64_t leeway =
      leeway_arg == nullptr || !leeway_arg->is_integral() ? 5 : leeway_arg->as_int();
  if (length < CharCount(end) || leeway < 0) return in.Fail("truncate: the length is too small");
  if (CharCount(text) <= length + leeway) return Value::String(&text);
  size_t cut = ByteOfChar(text, length - CharCount(end));
  if (!kill_words) {
    const size_t space = text.view().substr(0, cut).rfind(' ');
    if (space != absl::string_view::npos) cut = space;
  }
  Text out(in.arena());
  out.Append(text, 0, cut);
  out.Append(end);
  return out.FinishValue();
}

Value FilterWordcount(Interpreter& in, const Value& self, const Args&) {
  const Str& text = in.ToStr(self);
  int64_t count = 0;
  bool inside = false;
  for (size_t pos = 0; pos < text.size;) {
    const CodePoint c = DecodeAt(text.view(), pos);
    const bool word = IsAlpha(c.value) || IsDigit(c.value) || c.value == '_';
    count += word && !inside;
    inside = word;
    pos += c.length;
  }
  return Value::Int(count);
}

Value FilterFormat(Interpreter& in, const Value& self, const Args& args) {
  Value values = NewList(in.arena(), Kind::kTuple);
  for (const Value& value : args.positional) values.list().Push(in.arena(), value);
  if (!args.named.empty()) {
    if (!args.positional.empty()) {
      return in.Fail("can't handle positional and keyword arguments at the same time");
    }
    values = NewDict(in.arena());
    for (const auto& [name, value] : args.named) {
      values.dict().Set(in.arena(), Value::String(name), value);
    }
  }
  return PercentFormat(in, in.ToStr(self), values);
}

Value FilterUrlencode(Interpreter& in, const Value& self, const Args&) {
  if (!self.is_string() && !self.is_number()) {
    return in.FailWith(absl::StatusCode::kUnimplemented, "urlencode of anything but text");
  }
  const Str& text = in.ToStr(self);
  Text out(in.arena());
  for (size_t i = 0; i < text.size; ++i) {
    const char c = text.data[i];
    if (absl::ascii_isalnum(c) || absl::string_view("_.-~/").find(c) != absl::string_view::npos) {
      out.Append(text, i, i + 1);
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "%%%02X", static_cast<uint8_t>(c));
      out.Append(escaped);
    }
  }
  return out.FinishValue();
}

Value FilterTojson(Interpreter& in, const Value& self, const Args& args) {
  JsonStyle style;
  style.ensure_ascii = TruthArg(args, 0, "ensure_ascii");
  const Value* indent = args.Find(1, "indent");
  if (indent != nullptr && !indent->is_none()) {
    style.indented = true;
    style.item_separator = ",";
    if (indent->is_string()) {
      style.indent = std::string(indent->view());
    } else if (indent->is_integral() && indent->as_int() <= 256) {
      style.indent = std::string(std::max<int64_t>(indent->as_int(), 0), ' ');
    } else {
      return in.Fail("tojson: the indent must be a string or an int up to 256");
    }
  }
  const Value* separators = args.Find(2, "separators");
  if (separators != nullptr && !separators->is_none()) {
    if ((!separators->is_tuple() && !separators->is_list()) || separators->list().size != 2 ||
        !separators->list().items[0].is_string() || !separators->list().items[1].is_string()) {
      return in.Fail("tojson: separators must be two strings");
    }
    style.item_separator = std::string(separators->list().items[0].view());
    style.key_separator = std::string(separators->list().items[1].view());
  }
  style.sort_keys = TruthArg(args, 3, "sort_keys");
  Text out(in.arena());
  AppendJson(in, self, style, out);
  return in.failed() ? Value() : out.FinishValue();
}

constexpr FilterEntry kTextFilters[] = {
    {"capitalize", FilterCapitalize},
    {"center", FilterCenter},
    {"e", FilterEscape},
    {"escape", FilterEscape},
    {"forceescape", FilterForceescape},
    {"format", FilterFormat},
    {"indent", FilterIndent},
    {"lower", FilterLower},
    {"replace", FilterReplace},
    {"safe", FilterSafe},
    {"string", FilterString},
    {"title", FilterTitle},
    {"tojson", FilterTojson},
    {"trim", FilterTrim},
    {"truncate", FilterTruncate},
    {"upper", FilterUpper},
    {"urlencode", FilterUrlencode},
    {"wordcount", FilterWordcount},
};

}  // namespace

absl::Span<const FilterEntry> TextFilters() { return kTextFilters; }

}  // namespace graft::jinja
