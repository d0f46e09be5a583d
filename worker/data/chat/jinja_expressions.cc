#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {
namespace {

// A dictionary up to this size is searched for the price of the step that asks.
constexpr uint32_t kSmallDict = 16;

}  // namespace

Value Interpreter::EvalTree(const Expr& expr) {
  if (!Step()) return Value();
  if (++depth_ > limits_.max_depth) return TooDeep();
  const Value value = EvalNode(expr);
  --depth_;
  return failed_ ? Value() : value;
}

Value Interpreter::TooDeep() {
  return FailWith(absl::StatusCode::kResourceExhausted,
                  absl::StrCat("the template nests deeper than ", limits_.max_depth, " levels"));
}

ABSL_ATTRIBUTE_ALWAYS_INLINE inline Value Interpreter::EvalNode(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kAttr: {
      const Value object = Eval(*expr.a);
      return failed_ ? Value() : Attr(object, *expr.text);
    }
    case ExprKind::kItem:
      return EvalItem(expr);
    case ExprKind::kList:
    case ExprKind::kTuple:
      return EvalList(expr);
    case ExprKind::kDict:
      return EvalDict(expr);
    case ExprKind::kCall:
      return EvalCall(expr, nullptr);
    case ExprKind::kFilter:
      return EvalFilter(expr, nullptr);
    case ExprKind::kTest:
      return EvalTest(expr);
    case ExprKind::kCondition: {
      const Value condition = Eval(*expr.b);
      if (failed_) return Value();
      if (Truth(condition)) return Eval(*expr.a);
      return expr.c == nullptr ? Value::Undefined(nullptr) : Eval(*expr.c);
    }
    case ExprKind::kNot:
      return Value::Bool(!Truth(Eval(*expr.a)));
    case ExprKind::kNeg:
    case ExprKind::kPos:
      return Negate(Eval(*expr.a), expr.kind == ExprKind::kNeg);
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      const Value left = Eval(*expr.a);
      if (failed_ || Truth(left) == (expr.kind == ExprKind::kOr)) return left;
      return Eval(*expr.b);
    }
    case ExprKind::kConcat:
      return EvalConcat(expr);
    case ExprKind::kCompare:
      return EvalCompare(expr);
    case ExprKind::kAdd:
      return EvalSum(expr);
    case ExprKind::kSlice:
      return Fail("a slice stands outside of an index");
    default:
      return EvalArithmetic(expr);
  }
}

Value Interpreter::EvalList(const Expr& expr) {
  const Value list =
      NewList(arena_, expr.kind == ExprKind::kList ? Kind::kList : Kind::kTuple, expr.items.size());
  for (const ExprPtr& item : expr.items) {
    list.list().Push(arena_, Eval(*item));
    if (failed_) return Value();
  }
  return list;
}

Value Interpreter::EvalDict(const Expr& expr) {
  const Value dict = NewDict(arena_);
  for (size_t i = 0; i + 1 < expr.items.size(); i += 2) {
    const Value key = Eval(*expr.items[i]);
    const Value value = Eval(*expr.items[i + 1]);
    if (failed_) return Value();
    if (key.is_list() || key.is_dict()) {
      return Fail(absl::StrCat("unhashable type: '", TypeName(key), "'"));
    }
    dict.dict().Set(arena_, key, value);
  }
  return dict;
}

// --- a.b, a[b], a[b:c]

namespace {

// Names that Python's objects have and a sandbox hides.
bool IsPrivate(absl::string_view name) { return absl::StartsWith(name, "__"); }

}  // namespace

Value Interpreter::Attr(const Value& object, const Str& name) {
  switch (object.kind()) {
    case Kind::kUndefined:
      return FailUndefined(object);
    case Kind::kLoop:
      return LoopAttr(object.as<LoopState>(), name.view());
    case Kind::kNamespace: {
      const Value* value = object.dict().Find(name.view());
      return value != nullptr ? *value : Value::Undefined(&name);
    }
    case Kind::kMacro:
      if (name.view() == "name") return Value::String(object.as<MacroObject>().def->name);
      return Value::Undefined(&name);
    case Kind::kCycler:
    default:
      break;
  }
  if (const MethodEntry* method = FindMethod(object, name.view()); method != nullptr) {
    if (method->run == nullptr) return Value::Undefined(&name, /*unsafe=*/true);
    auto* bound = arena_.New<BoundMethod>();
    bound->self = object;
    bound->entry = method;
    return Value::Object(Kind::kMethod, bound);
  }
  if (IsPrivate(name.view())) return Value::Undefined(&name, /*unsafe=*/true);
  if (object.is_dict()) {
    if (object.dict().size > kSmallDict) Charge(object.dict().size / kSmallDict);
    if (const Value* value = object.dict().Find(name.view()); value != nullptr) return *value;
  }
  return Value::Undefined(&name);
}

