// The values a template computes with, and the arena they live in.
//
// Everything made during one rendering is bump-allocated from its Arena and freed with it: values
// are 16 bytes, trivially copyable and never counted. Constants of the compiled template live in
// the arena of the program and are shared read-only by all renderings.
//
// Every string knows which of its bytes stem from which message (`Origin`): the ranges travel
// through concatenation, slicing, trimming and tojson, and end in the output. That is how the bytes
// written by the assistant are known for templates that do not say so themselves.
//
// Hazards: an arena has a budget. When it is spent, allocation goes on for small objects but
// exhausted() turns true, text stops growing, and the interpreter stops at its next step.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace graft::jinja {

// 0: the template itself; otherwise 1 + the index of a message.
using Origin = uint32_t;

struct Range {
  uint32_t begin = 0;
  uint32_t end = 0;
  Origin origin = 0;
};

class Arena {
 public:
  explicit Arena(int64_t max_bytes, int64_t max_text_bytes)
      : budget_(max_bytes), max_text_(max_text_bytes) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  void* Allocate(size_t bytes) {
    bytes = (bytes + 15) & ~size_t{15};
    budget_ -= static_cast<int64_t>(bytes);
    if (budget_ < 0) exhausted_ = true;
    if (bytes > left_) NewBlock(bytes);
    char* result = next_;
    next_ += bytes;
    left_ -= bytes;
    return result;
  }
  template <typename T>
  T* New() {
    static_assert(std::is_trivially_destructible_v<T>);
    return new (Allocate(sizeof(T))) T();
  }
  template <typename T>
  T* NewArray(size_t count) {
    return static_cast<T*>(Allocate(sizeof(T) * count));
  }

  bool exhausted() const { return exhausted_; }
  void Exhaust() { exhausted_ = true; }
  // The longest string that may be made.
  int64_t max_text() const { return max_text_; }
  // Whether `bytes` more still fit.
  bool Affords(int64_t bytes) const { return !exhausted_ && bytes <= budget_; }

 private:
  static constexpr size_t kBlockBytes = 32 << 10;
  void NewBlock(size_t bytes);

  std::vector<std::unique_ptr<char[]>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
  int64_t budget_;
  int64_t max_text_;
  bool exhausted_ = false;
};

// Whether two texts are the same. Names and roles are short, and there a call of memcmp costs more
// than the comparison.
inline bool SameText(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  if (a.size() > 16) return std::memcmp(a.data(), b.data(), a.size()) == 0;
  const auto same = [&](size_t at, auto word) {
    auto other = word;
    std::memcpy(&word, a.data() + at, sizeof(word));
    std::memcpy(&other, b.data() + at, sizeof(other));
    return word == other;
  };
  if (a.size() >= 8) return same(0, uint64_t{}) && same(a.size() - 8, uint64_t{});
  if (a.size() >= 4) return same(0, uint32_t{}) && same(a.size() - 4, uint32_t{});
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i]) return false;
  }
  return true;
}

struct Str {
  const char* data = nullptr;
  uint32_t size = 0;
  uint32_t range_count = 0;
  const Range* ranges = nullptr;
  // Code points; -1: not counted yet. Constants are counted when they are made.
  mutable int32_t chars = -1;
  // Made by |safe or |escape: what is added to it is escaped first.
  bool markup = false;

  absl::string_view view() const { return absl::string_view(data, size); }
};

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kView,       // dict.keys(), values(), items(): sized, not indexable
  kGenerator,  // what map, select, items, ... give: runs once, has no length
  kRange,
  kNamespace,
  kLoop,
  kMacro,
  kFunction,
  kMethod,
  kJoiner,
  kCycler,
};

struct List;
struct Dict;
struct LoopState;
struct MacroObject;
struct FunctionEntry;
struct BoundMethod;
struct CyclerState;

class Value {
 public:
  constexpr Value() = default;
  static Value None() { return Value(Kind::kNone); }
  static Value Bool(bool value) {
    Value v(Kind::kBool);
    v.int_ = value ? 1 : 0;
    return v;
  }
  static Value Int(int64_t value) {
    Value v(Kind::kInt);
    v.int_ = value;
    return v;
  }
  static Value Float(double value) {
    Value v(Kind::kFloat);
    v.float_ = value;
    return v;
  }
  static Value String(const Str* value) {
    Value v(Kind::kString);
    v.object_ = const_cast<Str*>(value);
    return v;
  }
  static Value Object(Kind kind, const void* object) {
    Value v(kind);
    v.object_ = const_cast<void*>(object);
    return v;
  }
  // `hint` (may be nullptr) is what an error says about it: "'x' is undefined".
  static Value Undefined(const Str* hint, bool unsafe = false) {
    Value v(Kind::kUndefined);
    v.object_ = const_cast<Str*>(hint);
    if (unsafe) v.tag_ |= kUnsafe;
    return v;
  }

