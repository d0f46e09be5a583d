// Methods of strings, lists, tuples, dicts and loops.
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {

const Value* Args::Find(size_t index, absl::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key->view() == name) return &value;
  }
  return nullptr;
}

// --- strings, with the origin of every byte kept

Value StripText(Interpreter& in, const Str& text, const Str* chars, bool left, bool right) {
  size_t begin = 0;
  size_t end = text.size;
  const auto stripped = [&](size_t pos) {
    const CodePoint c = DecodeAt(text.view(), pos);
    if (chars == nullptr) return IsSpace(c.value);
    return absl::StrContains(chars->view(), text.view().substr(pos, c.length));
  };
  while (left && begin < end && stripped(begin)) begin += DecodeAt(text.view(), begin).length;
  while (right && begin < end) {
    const size_t last = PreviousChar(text.view(), end);
    if (!stripped(last)) break;
    end = last;
  }
  return SubString(in.arena(), text, begin, end);
}

Value ReplaceText(Interpreter& in, const Str& text, const Str& from, const Str& to, int64_t count) {
  const absl::string_view view = text.view();
  Text out(in.arena());
  size_t pos = 0;
  size_t search = 0;
  while (count != 0) {
    const size_t hit =
        search > view.size() ? absl::string_view::npos : view.find(from.view(), search);
    if (hit == absl::string_view::npos || !in.Charge(1)) break;
    out.Append(text, pos, hit);
    out.Append(to);
    pos = hit + from.size;
    // An empty `from` stands before every character and at the end.
    search = from.size > 0 ? pos : hit < view.size() ? hit + DecodeAt(view, hit).length : hit + 1;
    --count;
  }
  out.Append(text, pos, view.size());
  return out.FinishValue();
}

Value MapText(Interpreter& in, const Str& text, std::string (*map)(absl::string_view)) {
  Text out(in.arena());
  if (text.range_count == 0) {
    out.Append(map(text.view()));
    return out.FinishValue();
  }
  uint32_t pos = 0;
  for (uint32_t i = 0; i < text.range_count; ++i) {
    const Range& range = text.ranges[i];
    out.Append(map(text.view().substr(pos, range.begin - pos)));
    out.Append(map(text.view().substr(range.begin, range.end - range.begin)), range.origin);
    pos = range.end;
  }
  out.Append(map(text.view().substr(pos)));
  return out.FinishValue();
}

Value CapitalizeText(Interpreter& in, const Str& text) {
  if (text.size == 0) return Value::String(&text);
  const size_t first = DecodeAt(text.view(), 0).length;
  const Value head = MapText(in, *SubStr(in.arena(), text, 0, first), ToTitle);
  const Value tail = MapText(in, *SubStr(in.arena(), text, first, text.size), ToLower);
  return in.Add(head, tail);
}