Value Interpreter::Item(const Value& object, const Value& key) {
  if (object.is_undefined()) return FailUndefined(object);
  if (object.is_dict()) {
    if (object.dict().size > kSmallDict) Charge(object.dict().size / kSmallDict);
    if (const Value* value = object.dict().Find(key); value != nullptr) return *value;
  }
  if (key.is_integral()) {
    int64_t index = key.as_int();
    if (object.is_string()) {
      const int64_t size = CharCount(object.str());
      if (index < 0) index += size;
      if (index < 0 || index >= size) return Value::Undefined(nullptr);
      const size_t begin = ByteOfChar(object.str(), index);
      return SubString(arena_, object.str(), begin, begin + DecodeAt(object.view(), begin).length);
    }
    if (object.is_list() || object.is_tuple() || object.kind() == Kind::kRange) {
      const List& list = object.list();
      if (index < 0) index += list.size;
      if (index < 0 || index >= list.size) return Value::Undefined(nullptr);
      return list.items[index];
    }
  }
  if (!key.is_string()) return Value::Undefined(nullptr);
  if (object.is_dict()) {
    // The item came first; only methods are left.
    const MethodEntry* method = FindMethod(object, key.view());
    if (method == nullptr) return Value::Undefined(&key.str());
  }
  return Attr(object, key.str());
}

Value Interpreter::EvalItem(const Expr& expr) {
  const Value object = Eval(*expr.a);
  if (failed_) return Value();
  if (expr.b->kind == ExprKind::kSlice) return EvalSlice(object, *expr.b);
  const Value key = Eval(*expr.b);
  if (failed_) return Value();
  // The most frequent of all, before anything is asked: message['role'].
  if (object.is_dict() && key.is_string() && object.dict().size <= kSmallDict) {
    if (const Value* value = object.dict().Find(key.view()); value != nullptr) return *value;
  }
  return Item(object, key);
}

namespace {

// Python's slice.indices().
struct SliceBounds {
  int64_t start, stop, step;
};

int64_t ClampIndex(int64_t index, int64_t size, int64_t low, int64_t high) {
  if (index < 0) index += size;
  return std::clamp(index, low, high);
}

SliceBounds BoundsOf(const Value& start, const Value& stop, int64_t step, int64_t size) {
  const int64_t low = step < 0 ? -1 : 0;
  const int64_t high = step < 0 ? size - 1 : size;
  SliceBounds bounds{step < 0 ? high : low, step < 0 ? low : high, step};
  if (start.is_integral()) bounds.start = ClampIndex(start.as_int(), size, low, high);
  if (stop.is_integral()) bounds.stop = ClampIndex(stop.as_int(), size, low, high);
  return bounds;
}

}  // namespace

Value Interpreter::EvalSlice(const Value& object, const Expr& slice) {
  Value parts[3] = {Value::None(), Value::None(), Value::None()};
  const Expr* const exprs[3] = {slice.a.get(), slice.b.get(), slice.c.get()};
  for (int i = 0; i < 3; ++i) {
    if (exprs[i] != nullptr) parts[i] = Eval(*exprs[i]);
    if (failed_) return Value();
    if (!parts[i].is_none() && !parts[i].is_integral()) {
      // Python's TypeError, which a subscript turns into undefined.
      return object.is_undefined() ? FailUndefined(object) : Value::Undefined(nullptr);
    }
  }
  if (object.is_undefined()) return FailUndefined(object);
  const int64_t step = parts[2].is_none() ? 1 : parts[2].as_int();
  if (step == 0) return Fail("slice step cannot be zero");
  if (object.is_string()) {
    const Str& text = object.str();
    const SliceBounds b = BoundsOf(parts[0], parts[1], step, CharCount(text));
    if (step == 1) {
      if (b.start >= b.stop) return SubString(arena_, text, 0, 0);
      return SubString(arena_, text, ByteOfChar(text, b.start), ByteOfChar(text, b.stop));
    }
    const List* chars = Items(object);
    Text out(arena_);
    for (int64_t i = b.start; step > 0 ? i < b.stop : i > b.stop; i += step) {
      out.Append(chars->items[i].str());
    }
    return out.FinishValue();
  }
  if (!object.is_list() && !object.is_tuple() && object.kind() != Kind::kRange) {
    return Value::Undefined(nullptr);
  }
  const List& list = object.list();
  const SliceBounds b = BoundsOf(parts[0], parts[1], step, list.size);
  const Value result = NewList(arena_, object.kind());
  for (int64_t i = b.start; step > 0 ? i < b.stop : i > b.stop; i += step) {
    result.list().Push(arena_, list.items[i]);
  }
  Charge(result.list().size / 8);
  return result;
}