  Kind kind() const { return static_cast<Kind>(tag_ & kKindMask); }
  bool is_undefined() const { return kind() == Kind::kUndefined; }
  bool is_none() const { return kind() == Kind::kNone; }
  bool is_bool() const { return kind() == Kind::kBool; }
  bool is_int() const { return kind() == Kind::kInt; }
  bool is_float() const { return kind() == Kind::kFloat; }
  // int or bool, as Python's isinstance(x, int).
  bool is_integral() const { return is_int() || is_bool(); }
  bool is_number() const { return is_integral() || is_float(); }
  bool is_string() const { return kind() == Kind::kString; }
  bool is_dict() const { return kind() == Kind::kDict; }
  bool is_list() const { return kind() == Kind::kList; }
  bool is_tuple() const { return kind() == Kind::kTuple; }
  // Whose items are a List: everything that can be walked but strings and dicts.
  bool has_items() const {
    return kind() == Kind::kList || kind() == Kind::kTuple || kind() == Kind::kView ||
           kind() == Kind::kGenerator || kind() == Kind::kRange;
  }

  bool as_bool() const { return int_ != 0; }
  int64_t as_int() const { return int_; }
  double as_float() const { return is_float() ? float_ : static_cast<double>(int_); }
  const Str& str() const { return *static_cast<const Str*>(object_); }
  absl::string_view view() const { return str().view(); }
  List& list() const { return *static_cast<List*>(object_); }
  Dict& dict() const { return *static_cast<Dict*>(object_); }
  template <typename T>
  T& as() const {
    return *static_cast<T*>(object_);
  }
  const Str* hint() const { return static_cast<const Str*>(object_); }
  bool unsafe() const { return (tag_ & kUnsafe) != 0; }

  // Of scalars; strings carry ranges instead.
  Origin origin() const { return static_cast<Origin>(tag_ >> kOriginShift); }
  Value WithOrigin(Origin origin) const {
    Value v = *this;
    v.tag_ = (tag_ & ~(~uint64_t{0} << kOriginShift)) | uint64_t{origin} << kOriginShift;
    return v;
  }

 private:
  // One word for kind, unsafe and origin: values are passed and copied in two registers, and
  // compilers put separate small members together bit by bit.
  static constexpr uint64_t kKindMask = 0xff;
  static constexpr uint64_t kUnsafe = 0x100;
  static constexpr int kOriginShift = 32;

  explicit Value(Kind kind) : tag_(static_cast<uint64_t>(kind)) {}
  uint64_t tag_ = static_cast<uint64_t>(Kind::kUndefined);
  union {
    int64_t int_ = 0;
    double float_;
    void* object_;
  };
};

// Makes room for one more behind `size` items; false where the arena cannot afford it.
template <typename T>
bool GrowArray(Arena& arena, uint32_t size, T*& items, uint32_t& capacity) {
  const uint32_t grown = capacity == 0 ? 8 : capacity * 2;
  if (!arena.Affords(int64_t{grown} * static_cast<int64_t>(sizeof(T)))) {
    arena.Exhaust();
    return false;
  }
  auto* moved = arena.NewArray<T>(grown);
  if (size > 0) std::memcpy(static_cast<void*>(moved), items, size * sizeof(T));
  items = moved;
  capacity = grown;
  return true;
}

struct List {
  Value* items = nullptr;
  uint32_t size = 0;
  uint32_t capacity = 0;
  bool consumed = false;           // kGenerator: has been walked
  const char* view_name = "list";  // kView: "dict_items" ...

  void Push(Arena& arena, Value value) {
    if (size < capacity || GrowArray(arena, size, items, capacity)) items[size++] = value;
  }
  const Value* begin() const { return items; }
  const Value* end() const { return items + size; }
};

// Keeps the order of insertion, as Python's. Lookup is linear: messages and schemas are small, and
// the interpreter charges its step count for large ones.
struct Dict {
  struct Entry {
    Value key;
    Value value;
  };
  Entry* entries = nullptr;
  uint32_t size = 0;
  uint32_t capacity = 0;