namespace {

// The string argument at `index`; fails where it is missing or of another type.
const Str* StrArg(Interpreter& in, const Args& args, size_t index, absl::string_view name) {
  const Value* value = args.Find(index, name);
  if (value == nullptr) {
    in.Fail(absl::StrCat("missing argument '", name, "'"));
    return nullptr;
  }
  if (!value->is_string()) {
    in.Fail(absl::StrCat("argument '", name, "' must be str, not ", TypeName(*value)));
    return nullptr;
  }
  return &value->str();
}

int64_t IntArg(Interpreter& in, const Args& args, size_t index, absl::string_view name,
               int64_t fallback) {
  const Value* value = args.Find(index, name);
  if (value == nullptr || value->is_none()) return fallback;
  if (!value->is_integral()) {
    in.Fail(absl::StrCat("argument '", name, "' must be int, not ", TypeName(*value)));
    return fallback;
  }
  return value->as_int();
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
    const int64_t start = IntArg(in, args, 1, "start", 0);
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

void PushPiece(Interpreter& in, const Value& list, const Str& text, size_t begin, size_t end) {
  list.list().Push(in.arena(), SubString(in.arena(), text, begin, end));
}

Value SplitWhitespace(Interpreter& in, const Str& text, int64_t limit) {
  const Value list = NewList(in.arena());
  size_t pos = LeadingSpace(text.view());
  while (pos < text.size && in.Charge(1)) {
    if (limit >= 0 && list.list().size == limit) {
      PushPiece(in, list, text, pos, text.size);
      break;
    }
    size_t end = pos;
    while (end < text.size) {
      const CodePoint c = DecodeAt(text.view(), end);
      if (IsSpace(c.value)) break;
      end += c.length;
    }
    PushPiece(in, list, text, pos, end);
    pos = end + LeadingSpace(text.view().substr(end));
  }
  return list;
}

Value RsplitWhitespace(Interpreter& in, const Str& text, int64_t limit) {
  std::vector<std::pair<size_t, size_t>> pieces;
  size_t end = text.size - TrailingSpace(text.view());
  while (end > 0 && in.Charge(1)) {
    if (limit >= 0 && static_cast<int64_t>(pieces.size()) == limit) {
      pieces.emplace_back(0, end);
      break;
    }
    size_t begin = end;
    while (begin > 0) {
      const size_t previous = PreviousChar(text.view(), begin);
      if (IsSpace(DecodeAt(text.view(), previous).value)) break;
      begin = previous;
    }
    pieces.emplace_back(begin, end);
    end = begin - TrailingSpace(text.view().substr(0, begin));
  }
  const Value list = NewList(in.arena());
  for (size_t i = pieces.size(); i-- > 0;) {
    PushPiece(in, list, text, pieces[i].first, pieces[i].second);
  }
  return list;
}

Value StrSplit(Interpreter& in, const Value& self, const Args& args) {
  const Str& text = self.str();
  const int64_t limit = IntArg(in, args, 1, "maxsplit", -1);
  const Value* sep = args.Find(0, "sep");
  if (in.failed()) return Value();
  if (sep == nullptr || sep->is_none()) return SplitWhitespace(in, text, limit);
  if (!sep->is_string()) return in.Fail("must be str or None as separator of split()");
  if (sep->str().size == 0) return in.Fail("empty separator");
  const Value list = NewList(in.arena());
  size_t pos = 0;
  while (limit < 0 || list.list().size < limit) {
    const size_t hit = text.view().find(sep->view(), pos);
    if (hit == absl::string_view::npos || !in.Charge(1)) break;
    PushPiece(in, list, text, pos, hit);
    pos = hit + sep->str().size;
  }
  PushPiece(in, list, text, pos, text.size);
  return list;
}

Value StrRsplit(Interpreter& in, const Value& self, const Args& args) {
  const Str& text = self.str();
  const int64_t limit = IntArg(in, args, 1, "maxsplit", -1);
  const Value* sep = args.Find(0, "sep");
  if (in.failed()) return Value();
  if (sep == nullptr || sep->is_none()) return RsplitWhitespace(in, text, limit);
  if (!sep->is_string()) return in.Fail("must be str or None as separator of rsplit()");
  if (sep->str().size == 0) return in.Fail("empty separator");
  std::vector<std::pair<size_t, size_t>> pieces;
  size_t end = text.size;
  while (limit < 0 || static_cast<int64_t>(pieces.size()) < limit) {
    const size_t hit = text.view().substr(0, end).rfind(sep->view());
    if (hit == absl::string_view::npos || !in.Charge(1)) break;
    pieces.emplace_back(hit + sep->str().size, end);
    end = hit;
  }
  const Value list = NewList(in.arena());
  PushPiece(in, list, text, 0, end);
  for (size_t i = pieces.size(); i-- > 0;) {
    PushPiece(in, list, text, pieces[i].first, pieces[i].second);
  }
  return list;
}

// Bytes of the line break at `pos`, 0 where there is none.
size_t LineBreak(absl::string_view text, size_t pos) {
  const CodePoint c = DecodeAt(text, pos);
  if (c.value == '\r') return pos + 1 < text.size() && text[pos + 1] == '\n' ? 2 : 1;
  const bool breaks = (c.value >= 0x0A && c.value <= 0x0C) ||
                      (c.value >= 0x1C && c.value <= 0x1E) || c.value == 0x85 ||
                      c.value == 0x2028 || c.value == 0x2029;
  return breaks ? c.length : 0;
}

Value StrSplitlines(Interpreter& in, const Value& self, const Args& args) {
  const Value* keep = args.Find(0, "keepends");
  const bool keep_ends = keep != nullptr && Truth(*keep);
  const Str& text = self.str();
  const Value list = NewList(in.arena());
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size && in.Charge(1);) {
    const size_t length = LineBreak(text.view(), pos);
    if (length == 0) {
      pos += DecodeAt(text.view(), pos).length;
      continue;
    }
    PushPiece(in, list, text, begin, keep_ends ? pos + length : pos);
    begin = pos += length;
  }
  if (begin < text.size) PushPiece(in, list, text, begin, text.size);
  return list;
}

Value PartitionAt(Interpreter& in, const Str& text, size_t hit, size_t length, bool from_right) {
  const Value tuple = NewList(in.arena(), Kind::kTuple);
  const Value empty = NewString(in.arena(), "");
  if (hit == absl::string_view::npos) {
    for (int i = 0; i < 3; ++i) {
      tuple.list().Push(in.arena(), i == (from_right ? 2 : 0) ? Value::String(&text) : empty);
    }
    return tuple;
  }
  PushPiece(in, tuple, text, 0, hit);
  PushPiece(in, tuple, text, hit, hit + length);
  PushPiece(in, tuple, text, hit + length, text.size);
  return tuple;
}
Value StrPartition(Interpreter& in, const Value& self, const Args& args) {
  const Str* sep = StrArg(in, args, 0, "sep");
  if (sep == nullptr || sep->size == 0) return in.Fail("empty separator");
  return PartitionAt(in, self.str(), self.view().find(sep->view()), sep->size, false);
}
Value StrRpartition(Interpreter& in, const Value& self, const Args& args) {
  const Str* sep = StrArg(in, args, 0, "sep");
  if (sep == nullptr || sep->size == 0) return in.Fail("empty separator");
  return PartitionAt(in, self.str(), self.view().rfind(sep->view()), sep->size, true);
}

// The index in characters of `sub` inside of [start, end), or -1.
int64_t FindIn(Interpreter& in, const Value& self, const Args& args, bool last) {
  const Str* sub = StrArg(in, args, 0, "sub");
  const Str& text = self.str();
  const int64_t size = CharCount(text);
  int64_t start = IntArg(in, args, 1, "start", 0);
  int64_t end = IntArg(in, args, 2, "end", size);
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

// --- lists and tuples

Value SequenceIndex(Interpreter& in, const Value& self, const Args& args) {
  if (args.positional.empty()) return in.Fail("index expected at least 1 argument");
  const List& list = self.list();
  for (uint32_t i = 0; i < list.size; ++i) {
    if (Equals(list.items[i], args.positional[0])) return Value::Int(i);
  }
  return in.Fail("the value is not in the list");
}
Value SequenceCount(Interpreter& in, const Value& self, const Args& args) {
  if (args.positional.size() != 1) return in.Fail("count() takes exactly one argument");
  const List& list = self.list();
  return Value::Int(std::count_if(list.begin(), list.end(), [&](const Value& value) {
    return Equals(value, args.positional[0]);
  }));
}
Value ListCopy(Interpreter& in, const Value& self, const Args&) {
  const Value copy = NewList(in.arena(), Kind::kList, self.list().size);
  for (const Value& item : self.list()) copy.list().Push(in.arena(), item);
  return copy;
}

// --- dicts

Value View(Interpreter& in, const Dict& dict, const char* name, bool keys, bool values) {
  const Value view = NewList(in.arena(), Kind::kView, dict.size);
  view.list().view_name = name;
  for (const Dict::Entry& entry : dict) {
    if (keys && values) {
      const Value pair = NewList(in.arena(), Kind::kTuple, 2);
      pair.list().Push(in.arena(), entry.key);
      pair.list().Push(in.arena(), entry.value);
      view.list().Push(in.arena(), pair);
    } else {
      view.list().Push(in.arena(), keys ? entry.key : entry.value);
    }
  }
  in.Charge(dict.size);
  return view;
}
Value DictItems(Interpreter& in, const Value& self, const Args&) {
  return View(in, self.dict(), "dict_items", true, true);
}
Value DictKeys(Interpreter& in, const Value& self, const Args&) {
  return View(in, self.dict(), "dict_keys", true, false);
}
Value DictValues(Interpreter& in, const Value& self, const Args&) {
  return View(in, self.dict(), "dict_values", false, true);
}
Value DictGet(Interpreter& in, const Value& self, const Args& args) {
  if (args.positional.empty()) return in.Fail("get expected at least 1 argument");
  const Value* value = self.dict().Find(args.positional[0]);
  if (value != nullptr) return *value;
  return args.positional.size() > 1 ? args.positional[1] : Value::None();
}
Value DictCopy(Interpreter& in, const Value& self, const Args&) {
  const Value copy = NewDict(in.arena());
  for (const Dict::Entry& entry : self.dict()) {
    copy.dict().Set(in.arena(), entry.key, entry.value);
  }
  return copy;
}

// --- loops and cyclers

Value LoopCycle(Interpreter& in, const Value& self, const Args& args) {
  if (args.positional.empty()) return in.Fail("no items for cycling given");
  return args.positional[self.as<LoopState>().index % args.positional.size()];
}
Value LoopChanged(Interpreter& in, const Value& self, const Args& args) {
  auto& loop = self.as<LoopState>();
  List& now = NewList(in.arena()).list();
  for (const Value& value : args.positional) now.Push(in.arena(), value);
  const Value tuple = Value::Object(Kind::kTuple, &now);
  const bool changed = loop.last_changed == nullptr ||
                       !Equals(Value::Object(Kind::kTuple, loop.last_changed), tuple);
  loop.last_changed = &now;
  return Value::Bool(changed);
}
Value CyclerNext(Interpreter&, const Value& self, const Args&) {
  auto& cycler = self.as<CyclerState>();
  const Value item = cycler.items->items[cycler.index];
  cycler.index = (cycler.index + 1) % cycler.items->size;
  return item;
}
Value CyclerReset(Interpreter&, const Value& self, const Args&) {
  self.as<CyclerState>().index = 0;
  return Value::None();
}

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
constexpr MethodEntry kListMethods[] = {
    {"append", nullptr}, {"clear", nullptr},       {"copy", ListCopy},  {"count", SequenceCount},
    {"extend", nullptr}, {"index", SequenceIndex}, {"insert", nullptr}, {"pop", nullptr},
    {"remove", nullptr}, {"reverse", nullptr},     {"sort", nullptr},
};
constexpr MethodEntry kTupleMethods[] = {{"count", SequenceCount}, {"index", SequenceIndex}};
constexpr MethodEntry kDictMethods[] = {
    {"clear", nullptr},  {"copy", DictCopy},     {"get", DictGet},     {"items", DictItems},
    {"keys", DictKeys},  {"pop", nullptr},       {"popitem", nullptr}, {"setdefault", nullptr},
    {"update", nullptr}, {"values", DictValues},
};
constexpr MethodEntry kLoopMethods[] = {{"changed", LoopChanged}, {"cycle", LoopCycle}};
constexpr MethodEntry kCyclerMethods[] = {{"next", CyclerNext}, {"reset", CyclerReset}};

const MethodEntry* FindIn(absl::Span<const MethodEntry> table, absl::string_view name) {
  const auto it = std::lower_bound(
      table.begin(), table.end(), name,
      [](const MethodEntry& entry, absl::string_view wanted) { return entry.name < wanted; });
  return it != table.end() && it->name == name ? &*it : nullptr;
}

}  // namespace

const MethodEntry* FindMethod(const Value& self, absl::string_view name) {
  switch (self.kind()) {
    case Kind::kString:
      return FindIn(kStringMethods, name);
    case Kind::kList:
      return FindIn(kListMethods, name);
    case Kind::kTuple:
      return FindIn(kTupleMethods, name);
    case Kind::kDict:
      return FindIn(kDictMethods, name);
    case Kind::kLoop:
      return FindIn(kLoopMethods, name);
    case Kind::kCycler:
      return FindIn(kCyclerMethods, name);
    default:
      return nullptr;
  }
}

}  // namespace graft::jinja
