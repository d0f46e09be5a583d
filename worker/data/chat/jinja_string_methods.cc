#include "worker/data/chat/jinja_string_methods.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {
namespace {

// A bound of a part of the string, for which Python takes None too.
int64_t BoundArg(Interpreter& in, const Args& args, size_t index, absl::string_view name,
                 int64_t fallback) {
  const Value* value = args.Find(index, name);
  return value != nullptr && value->is_none() ? fallback : IntArg(in, args, index, name, fallback);
}

Value StripWith(Interpreter& in, const Value& self, const Args& args, bool left, bool right) {
  const Value* chars = args.Find(0, "chars");
  if (chars == nullptr || chars->is_none()) return StripText(in, self.str(), nullptr, left, right);
  if (!chars->is_string()) return in.Fail("strip arg must be None or str");
  return StripText(in, self.str(), &chars->str(), left, right);
}
Value StrStrip(Interpreter& in, const Value& self, const Args& args) {
  return StripWith(in, self, args, true, true);
}
Value StrLstrip(Interpreter& in, const Value& self, const Args& args) {
  return StripWith(in, self, args, true, false);
}
Value StrRstrip(Interpreter& in, const Value& self, const Args& args) {
  return StripWith(in, self, args, false, true);
}

Value StrUpper(Interpreter& in, const Value& self, const Args&) {
  return MapText(in, self.str(), ToUpper);
}
Value StrLower(Interpreter& in, const Value& self, const Args&) {
  return MapText(in, self.str(), ToLower);
}
Value StrCapitalize(Interpreter& in, const Value& self, const Args&) {
  return CapitalizeText(in, self.str());
}

// Each word as `first` + `rest` map it; a word is a run of cased characters.
Value StrTitle(Interpreter& in, const Value& self, const Args&) {
  const Str& text = self.str();
  Text out(in.arena());
  bool inside = false;
  for (size_t pos = 0; pos < text.size;) {
    const CodePoint c = DecodeAt(text.view(), pos);
    const Str* one = SubStr(in.arena(), text, pos, pos + c.length);
    out.Append(MapText(in, *one, inside ? ToLower : ToTitle).str());
    inside = IsCased(c.value);
    pos += c.length;
  }
  return out.FinishValue();
}

Value StrSwapcase(Interpreter& in, const Value& self, const Args&) {
  const Str& text = self.str();
  Text out(in.arena());
  for (size_t pos = 0; pos < text.size;) {
    const CodePoint c = DecodeAt(text.view(), pos);
    const Str* one = SubStr(in.arena(), text, pos, pos + c.length);
    out.Append(MapText(in, *one, IsUpper(c.value) ? ToLower : ToUpper).str());
    pos += c.length;
  }
  return out.FinishValue();
}

// str.startswith and endswith: a string, or a tuple of them.
bool MatchesAny(Interpreter& in, const Value& self, const Args& args, bool at_start) {
  if (args.positional.empty()) return in.Fail("missing argument 'prefix'"), false;
  const Value& wanted = args.positional[0];
  const auto matches = [&](const Value& value) {
    if (!value.is_string()) {
      in.Fail(absl::StrCat("first arg must be str or a tuple of str, not ", TypeName(value)));
      return false;
    }
    absl::string_view text = self.view();
    const int64_t size = CharCount(self.str());
    const int64_t start = BoundArg(in, args, 1, "start", 0);
    if (start != 0) {
      const int64_t from = start < 0 ? std::max<int64_t>(start + size, 0) : start;
      if (from > size) return false;
      text = text.substr(ByteOfChar(self.str(), from));
    }
    return at_start ? absl::StartsWith(text, value.view()) : absl::EndsWith(text, value.view());
  };
  if (!wanted.is_tuple()) return matches(wanted);
  return std::any_of(wanted.list().begin(), wanted.list().end(), matches);
}
Value StrStartswith(Interpreter& in, const Value& self, const Args& args) {
  return Value::Bool(MatchesAny(in, self, args, true));
}
Value StrEndswith(Interpreter& in, const Value& self, const Args& args) {
  return Value::Bool(MatchesAny(in, self, args, false));
}

Value StrReplace(Interpreter& in, const Value& self, const Args& args) {
  const Str* from = StrArg(in, args, 0, "old");
  const Str* to = in.failed() ? nullptr : StrArg(in, args, 1, "new");
  const int64_t count = IntArg(in, args, 2, "count", -1);
  if (in.failed()) return Value();
  return ReplaceText(in, self.str(), *from, *to, count);
}

// The index in characters of `sub` inside of [start, end), or -1.
int64_t FindIn(Interpreter& in, const Value& self, const Args& args, bool last) {
  const Str* sub = StrArg(in, args, 0, "sub");
  const Str& text = self.str();
  const int64_t size = CharCount(text);
  int64_t start = BoundArg(in, args, 1, "start", 0);
  int64_t end = BoundArg(in, args, 2, "end", size);
  if (in.failed()) return -1;
  if (start < 0) start = std::max<int64_t>(start + size, 0);
  if (end < 0) end = std::max<int64_t>(end + size, 0);
  end = std::min(end, size);
  if (start > end) return -1;
  const size_t from = ByteOfChar(text, start);
  const absl::string_view part = text.view().substr(from, ByteOfChar(text, end) - from);
  const size_t hit = last ? part.rfind(sub->view()) : part.find(sub->view());
  if (hit == absl::string_view::npos) return -1;
  return start + CharCount(*SubStr(in.arena(), text, from, from + hit));
}
Value StrFind(Interpreter& in, const Value& self, const Args& args) {
  return Value::Int(FindIn(in, self, args, false));
}
Value StrRfind(Interpreter& in, const Value& self, const Args& args) {
  return Value::Int(FindIn(in, self, args, true));
}
Value StrIndex(Interpreter& in, const Value& self, const Args& args) {
  const int64_t index = FindIn(in, self, args, false);
  return index < 0 ? in.Fail("substring not found") : Value::Int(index);
}
Value StrRindex(Interpreter& in, const Value& self, const Args& args) {
  const int64_t index = FindIn(in, self, args, true);
  return index < 0 ? in.Fail("substring not found") : Value::Int(index);
}

Value StrCount(Interpreter& in, const Value& self, const Args& args) {
  const Str* sub = StrArg(in, args, 0, "sub");
  if (sub == nullptr) return Value();
  if (sub->size == 0) return Value::Int(CharCount(self.str()) + 1);
  int64_t count = 0;
  for (size_t pos = self.view().find(sub->view()); pos != absl::string_view::npos;
       pos = self.view().find(sub->view(), pos + sub->size)) {
    ++count;
  }
  return Value::Int(count);
}

Value StrJoin(Interpreter& in, const Value& self, const Args& args) {
  if (args.positional.size() != 1) return in.Fail("join() takes exactly one argument");
  const List* items = in.Items(args.positional[0]);
  if (items == nullptr) return Value();
  Text out(in.arena());
  for (uint32_t i = 0; i < items->size; ++i) {
    if (!items->items[i].is_string()) {
      return in.Fail(absl::StrCat("sequence item ", i, ": expected str instance, ",
                                  TypeName(items->items[i]), " found"));
    }
    if (i > 0) out.Append(self.str());
    out.Append(items->items[i].str());
  }
  return out.FinishValue();
}

Value StrFormat(Interpreter& in, const Value& self, const Args& args) {
  return BraceFormat(in, self.str(), args);
}

Value Removed(Interpreter& in, const Value& self, const Args& args, bool prefix) {
  const Str* part = StrArg(in, args, 0, prefix ? "prefix" : "suffix");
  if (part == nullptr) return Value();
  const Str& text = self.str();
  if (prefix && absl::StartsWith(text.view(), part->view())) {
    return SubString(in.arena(), text, part->size, text.size);
  }
  if (!prefix && part->size > 0 && absl::EndsWith(text.view(), part->view())) {
    return SubString(in.arena(), text, 0, text.size - part->size);
  }
  return self;
}
Value StrRemoveprefix(Interpreter& in, const Value& self, const Args& args) {
  return Removed(in, self, args, true);
}
Value StrRemovesuffix(Interpreter& in, const Value& self, const Args& args) {
  return Removed(in, self, args, false);
}

Value Padded(Interpreter& in, const Value& self, const Args& args, char align) {
  const int64_t width = IntArg(in, args, 0, "width", 0);
  const Value* fill = args.Find(1, "fillchar");
  if (fill != nullptr && (!fill->is_string() || CharCount(fill->str()) != 1)) {
    return in.Fail("The fill character must be exactly one character long");
  }
  const absl::string_view filler = fill != nullptr ? fill->view() : absl::string_view(" ");
  const int64_t pad = width - CharCount(self.str());
  if (in.failed() || pad <= 0) return self;
  // Python's centre: the odd one goes left where the width is odd.
  const int64_t left = align == '>' ? pad : align == '<' ? 0 : pad / 2 + (pad & width & 1);
  Text out(in.arena());
  out.Repeat(filler, left);
  out.Append(self.str());
  out.Repeat(filler, pad - left);
  return out.FinishValue();
}
Value StrLjust(Interpreter& in, const Value& self, const Args& args) {
  return Padded(in, self, args, '<');
}
Value StrRjust(Interpreter& in, const Value& self, const Args& args) {
  return Padded(in, self, args, '>');
}
Value StrCenter(Interpreter& in, const Value& self, const Args& args) {
  return Padded(in, self, args, '^');
}
Value StrZfill(Interpreter& in, const Value& self, const Args& args) {
  const int64_t width = IntArg(in, args, 0, "width", 0);
  const Str& text = self.str();
  const bool sign = text.size > 0 && (text.data[0] == '+' || text.data[0] == '-');
  Text out(in.arena());
  if (sign) out.Append(text, 0, 1);
  out.Repeat("0", width - CharCount(text));
  out.Append(text, sign ? 1 : 0, text.size);
  return out.FinishValue();
}

Value StrExpandtabs(Interpreter& in, const Value& self, const Args& args) {
  const int64_t size = IntArg(in, args, 0, "tabsize", 8);
  const Str& text = self.str();
  Text out(in.arena());
  int64_t column = 0;
  for (size_t pos = 0; pos < text.size;) {
    const CodePoint c = DecodeAt(text.view(), pos);
    if (c.value == '\t') {
      const int64_t pad = size > 0 ? size - column % size : 0;
      out.Repeat(" ", pad);
      column += pad;
    } else {
      out.Append(text, pos, pos + c.length);
      column = c.value == '\n' || c.value == '\r' ? 0 : column + 1;
    }
    pos += c.length;
  }
  return out.FinishValue();
}

// True where the text is not empty and `test` holds for all its characters.
template <typename CharTest>
Value AllChars(const Value& self, CharTest test) {
  const absl::string_view text = self.view();
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeAt(text, pos);
    if (!test(c.value)) return Value::Bool(false);
    pos += c.length;
  }
  return Value::Bool(!text.empty());
}
Value StrIsalpha(Interpreter&, const Value& self, const Args&) { return AllChars(self, IsAlpha); }
Value StrIsdigit(Interpreter&, const Value& self, const Args&) { return AllChars(self, IsDigit); }
Value StrIsspace(Interpreter&, const Value& self, const Args&) { return AllChars(self, IsSpace); }
Value StrIsalnum(Interpreter&, const Value& self, const Args&) {
  return AllChars(self, [](uint32_t c) { return IsAlpha(c) || IsDigit(c); });
}
Value StrIsascii(Interpreter&, const Value& self, const Args&) {
  if (self.str().size == 0) return Value::Bool(true);
  return AllChars(self, [](uint32_t c) { return c < 0x80; });
}
Value StrIsprintable(Interpreter&, const Value& self, const Args&) {
  if (self.str().size == 0) return Value::Bool(true);
  return AllChars(self, IsPrintable);
}

