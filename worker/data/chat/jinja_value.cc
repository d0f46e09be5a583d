#include "worker/data/chat/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "worker/data/chat/jinja_chars.h"

namespace graft::jinja {

void Arena::NewBlock(size_t bytes) {
  const size_t block = std::max(bytes, kBlockBytes);
  blocks_.emplace_back(new char[block]);
  next_ = blocks_.back().get();
  left_ = block;
}

const Value* Dict::Find(const Value& key) const {
  if (key.is_string()) return Find(key.view());
  for (const Entry& entry : *this) {
    if (Equals(entry.key, key)) return &entry.value;
  }
  return nullptr;
}

void Dict::Set(Arena& arena, const Value& key, const Value& value) {
  if (const Value* old = Find(key); old != nullptr) {
    *const_cast<Value*>(old) = value;
    return;
  }
  Append(arena, key, value);
}

void Text::Mark(size_t begin, size_t end, Origin origin) {
  if (origin == 0 || begin == end) return;
  if (!ranges_.empty() && ranges_.back().end == begin && ranges_.back().origin == origin) {
    ranges_.back().end = static_cast<uint32_t>(end);
  } else {
    ranges_.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end), origin});
  }
}

void Text::Append(absl::string_view text, Origin origin) {
  if (static_cast<int64_t>(text_.size() + text.size()) > arena_->max_text()) {
    arena_->Exhaust();
    return;
  }
  const size_t begin = text_.size();
  text_.append(text.data(), text.size());
  Mark(begin, text_.size(), origin);
}

void Text::Append(const Str& text, size_t begin, size_t end) {
  const size_t base = text_.size();
  Append(text.view().substr(begin, end - begin));
  if (text.range_count == 0 || text_.size() == base) return;
  for (uint32_t i = 0; i < text.range_count; ++i) {
    const Range& range = text.ranges[i];
    const size_t from = std::max<size_t>(range.begin, begin);
    const size_t to = std::min<size_t>(range.end, end);
    if (from < to) Mark(base + from - begin, base + to - begin, range.origin);
  }
}

void Text::Repeat(absl::string_view text, int64_t times) {
  if (times <= 0 || text.empty()) return;
  if (times > arena_->max_text() / static_cast<int64_t>(text.size())) {
    arena_->Exhaust();
    return;
  }
  for (int64_t i = 0; i < times && !arena_->exhausted(); ++i) Append(text);
}

const Str* Text::Finish(bool markup) const {
  auto* str = arena_->New<Str>();
  str->markup = markup;
  if (!arena_->Affords(static_cast<int64_t>(text_.size()))) {
    arena_->Exhaust();
    return str;
  }
  char* data = arena_->NewArray<char>(text_.size());
  std::memcpy(data, text_.data(), text_.size());
  str->data = data;
  str->size = static_cast<uint32_t>(text_.size());
  if (!ranges_.empty()) {
    auto* ranges = arena_->NewArray<Range>(ranges_.size());
    std::memcpy(static_cast<void*>(ranges), ranges_.data(), ranges_.size() * sizeof(Range));
    str->ranges = ranges;
    str->range_count = static_cast<uint32_t>(ranges_.size());
  }
  return str;
}

const Str* JoinStrs(Arena& arena, absl::Span<const Str* const> pieces) {
  auto* str = arena.New<Str>();
  size_t size = 0, ranges = 0;
  for (const Str* piece : pieces) {
    size += piece->size;
    ranges += piece->range_count;
  }
  const auto bytes = static_cast<int64_t>(size + ranges * sizeof(Range));
  if (static_cast<int64_t>(size) > arena.max_text() || !arena.Affords(bytes)) {
    arena.Exhaust();
    return str;
  }
  char* text = arena.NewArray<char>(size);
  Range* const first = arena.NewArray<Range>(ranges);
  Range* last = first;  // one behind
  for (const Str* piece : pieces) {
    if (piece->size > 0) std::memcpy(text + str->size, piece->data, piece->size);
    for (uint32_t i = 0; i < piece->range_count; ++i) {
      const Range range = {str->size + piece->ranges[i].begin, str->size + piece->ranges[i].end,
                           piece->ranges[i].origin};
      if (last != first && last[-1].end == range.begin && last[-1].origin == range.origin) {
        last[-1].end = range.end;
      } else {
        *last++ = range;
      }
    }
    str->size += piece->size;
  }
  str->data = text;
  str->ranges = first;
  str->range_count = static_cast<uint32_t>(last - first);
  return str;
}

const Str* NewStr(Arena& arena, absl::string_view text) {
  Text copy(arena);
  copy.Append(text);
  return copy.Finish();
}