  const Value* Find(absl::string_view key) const {
    for (const Entry& entry : *this) {
      if (entry.key.is_string() && SameText(entry.key.view(), key)) return &entry.value;
    }
    return nullptr;
  }
  const Value* Find(const Value& key) const;
  void Set(Arena& arena, const Value& key, const Value& value);
  // Set() of a key that is known to be new.
  void Append(Arena& arena, const Value& key, const Value& value) {
    if (size < capacity || GrowArray(arena, size, entries, capacity))
      entries[size++] = {key, value};
  }
  const Entry* begin() const { return entries; }
  const Entry* end() const { return entries + size; }
};

// Text under construction, with the origin of its bytes.
class Text {
 public:
  explicit Text(Arena& arena) : arena_(&arena) {}
  void Append(absl::string_view text, Origin origin = 0);
  void Append(const Str& text) {
    if (text.range_count == 0) return Append(text.view());
    Append(text, 0, text.size);
  }
  // Bytes [begin, end) of `text`.
  void Append(const Str& text, size_t begin, size_t end);
  void Reserve(size_t bytes) { text_.reserve(bytes); }
  void Append(char c) { Append(absl::string_view(&c, 1)); }
  // `text` `times` times.
  void Repeat(absl::string_view text, int64_t times);
  const Str* Finish(bool markup = false) const;
  Value FinishValue() const { return Value::String(Finish()); }

  Arena& arena() const { return *arena_; }
  size_t size() const { return text_.size(); }
  absl::string_view view() const { return text_; }
  std::string& text() { return text_; }
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  void Mark(size_t begin, size_t end, Origin origin);
  Arena* arena_;
  std::string text_;
  std::vector<Range> ranges_;
};

// `pieces` one after another, in one allocation.
const Str* JoinStrs(Arena& arena, absl::Span<const Str* const> pieces);
// Strings. NewStr copies; ViewStr refers to bytes that outlive the arena.
const Str* NewStr(Arena& arena, absl::string_view text);
inline const Str* ViewStr(Arena& arena, absl::string_view text, Origin origin = 0) {
  auto* str = arena.New<Str>();
  if (static_cast<int64_t>(text.size()) > arena.max_text()) {
    arena.Exhaust();
    return str;
  }
  str->data = text.data();
  str->size = static_cast<uint32_t>(text.size());
  if (origin != 0 && !text.empty()) {
    auto* range = arena.New<Range>();
    *range = {0, str->size, origin};
    str->ranges = range;
    str->range_count = 1;
  }
  return str;
}
// Bytes [begin, end) of `text`, not copied.
const Str* SubStr(Arena& arena, const Str& text, size_t begin, size_t end);
inline Value NewString(Arena& arena, absl::string_view text) {
  return Value::String(NewStr(arena, text));
}
inline Value SubString(Arena& arena, const Str& text, size_t begin, size_t end) {
  return Value::String(SubStr(arena, text, begin, end));
}
Value NewList(Arena& arena, Kind kind = Kind::kList, size_t capacity = 0);
inline Value NewDict(Arena& arena, size_t capacity = 0) {
  auto* dict = arena.New<Dict>();
  if (capacity > 0 && arena.Affords(static_cast<int64_t>(capacity * sizeof(Dict::Entry)))) {
    dict->entries = arena.NewArray<Dict::Entry>(capacity);
    dict->capacity = static_cast<uint32_t>(capacity);
  }
  return Value::Object(Kind::kDict, dict);
}

// Code points of `text`.
int64_t CharCount(const Str& text);
// The byte at which code point `index` starts; index <= CharCount.
size_t ByteOfChar(const Str& text, int64_t index);

// How deep values may nest where they are walked; deeper ones compare unequal and print as "...".
constexpr int kMaxValueDepth = 300;

bool TruthOfOther(const Value& value);
inline bool Truth(const Value& value) {
  return value.is_bool() ? value.as_bool() : TruthOfOther(value);
}
bool EqualOthers(const Value& a, const Value& b, int depth);
inline bool Equals(const Value& a, const Value& b, int depth = 0) {
  if (a.is_string() && b.is_string()) return SameText(a.view(), b.view());
  return EqualOthers(a, b, depth);
}
// Negative, 0, positive; *ok turns false where Python raises TypeError.
int Compare(const Value& a, const Value& b, bool* ok, int depth = 0);
// Python's name of the type: "str", "int", "NoneType" ...
absl::string_view TypeName(const Value& value);
// str(value) and repr(value), as Python writes them.
void AppendStr(const Value& value, Text& out);
void AppendRepr(const Value& value, Text& out, int depth = 0);
std::string FloatRepr(double value);

}  // namespace graft::jinja
