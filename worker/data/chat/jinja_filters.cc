// The filters. Names and arguments as jinja2's; tojson as Hugging Face's.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {
namespace {

bool TruthArg(const Args& args, size_t index, absl::string_view name, bool fallback = false) {
  const Value* value = args.Find(index, name);
  return value == nullptr ? fallback : Truth(*value);
}

int64_t IntArg(Interpreter& in, const Args& args, size_t index, absl::string_view name,
               int64_t fallback) {
  const Value* value = args.Find(index, name);
  if (value == nullptr) return fallback;
  if (!value->is_integral()) {
    in.Fail(absl::StrCat("argument '", name, "' must be int, not ", TypeName(*value)));
    return fallback;
  }
  return value->as_int();
}

// --- attributes by path: "address.city", 0, or absent (the item itself)

class AttributePath {
 public:
  AttributePath(Interpreter& in, const Value* attribute, const Value* fallback = nullptr)
      : in_(in), fallback_(fallback) {
    if (attribute == nullptr || attribute->is_none()) return;
    if (!attribute->is_string()) {
      parts_.push_back(*attribute);
      return;
    }
    for (const absl::string_view part : absl::StrSplit(attribute->view(), '.')) {
      int64_t index;
      const bool digits =
          !part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit);
      parts_.push_back(digits && absl::SimpleAtoi(part, &index) ? Value::Int(index)
                                                                : NewString(in.arena(), part));
    }
  }

  Value Get(Value item) const {
    for (const Value& part : parts_) {
      item = in_.Item(item, part);
      if (in_.failed()) return Value();
      if (item.is_undefined() && fallback_ != nullptr && !fallback_->is_none()) item = *fallback_;
    }
    return item;
  }

 private:
  Interpreter& in_;
  const Value* fallback_;
  std::vector<Value> parts_;
};

Value FoldCase(Interpreter& in, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) return value;
  return NewString(in.arena(), ToLower(value.view()));
}

// --- text

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

// --- numbers

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

// --- sequences

Value FilterLength(Interpreter& in, const Value& self, const Args&) {
  switch (self.kind()) {
    case Kind::kString:
      return Value::Int(CharCount(self.str()));
    case Kind::kDict:
      return Value::Int(self.dict().size);
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
    case Kind::kRange:
      return Value::Int(self.list().size);
    case Kind::kUndefined:
      return Value::Int(0);
    case Kind::kLoop:
      return Value::Int(self.as<LoopState>().items->size);
    default:
      return in.Fail(absl::StrCat("object of type '", TypeName(self), "' has no len()"));
  }
}

Value FilterFirst(Interpreter& in, const Value& self, const Args&) {
  if (self.kind() == Kind::kGenerator) {
    // next() of a generator takes one item and leaves the rest.
    List& list = self.list();
    if (list.consumed || list.size == 0) return Value();
    const Value first = list.items[0];
    ++list.items;
    --list.size;
    list.capacity = list.size;
    return first;
  }
  const List* items = in.Items(self);
  return items == nullptr || items->size == 0 ? Value() : items->items[0];
}
Value FilterLast(Interpreter& in, const Value& self, const Args&) {
  if (self.kind() == Kind::kGenerator) {
    return in.Fail("'generator' object is not reversible");
  }
  const List* items = in.Items(self);
  return items == nullptr || items->size == 0 ? Value() : items->items[items->size - 1];
}

Value FilterList(Interpreter& in, const Value& self, const Args&) {
  const List* items = in.Items(self);
  if (items == nullptr) return Value();
  const Value copy = NewList(in.arena(), Kind::kList, items->size);
  for (const Value& item : *items) copy.list().Push(in.arena(), item);
  return copy;
}