const Str* SubStr(Arena& arena, const Str& text, size_t begin, size_t end) {
  auto* str = arena.New<Str>();
  str->data = text.data + begin;
  str->size = static_cast<uint32_t>(end - begin);
  str->markup = text.markup;
  if (text.range_count == 0) return str;
  auto* ranges = arena.NewArray<Range>(text.range_count);
  uint32_t count = 0;
  for (uint32_t i = 0; i < text.range_count; ++i) {
    const size_t from = std::max<size_t>(text.ranges[i].begin, begin);
    const size_t to = std::min<size_t>(text.ranges[i].end, end);
    if (from >= to) continue;
    ranges[count++] = {static_cast<uint32_t>(from - begin), static_cast<uint32_t>(to - begin),
                       text.ranges[i].origin};
  }
  str->ranges = ranges;
  str->range_count = count;
  return str;
}

Value NewList(Arena& arena, Kind kind, size_t capacity) {
  auto* list = arena.New<List>();
  if (capacity > 0 && arena.Affords(static_cast<int64_t>(capacity * sizeof(Value)))) {
    list->items = arena.NewArray<Value>(capacity);
    list->capacity = static_cast<uint32_t>(capacity);
  }
  return Value::Object(kind, list);
}

int64_t CharCount(const Str& text) {
  if (text.chars < 0) {
    int32_t count = 0;
    for (uint32_t i = 0; i < text.size; ++i) count += (text.data[i] & 0xC0) != 0x80;
    text.chars = count;
  }
  return text.chars;
}

size_t ByteOfChar(const Str& text, int64_t index) {
  if (CharCount(text) == text.size) return static_cast<size_t>(index);
  size_t pos = 0;
  // A stray continuation byte before the first lead byte belongs to no character.
  for (int64_t seen = -1; pos < text.size; ++pos) {
    if ((text.data[pos] & 0xC0) != 0x80 && ++seen == index) return pos;
  }
  return pos;
}

bool TruthOfOther(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.as_int() != 0;
    case Kind::kFloat:
      return value.as_float() != 0;
    case Kind::kString:
      return value.str().size > 0;
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
    case Kind::kRange:
      return value.list().size > 0;
    case Kind::kDict:
      return value.dict().size > 0;
    default:
      return true;
  }
}

namespace {

bool SameKindOfList(const Value& a, const Value& b) {
  return a.kind() == b.kind() && (a.is_list() || a.is_tuple() || a.kind() == Kind::kRange);
}

bool EqualItems(const List& a, const List& b, int depth) {
  if (a.size != b.size) return false;
  for (uint32_t i = 0; i < a.size; ++i) {
    if (!Equals(a.items[i], b.items[i], depth + 1)) return false;
  }
  return true;
}

bool EqualDicts(const Dict& a, const Dict& b, int depth) {
  if (a.size != b.size) return false;
  for (const Dict::Entry& entry : a) {
    const Value* other = b.Find(entry.key);
    if (other == nullptr || !Equals(entry.value, *other, depth + 1)) return false;
  }
  return true;
}

}  // namespace

bool EqualOthers(const Value& a, const Value& b, int depth) {
  if (depth > kMaxValueDepth) return false;
  if (a.is_integral() && b.is_integral()) return a.as_int() == b.as_int();
  if (a.is_number() && b.is_number()) return a.as_float() == b.as_float();
  if (SameKindOfList(a, b)) return EqualItems(a.list(), b.list(), depth);
  if (a.is_dict() && b.is_dict()) return EqualDicts(a.dict(), b.dict(), depth);
  if (a.kind() != b.kind()) return false;
  if (a.is_undefined() || a.is_none()) return true;
  return !a.is_string() && a.hint() == b.hint();  // the same object
}

int Compare(const Value& a, const Value& b, bool* ok, int depth) {
  if (a.is_integral() && b.is_integral()) {
    return a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int();
  }
  if (a.is_number() && b.is_number()) {
    return a.as_float() < b.as_float() ? -1 : a.as_float() > b.as_float();
  }
  if (a.is_string() && b.is_string()) return a.view().compare(b.view());
  if (depth < kMaxValueDepth && a.kind() == b.kind() && (a.is_list() || a.is_tuple())) {
    const List& x = a.list();
    const List& y = b.list();
    for (uint32_t i = 0; i < std::min(x.size, y.size); ++i) {
      if (Equals(x.items[i], y.items[i])) continue;
      return Compare(x.items[i], y.items[i], ok, depth + 1);
    }
    return x.size < y.size ? -1 : x.size > y.size;
  }
  *ok = false;
  return 0;
}

