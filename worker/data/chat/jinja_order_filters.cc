// Filters that compare items: sorting, grouping, the extremes.
#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_filters.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {
namespace {

Value FoldCase(Interpreter& in, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) return value;
  return NewString(in.arena(), ToLower(value.view()));
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

constexpr FilterEntry kOrderFilters[] = {
    {"dictsort", FilterDictsort}, {"groupby", FilterGroupby}, {"max", FilterMax},
    {"min", FilterMin},           {"sort", FilterSort},       {"unique", FilterUnique},
};

}  // namespace

absl::Span<const FilterEntry> OrderFilters() { return kOrderFilters; }

}  // namespace graft::jinja
