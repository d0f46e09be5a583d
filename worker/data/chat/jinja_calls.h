// What a template can call: filters, tests, methods of strings, lists and dicts, and the functions
// of the environment. Each is a row of a table; unknown names are errors when they are run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/data/chat/jinja_value.h"

namespace graft::jinja {

class Interpreter;

struct Args {
  absl::Span<const Value> positional;
  absl::Span<const std::pair<const Str*, Value>> named;

  // The argument at `index`, or the one named `name`; nullptr where it is not given.
  const Value* Find(size_t index, absl::string_view name) const;
  size_t count() const { return positional.size() + named.size(); }
};

// The argument, or `fallback` where it is not given; fails where it is no int.
int64_t IntArg(Interpreter& in, const Args& args, size_t index, absl::string_view name,
               int64_t fallback);
// The argument; nullptr and failed where it is missing or no string.
const Str* StrArg(Interpreter& in, const Args& args, size_t index, absl::string_view name);

using Function = Value (*)(Interpreter&, const Args&);
// Of filters and methods: `self` is what stands before the bar or the dot.
using Method = Value (*)(Interpreter&, const Value& self, const Args&);
using Test = bool (*)(Interpreter&, const Value& self, const Args&);

struct FunctionEntry {
  absl::string_view name;
  Function run;
};
struct FilterEntry {
  absl::string_view name;
  Method run;
};
struct TestEntry {
  absl::string_view name;
  Test run;
};
struct MethodEntry {
  absl::string_view name;
  Method run;  // nullptr: exists in Python, but a sandboxed template may not call it
};

// The entry of a table that is sorted by name; nullptr where there is none.
template <typename Entry>
const Entry* FindByName(absl::Span<const Entry> table, absl::string_view name) {
  const auto it =
      std::lower_bound(table.begin(), table.end(), name,
                       [](const Entry& entry, absl::string_view key) { return entry.name < key; });
  return it != table.end() && it->name == name ? &*it : nullptr;
}

const FilterEntry* FindFilter(absl::string_view name);
const TestEntry* FindTest(absl::string_view name);
// The method of a string, list, tuple or dict; nullptr where its type has none of that name.
const MethodEntry* FindMethod(const Value& self, absl::string_view name);
// range, dict, namespace, raise_exception, strftime_now, cycler, joiner.
absl::Span<const FunctionEntry> Functions();

struct BoundMethod {
  Value self;
  const MethodEntry* entry = nullptr;
};

// --- formatting, shared by filters, methods and operators (jinja_json.cc, jinja_format.cc)

struct JsonStyle {
  bool ensure_ascii = false;
  bool indented = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
// json.dumps. Fails the interpreter where Python raises TypeError.
void AppendJson(Interpreter& in, const Value& value, const JsonStyle& style, Text& out,
                int depth = 0);
// `format % values`.
Value PercentFormat(Interpreter& in, const Str& format, const Value& values);
// str.format().
Value BraceFormat(Interpreter& in, const Str& format, const Args& args);
// The characters & < > ' " as entities.
void AppendEscaped(const Str& text, Text& out);

// str.replace, str.split and str.strip with the origin of bytes kept; shared by methods and
// filters.
Value ReplaceText(Interpreter& in, const Str& text, const Str& from, const Str& to, int64_t count);
// `chars` nullptr: white space.
Value StripText(Interpreter& in, const Str& text, const Str* chars, bool left, bool right);
// Changes case, keeping the origins.
Value MapText(Interpreter& in, const Str& text, std::string (*map)(absl::string_view));
Value CapitalizeText(Interpreter& in, const Str& text);

}  // namespace graft::jinja