Value Interpreter::LoopAttr(LoopState& loop, absl::string_view name) {
  const int64_t index = loop.index;
  const int64_t size = loop.items->size;
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == size);
  if (name == "length") return Value::Int(size);
  if (name == "revindex") return Value::Int(size - index);
  if (name == "revindex0") return Value::Int(size - index - 1);
  if (name == "depth") return Value::Int(loop.depth + 1);
  if (name == "depth0") return Value::Int(loop.depth);
  if (name == "previtem") return index > 0 ? loop.items->items[index - 1] : Value();
  if (name == "nextitem") return index + 1 < size ? loop.items->items[index + 1] : Value();
  const Value self = Value::Object(Kind::kLoop, &loop);
  if (const MethodEntry* method = FindMethod(self, name); method != nullptr) {
    auto* bound = arena_.New<BoundMethod>();
    bound->self = self;
    bound->entry = method;
    return Value::Object(Kind::kMethod, bound);
  }
  return Value::Undefined(NewStr(arena_, name));
}

// --- calls

bool Interpreter::EvalArgs(const CallArgs* args, ArgValues& positional, NamedValues& named) {
  if (args == nullptr) return true;
  for (const ExprPtr& arg : args->positional) positional.push_back(Eval(*arg));
  for (const auto& [name, arg] : args->named) named.emplace_back(name, Eval(*arg));
  if (args->star != nullptr) {
    const Value star = Eval(*args->star);
    if (failed_) return false;
    const List* items = Items(star);
    if (items == nullptr) return false;
    positional.insert(positional.end(), items->begin(), items->end());
  }
  if (args->double_star != nullptr) {
    const Value stars = Eval(*args->double_star);
    if (failed_) return false;
    if (!stars.is_dict()) {
      Fail("the argument after ** must be a mapping");
      return false;
    }
    for (const Dict::Entry& entry : stars.dict()) {
      if (!entry.key.is_string()) {
        Fail("keywords must be strings");
        return false;
      }
      named.emplace_back(&entry.key.str(), entry.value);
    }
  }
  return !failed_;
}

Value Interpreter::EvalCall(const Expr& expr, const Value* caller) {
  const Value callee = Eval(*expr.a);
  if (failed_) return Value();
  ArgValues positional;
  NamedValues named;
  if (!EvalArgs(expr.args.get(), positional, named)) return Value();
  const Args args{positional, named};
  if (caller != nullptr && callee.kind() == Kind::kMacro) {
    return CallMacro(callee.as<MacroObject>(), args, caller);
  }
  return Call(callee, args);
}

Value Interpreter::Call(const Value& callee, const Args& args) {
  if (!Charge(1)) return Value();
  switch (callee.kind()) {
    case Kind::kFunction:
      return callee.as<const FunctionEntry>().run(*this, args);
    case Kind::kMethod: {
      const BoundMethod& bound = callee.as<BoundMethod>();
      return bound.entry->run(*this, bound.self, args);
    }
    case Kind::kMacro:
      return CallMacro(callee.as<MacroObject>(), args, nullptr);
    case Kind::kLoop:
      return CallLoop(callee.as<LoopState>(), args);
    case Kind::kJoiner: {
      auto& joiner = callee.as<JoinerState>();
      if (joiner.used) return Value::String(joiner.separator);
      joiner.used = true;
      return NewString(arena_, "");
    }
    case Kind::kUndefined:
      return FailUndefined(callee);
    default:
      return Fail(absl::StrCat("'", TypeName(callee), "' object is not callable"));
  }
}