Value FilterReverse(Interpreter& in, const Value& self, const Args&) {
  const List* items = in.Items(self);
  if (items == nullptr) return Value();
  if (self.is_string()) {
    Text out(in.arena());
    for (uint32_t i = items->size; i-- > 0;) out.Append(items->items[i].str());
    return out.FinishValue();
  }
  // reversed() of a sequence is an iterator, of anything else a list.
  const bool lazy = self.is_list() || self.is_tuple() || self.is_dict() || self.has_items();
  const Value out =
      NewList(in.arena(), lazy && self.kind() != Kind::kGenerator ? Kind::kGenerator : Kind::kList,
              items->size);
  for (uint32_t i = items->size; i-- > 0;) out.list().Push(in.arena(), items->items[i]);
  return out;
}

Value FilterJoin(Interpreter& in, const Value& self, const Args& args) {
  const Value* separator = args.Find(0, "d");
  const AttributePath path(in, args.Find(1, "attribute"));
  const List* items = in.Items(self);
  if (items == nullptr) return Value();
  Text out(in.arena());
  for (uint32_t i = 0; i < items->size && in.Charge(1); ++i) {
    if (i > 0 && separator != nullptr) AppendStr(*separator, out);
    AppendStr(path.Get(items->items[i]), out);
  }
  return in.failed() ? Value() : out.FinishValue();
}

Value FilterItems(Interpreter& in, const Value& self, const Args&) {
  if (self.is_undefined()) return NewList(in.arena(), Kind::kGenerator);
  if (!self.is_dict()) return in.Fail("Can only get item pairs from a mapping.");
  const Value view = FindMethod(self, "items")->run(in, self, Args{});
  return Value::Object(Kind::kGenerator, &view.list());
}

bool SortValues(Interpreter& in, std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  bool ok = true;
  const auto less = [&](const auto& a, const auto& b) {
    return ok && (reverse ? Compare(b.first, a.first, &ok) : Compare(a.first, b.first, &ok)) < 0;
  };
  in.Charge(static_cast<int64_t>(keyed.size()) * 8);
  // Python compares every item at least once, so values without order never pass.
  for (size_t i = 1; i < keyed.size() && ok; ++i) Compare(keyed[i - 1].first, keyed[i].first, &ok);
  if (ok) std::stable_sort(keyed.begin(), keyed.end(), less);
  if (!ok) in.Fail("sort: the values have no order");
  return ok;
}

Value FilterSort(Interpreter& in, const Value& self, const Args& args) {
  const bool reverse = TruthArg(args, 0, "reverse");
  const bool case_sensitive = TruthArg(args, 1, "case_sensitive");
  const Value* attribute = args.Find(2, "attribute");
  std::vector<AttributePath> paths;
  if (attribute != nullptr && attribute->is_string()) {
    for (const absl::string_view part : absl::StrSplit(attribute->view(), ',')) {
      const Value one = NewString(in.arena(), part);
      paths.emplace_back(in, &one);
    }
  } else {
    paths.emplace_back(in, attribute);
  }
  const List* items = in.Items(self);
  if (items == nullptr) return Value();
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : *items) {
    const Value key = NewList(in.arena());
    for (const AttributePath& path : paths) {
      key.list().Push(in.arena(), FoldCase(in, path.Get(item), case_sensitive));
    }
    keyed.emplace_back(key, item);
  }
  if (in.failed() || !SortValues(in, keyed, reverse)) return Value();
  const Value out = NewList(in.arena());
  for (const auto& [key, item] : keyed) out.list().Push(in.arena(), item);
  return out;
}

Value FilterDictsort(Interpreter& in, const Value& self, const Args& args) {
  const bool case_sensitive = TruthArg(args, 0, "case_sensitive");
  const Value* by = args.Find(1, "by");
  const bool by_value = by != nullptr && by->is_string() && by->view() == "value";
  if (by != nullptr && !by_value && !(by->is_string() && by->view() == "key")) {
    return in.Fail("You can only sort by either \"key\" or \"value\"");
  }
  if (!self.is_dict()) {
    return self.is_undefined() ? in.FailUndefined(self) : in.Fail("dictsort needs a mapping");
  }
  std::vector<std::pair<Value, Value>> keyed;
  const Value pairs = FindMethod(self, "items")->run(in, self, Args{});
  for (const Value& pair : pairs.list()) {
    keyed.emplace_back(FoldCase(in, pair.list().items[by_value ? 1 : 0], case_sensitive), pair);
  }
  if (!SortValues(in, keyed, TruthArg(args, 2, "reverse"))) return Value();
  const Value out = NewList(in.arena());
  for (const auto& [key, pair] : keyed) out.list().Push(in.arena(), pair);
  return out;
}