absl::string_view TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kView:
      return value.list().view_name;
    case Kind::kGenerator:
      return "generator";
    case Kind::kRange:
      return "range";
    case Kind::kNamespace:
      return "namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kMacro:
      return "Macro";
    case Kind::kFunction:
    case Kind::kMethod:
      return "function";
    case Kind::kJoiner:
      return "Joiner";
    case Kind::kCycler:
      return "Cycler";
  }
  return "object";
}

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string text(buffer, end.ptr);
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  if (exponent >= -4 && exponent < 16) {
    const auto fixed =
        std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed);
    std::string out(buffer, fixed.ptr);
    return out.find('.') == std::string::npos ? out + ".0" : out;
  }
  return text;
}

namespace {

void AppendStrRepr(const Str& text, Text& out) {
  const absl::string_view view = text.view();
  const bool single = view.find('\'') == absl::string_view::npos;
  const bool has_double = view.find('"') != absl::string_view::npos;
  const char quote = single || has_double ? '\'' : '"';
  out.Append(quote);
  for (size_t pos = 0; pos < view.size();) {
    const CodePoint c = DecodeAt(view, pos);
    char escaped[16];
    if (c.value == static_cast<uint32_t>(quote) || c.value == '\\') {
      out.Append('\\');
      out.Append(text, pos, pos + 1);
    } else if (c.value == '\n' || c.value == '\r' || c.value == '\t') {
      out.Append(c.value == '\n' ? "\\n" : c.value == '\r' ? "\\r" : "\\t");
    } else if (IsPrintable(c.value)) {
      out.Append(text, pos, pos + c.length);
    } else {
      const char* format = c.value < 0x100 ? "\\x%02x" : c.value < 0x10000 ? "\\u%04x" : "\\U%08x";
      std::snprintf(escaped, sizeof(escaped), format, c.value);
      out.Append(escaped);
    }
    pos += c.length;
  }
  out.Append(quote);
}

void AppendItems(const List& list, absl::string_view open, absl::string_view close, Text& out,
                 int depth) {
  out.Append(open);
  for (uint32_t i = 0; i < list.size; ++i) {
    if (i > 0) out.Append(", ");
    AppendRepr(list.items[i], out, depth + 1);
  }
  out.Append(close);
}

void AppendDict(const Dict& dict, Text& out, int depth) {
  out.Append('{');
  for (uint32_t i = 0; i < dict.size; ++i) {
    if (i > 0) out.Append(", ");
    AppendRepr(dict.entries[i].key, out, depth + 1);
    out.Append(": ");
    AppendRepr(dict.entries[i].value, out, depth + 1);
  }
  out.Append('}');
}

void AppendRange(const List& list, Text& out) {
  const int64_t first = list.size > 0 ? list.items[0].as_int() : 0;
  const int64_t step = list.size > 1 ? list.items[1].as_int() - first : 1;
  const int64_t stop = list.size > 0 ? list.items[list.size - 1].as_int() + (step > 0 ? 1 : -1) : 0;
  out.Append("range(" + std::to_string(first) + ", " + std::to_string(stop));
  out.Append(step == 1 ? ")" : ", " + std::to_string(step) + ")");
}

}  // namespace

void AppendRepr(const Value& value, Text& out, int depth) {
  if (depth > kMaxValueDepth || out.arena().exhausted()) return out.Append("...");
  switch (value.kind()) {
    case Kind::kUndefined:
      return out.Append("Undefined");
    case Kind::kNone:
      return out.Append("None", value.origin());
    case Kind::kBool:
      return out.Append(value.as_bool() ? "True" : "False", value.origin());
    case Kind::kInt:
      return out.Append(std::to_string(value.as_int()), value.origin());
    case Kind::kFloat:
      return out.Append(FloatRepr(value.as_float()), value.origin());
    case Kind::kString:
      return AppendStrRepr(value.str(), out);
    case Kind::kList:
      return AppendItems(value.list(), "[", "]", out, depth);
    case Kind::kTuple:
      return AppendItems(value.list(), "(", value.list().size == 1 ? ",)" : ")", out, depth);
    case Kind::kView:
      return AppendItems(value.list(), std::string(value.list().view_name) + "([", "])", out,
                         depth);
    case Kind::kDict:
      return AppendDict(value.dict(), out, depth);
    case Kind::kRange:
      return AppendRange(value.list(), out);
    case Kind::kNamespace:
      out.Append("<Namespace ");
      AppendDict(value.dict(), out, depth);
      return out.Append('>');
    default:
      // Python prints an address here, which no template can mean.
      out.Append('<');
      out.Append(TypeName(value));
      return out.Append(" object>");
  }
}

void AppendStr(const Value& value, Text& out) {
  if (value.is_string()) return out.Append(value.str());
  if (value.is_undefined()) return;
  AppendRepr(value, out);
}

}  // namespace graft::jinja