Value AllCased(const Value& self, bool (*wrong)(uint32_t)) {
  bool any = false;
  for (size_t pos = 0; pos < self.str().size;) {
    const CodePoint c = DecodeAt(self.view(), pos);
    if (wrong(c.value)) return Value::Bool(false);
    any = any || IsCased(c.value);
    pos += c.length;
  }
  return Value::Bool(any);
}
Value StrIsupper(Interpreter&, const Value& self, const Args&) { return AllCased(self, IsLower); }
Value StrIslower(Interpreter&, const Value& self, const Args&) { return AllCased(self, IsUpper); }

// Sorted by name.
constexpr MethodEntry kStringMethods[] = {
    {"capitalize", StrCapitalize},
    {"casefold", StrLower},
    {"center", StrCenter},
    {"count", StrCount},
    {"endswith", StrEndswith},
    {"expandtabs", StrExpandtabs},
    {"find", StrFind},
    {"format", StrFormat},
    {"index", StrIndex},
    {"isalnum", StrIsalnum},
    {"isalpha", StrIsalpha},
    {"isascii", StrIsascii},
    {"isdecimal", StrIsdigit},
    {"isdigit", StrIsdigit},
    {"islower", StrIslower},
    {"isnumeric", StrIsdigit},
    {"isprintable", StrIsprintable},
    {"isspace", StrIsspace},
    {"isupper", StrIsupper},
    {"join", StrJoin},
    {"ljust", StrLjust},
    {"lower", StrLower},
    {"lstrip", StrLstrip},
    {"partition", StrPartition},
    {"removeprefix", StrRemoveprefix},
    {"removesuffix", StrRemovesuffix},
    {"replace", StrReplace},
    {"rfind", StrRfind},
    {"rindex", StrRindex},
    {"rjust", StrRjust},
    {"rpartition", StrRpartition},
    {"rsplit", StrRsplit},
    {"rstrip", StrRstrip},
    {"split", StrSplit},
    {"splitlines", StrSplitlines},
    {"startswith", StrStartswith},
    {"strip", StrStrip},
    {"swapcase", StrSwapcase},
    {"title", StrTitle},
    {"upper", StrUpper},
    {"zfill", StrZfill},
};

}  // namespace

absl::Span<const MethodEntry> StringMethods() { return kStringMethods; }

}  // namespace graft::jinja