Value FilterUnique(Interpreter& in, const Value& self, const Args& args) {
  const bool case_sensitive = TruthArg(args, 0, "case_sensitive");
  const AttributePath path(in, args.Find(1, "attribute"));
  const List* items = in.Items(self);
  if (items == nullptr) return Value();
  std::vector<Value> seen;
  const Value out = NewList(in.arena(), Kind::kGenerator);
  for (const Value& item : *items) {
    const Value key = FoldCase(in, path.Get(item), case_sensitive);
    if (!in.Charge(1 + static_cast<int64_t>(seen.size()) / 8)) return Value();
    if (key.is_list() || key.is_dict()) {
      return in.Fail(absl::StrCat("unhashable type: '", TypeName(key), "'"));
    }
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& v) { return Equals(v, key); })) {
      continue;
    }
    seen.push_back(key);
    out.list().Push(in.arena(), item);
  }
  return out;
}

Value Extreme(Interpreter& in, const Value& self, const Args& args, bool largest) {
  const bool case_sensitive = TruthArg(args, 0, "case_sensitive");
  const AttributePath path(in, args.Find(1, "attribute"));
  const List* items = in.Items(self);
  if (items == nullptr || items->size == 0) return Value();
  Value best = items->items[0];
  Value best_key = FoldCase(in, path.Get(best), case_sensitive);
  for (uint32_t i = 1; i < items->size && !in.failed(); ++i) {
    const Value key = FoldCase(in, path.Get(items->items[i]), case_sensitive);
    bool ok = true;
    const int order = Compare(key, best_key, &ok);
    if (!ok) return in.Fail("min and max: the values have no order");
    if (largest ? order > 0 : order < 0) {
      best = items->items[i];
      best_key = key;
    }
  }
  return best;
}
Value FilterMin(Interpreter& in, const Value& self, const Args& args) {
  return Extreme(in, self, args, false);
}
Value FilterMax(Interpreter& in, const Value& self, const Args& args) {
  return Extreme(in, self, args, true);
}

Value FilterSum(Interpreter& in, const Value& self, const Args& args) {
  const AttributePath path(in, args.Find(0, "attribute"));
  const Value* start = args.Find(1, "start");
  const List* items = in.Items(self);
  if (items == nullptr) return Value();
  Value total = start == nullptr ? Value::Int(0) : *start;
  if (total.is_string()) return in.Fail("sum() can't sum strings");
  for (const Value& item : *items) {
    total = in.Add(total, path.Get(item));
    if (in.failed()) return Value();
  }
  return total;
}

Value FilterBatch(Interpreter& in, const Value& self, const Args& args) {
  const int64_t count = IntArg(in, args, 0, "linecount", 0);
  const Value* fill = args.Find(1, "fill_with");
  const List* items = in.Items(self);
  if (items == nullptr || in.failed()) return Value();
  const Value out = NewList(in.arena(), Kind::kGenerator);
  Value row = NewList(in.arena());
  for (const Value& item : *items) {
    if (row.list().size == count) {
      out.list().Push(in.arena(), row);
      row = NewList(in.arena());
    }
    row.list().Push(in.arena(), item);
  }
  if (row.list().size == 0) return out;
  while (fill != nullptr && !fill->is_none() && row.list().size < count && in.Charge(1)) {
    row.list().Push(in.arena(), *fill);
  }
  out.list().Push(in.arena(), row);
  return out;
}