Value Interpreter::EvalFilter(const Expr& expr, const Value* base) {
  Value self;
  if (expr.a == nullptr) {
    self = *base;
  } else if (base != nullptr) {
    self = EvalFilter(*expr.a, base);
  } else {
    self = Eval(*expr.a);
  }
  if (failed_) return Value();
  if (expr.filter == nullptr) {
    return Fail(absl::StrCat("no filter named '", expr.text->view(), "'"));
  }
  ArgValues positional;
  NamedValues named;
  if (!EvalArgs(expr.args.get(), positional, named)) return Value();
  return expr.filter->run(*this, self, Args{positional, named});
}

Value Interpreter::EvalTest(const Expr& expr) {
  const Value self = Eval(*expr.a);
  if (failed_) return Value();
  if (expr.test == nullptr) {
    return Fail(absl::StrCat("no test named '", expr.text->view(), "'"));
  }
  ArgValues positional;
  NamedValues named;
  if (!EvalArgs(expr.args.get(), positional, named)) return Value();
  return Value::Bool(expr.test->run(*this, self, Args{positional, named}) != expr.negated);
}

// --- walking and comparing

const List* Interpreter::Items(const Value& value) {
  if (value.has_items()) {
    List& list = value.list();
    if (value.kind() == Kind::kGenerator && std::exchange(list.consumed, true)) {
      return &NewList(arena_).list();
    }
    return Charge(list.size / 8) ? &list : nullptr;
  }
  List& items = NewList(arena_).list();
  switch (value.kind()) {
    case Kind::kUndefined:
      return &items;
    case Kind::kDict:
      for (const Dict::Entry& entry : value.dict()) items.Push(arena_, entry.key);
      return &items;
    case Kind::kString: {
      const Str& text = value.str();
      if (!Charge(text.size)) return nullptr;
      for (size_t pos = 0; pos < text.size;) {
        const size_t length = DecodeAt(text.view(), pos).length;
        items.Push(arena_, SubString(arena_, text, pos, pos + length));
        pos += length;
      }
      return &items;
    }
    case Kind::kLoop:
      return value.as<LoopState>().items;
    default:
      Fail(absl::StrCat("'", TypeName(value), "' object is not iterable"));
      return nullptr;
  }
}

bool Interpreter::Contains(const Value& container, const Value& item) {
  if (container.is_string()) {
    if (item.is_undefined()) return FailUndefined(item), false;
    if (!item.is_string()) {
      Fail(absl::StrCat("'in <string>' requires a string, not ", TypeName(item)));
      return false;
    }
    Charge(container.str().size / 1024);
    return absl::StrContains(container.view(), item.view());
  }
  if (container.is_dict()) {
    Charge(container.dict().size / 16);
    return container.dict().Find(item) != nullptr;
  }
  const List* items = Items(container);
  if (items == nullptr) return false;
  return std::any_of(items->begin(), items->end(),
                     [&](const Value& value) { return Equals(value, item); });
}

// All but ==.
bool Interpreter::CompareOne(CompareOp op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOp::kNe:
      return !Equals(a, b);
    case CompareOp::kIn:
      return Contains(b, a);
    case CompareOp::kNotIn:
      return !Contains(b, a);
    default:
      break;
  }
  bool ok = true;
  const int order = Compare(a, b, &ok);
  if (!ok) {
    if (a.is_undefined()) return FailUndefined(a), false;
    if (b.is_undefined()) return FailUndefined(b), false;
    Fail(absl::StrCat("'", TypeName(a), "' and '", TypeName(b), "' have no order"));
    return false;
  }
  const bool unordered =
      (a.is_float() && std::isnan(a.as_float())) || (b.is_float() && std::isnan(b.as_float()));
  if (unordered) return false;
  switch (op) {
    case CompareOp::kLt:
      return order < 0;
    case CompareOp::kLe:
      return order <= 0;
    case CompareOp::kGt:
      return order > 0;
    default:
      return order >= 0;
  }
}

Value Interpreter::EvalCompare(const Expr& expr) {
  Value left = Eval(*expr.items[0]);
  for (size_t i = 0; i < expr.ops.size(); ++i) {
    if (failed_) return Value();
    const Value right = Eval(*expr.items[i + 1]);
    if (failed_) return Value();
    const bool equals = expr.ops[i] == CompareOp::kEq;
    if (!(equals ? Equals(left, right) : CompareOne(expr.ops[i], left, right))) {
      return Value::Bool(false);
    }
    left = right;
  }
  return Value::Bool(true);
}

}  // namespace graft::jinja
