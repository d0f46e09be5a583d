// Filters over the items of a sequence.
#include "absl/strings/str_cat.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_filters.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {
namespace {

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

constexpr FilterEntry kSequenceFilters[] = {
    {"batch", FilterBatch},
    {"count", FilterLength},
    {"first", FilterFirst},
    {"items", FilterItems},
    {"join", FilterJoin},
    {"last", FilterLast},
    {"length", FilterLength},
    {"list", FilterList},
    {"map", FilterMap},
    {"reject", FilterReject},
    {"rejectattr", FilterRejectattr},
    {"reverse", FilterReverse},
    {"select", FilterSelect},
    {"selectattr", FilterSelectattr},
    {"slice", FilterSlice},
    {"sum", FilterSum},
};

}  // namespace

absl::Span<const FilterEntry> SequenceFilters() { return kSequenceFilters; }

}  // namespace graft::jinja