Value FilterSlice(Interpreter& in, const Value& self, const Args& args) {
  const int64_t slices = IntArg(in, args, 0, "slices", 0);
  const Value* fill = args.Find(1, "fill_with");
  const List* items = in.Items(self);
  if (items == nullptr || in.failed()) return Value();
  if (slices <= 0 || slices > 100000) return in.Fail("slice: the number of slices is out of range");
  const int64_t each = items->size / slices;
  const int64_t extra = items->size % slices;
  const Value out = NewList(in.arena(), Kind::kGenerator);
  int64_t next = 0;
  for (int64_t i = 0; i < slices; ++i) {
    const Value part = NewList(in.arena());
    const int64_t end = next + each + (i < extra ? 1 : 0);
    for (; next < end; ++next) part.list().Push(in.arena(), items->items[next]);
    if (fill != nullptr && !fill->is_none() && i >= extra) part.list().Push(in.arena(), *fill);
    out.list().Push(in.arena(), part);
  }
  return out;
}

Value FilterGroupby(Interpreter& in, const Value& self, const Args& args) {
  const Value* attribute = args.Find(0, "attribute");
  const Value* fallback = args.Find(1, "default");
  const bool case_sensitive = TruthArg(args, 2, "case_sensitive");
  const AttributePath path(in, attribute, fallback);
  const List* items = in.Items(self);
  if (items == nullptr) return Value();
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : *items) {
    keyed.emplace_back(FoldCase(in, path.Get(item), case_sensitive), item);
  }
  if (in.failed() || !SortValues(in, keyed, false)) return Value();
  const Value out = NewList(in.arena());
  Value members;
  for (size_t i = 0; i < keyed.size(); ++i) {
    if (i == 0 || !Equals(keyed[i - 1].first, keyed[i].first)) {
      members = NewList(in.arena());
      const Value group = NewList(in.arena(), Kind::kTuple, 2);
      group.list().Push(in.arena(), path.Get(keyed[i].second));
      group.list().Push(in.arena(), members);
      out.list().Push(in.arena(), group);
    }
    members.list().Push(in.arena(), keyed[i].second);
  }
  return out;
}

// --- filters over filters and tests

Value FilterMap(Interpreter& in, const Value& self, const Args& args) {
  const List* items = in.Items(self);
  if (items == nullptr) return Value();
  const Value out = NewList(in.arena(), Kind::kGenerator, items->size);
  if (args.positional.empty()) {
    const Value* attribute = args.Find(0, "attribute");
    if (attribute == nullptr) return in.Fail("map requires a filter argument");
    const AttributePath path(in, attribute, args.Find(1, "default"));
    for (const Value& item : *items) out.list().Push(in.arena(), path.Get(item));
    return out;
  }
  const Value& name = args.positional[0];
  const FilterEntry* filter = name.is_string() ? FindFilter(name.view()) : nullptr;
  if (filter == nullptr)
    return in.Fail(absl::StrCat("no filter named '", in.ToStr(name).view(), "'"));
  const Args rest{args.positional.subspan(1), args.named};
  for (const Value& item : *items) {
    if (!in.Charge(1)) return Value();
    out.list().Push(in.arena(), filter->run(in, item, rest));
  }
  return out;
}

