// Methods of lists, tuples, dicts, loops and cyclers, and where a method is found.
#include <algorithm>

#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_interpreter.h"
#include "worker/data/chat/jinja_string_methods.h"

namespace graft::jinja {
namespace {

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

}  // namespace

const MethodEntry* FindMethod(const Value& self, absl::string_view name) {
  switch (self.kind()) {
    case Kind::kString:
      return FindByName(StringMethods(), name);
    case Kind::kList:
      return FindByName<MethodEntry>(kListMethods, name);
    case Kind::kTuple:
      return FindByName<MethodEntry>(kTupleMethods, name);
    case Kind::kDict:
      return FindByName<MethodEntry>(kDictMethods, name);
    case Kind::kLoop:
      return FindByName<MethodEntry>(kLoopMethods, name);
    case Kind::kCycler:
      return FindByName<MethodEntry>(kCyclerMethods, name);
    default:
      return nullptr;
  }
}

}  // namespace graft::jinja