Value Select(Interpreter& in, const Value& self, const Args& args, bool wanted, bool by_attribute) {
  if (!Truth(self)) return NewList(in.arena(), Kind::kGenerator);
  const size_t off = by_attribute ? 1 : 0;
  if (args.positional.size() < off) return in.Fail("Missing parameter for attribute name");
  const AttributePath path(in, by_attribute ? &args.positional[0] : nullptr);
  const TestEntry* test = nullptr;
  Args rest;
  if (args.positional.size() > off) {
    const Value& name = args.positional[off];
    test = name.is_string() ? FindTest(name.view()) : nullptr;
    if (test == nullptr) {
      return in.Fail(absl::StrCat("no test named '", in.ToStr(name).view(), "'"));
    }
    rest = Args{args.positional.subspan(off + 1), args.named};
  }
  const List* items = in.Items(self);
  if (items == nullptr) return Value();
  const Value out = NewList(in.arena(), Kind::kGenerator);
  for (const Value& item : *items) {
    if (!in.Charge(1)) return Value();
    const Value value = path.Get(item);
    if (in.failed()) return Value();
    if ((test == nullptr ? Truth(value) : test->run(in, value, rest)) == wanted) {
      out.list().Push(in.arena(), item);
    }
  }
  return out;
}
Value FilterSelect(Interpreter& in, const Value& self, const Args& args) {
  return Select(in, self, args, true, false);
}
Value FilterReject(Interpreter& in, const Value& self, const Args& args) {
  return Select(in, self, args, false, false);
}
Value FilterSelectattr(Interpreter& in, const Value& self, const Args& args) {
  return Select(in, self, args, true, true);
}
Value FilterRejectattr(Interpreter& in, const Value& self, const Args& args) {
  return Select(in, self, args, false, true);
}

// --- the rest

Value FilterDefault(Interpreter& in, const Value& self, const Args& args) {
  const bool boolean = TruthArg(args, 1, "boolean");
  if (!self.is_undefined() && !(boolean && !Truth(self))) return self;
  const Value* fallback = args.Find(0, "default_value");
  return fallback == nullptr ? NewString(in.arena(), "") : *fallback;
}

Value FilterAttr(Interpreter& in, const Value& self, const Args& args) {
  if (args.positional.empty() || !args.positional[0].is_string()) {
    return in.Fail("attr needs a name");
  }
  if (self.is_dict() && FindMethod(self, args.positional[0].view()) == nullptr) {
    return Value::Undefined(&args.positional[0].str());
  }
  return in.Attr(self, args.positional[0].str());
}

// Sorted by name.
constexpr FilterEntry kFilters[] = {
    {"abs", FilterAbs},
    {"attr", FilterAttr},
    {"batch", FilterBatch},
    {"capitalize", FilterCapitalize},
    {"center", FilterCenter},
    {"count", FilterLength},
    {"d", FilterDefault},
    {"default", FilterDefault},
    {"dictsort", FilterDictsort},
    {"e", FilterEscape},
    {"escape", FilterEscape},
    {"first", FilterFirst},
    {"float", FilterFloat},
    {"forceescape", FilterForceescape},
    {"format", FilterFormat},
    {"groupby", FilterGroupby},
    {"indent", FilterIndent},
    {"int", FilterInt},
    {"items", FilterItems},
    {"join", FilterJoin},
    {"last", FilterLast},
    {"length", FilterLength},
    {"list", FilterList},
    {"lower", FilterLower},
    {"map", FilterMap},
    {"max", FilterMax},
    {"min", FilterMin},
    {"reject", FilterReject},
    {"rejectattr", FilterRejectattr},
    {"replace", FilterReplace},
    {"reverse", FilterReverse},
    {"round", FilterRound},
    {"safe", FilterSafe},
    {"select", FilterSelect},
    {"selectattr", FilterSelectattr},
    {"slice", FilterSlice},
    {"sort", FilterSort},
    {"string", FilterString},
    {"sum", FilterSum},
    {"title", FilterTitle},
    {"tojson", FilterTojson},
    {"trim", FilterTrim},
    {"truncate", FilterTruncate},
    {"unique", FilterUnique},
    {"upper", FilterUpper},
    {"urlencode", FilterUrlencode},
    {"wordcount", FilterWordcount},
};

}  // namespace

const FilterEntry* FindFilter(absl::string_view name) {
  const auto* it = std::lower_bound(
      std::begin(kFilters), std::end(kFilters), name,
      [](const FilterEntry& entry, absl::string_view wanted) { return entry.name < wanted; });
  return it != std::end(kFilters) && it->name == name ? it : nullptr;
}

}  // namespace graft::jinja
