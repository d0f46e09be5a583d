// The tests behind `is`.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {
namespace {

bool IsCallable(const Value& v) {
  return v.kind() == Kind::kFunction || v.kind() == Kind::kMethod || v.kind() == Kind::kMacro ||
         v.kind() == Kind::kJoiner || v.kind() == Kind::kLoop || v.is_undefined();
}
bool IsIterable(const Value& v) {
  return v.has_items() || v.is_string() || v.is_dict() || v.is_undefined() ||
         v.kind() == Kind::kLoop;
}
bool IsSequence(const Value& v) {
  return v.is_string() || v.is_dict() || v.is_list() || v.is_tuple() || v.is_undefined() ||
         v.kind() == Kind::kRange;
}

const Value* Other(Interpreter& in, const Args& args) {
  if (args.count() == 1)
    return args.positional.empty() ? &args.named[0].second : &args.positional[0];
  in.Fail("this test takes one argument");
  return nullptr;
}

// self % other, as the integer tests use it.
bool Remainder(Interpreter& in, const Value& self, int64_t by, int64_t wanted) {
  if (self.is_integral() && by != 0) return ((self.as_int() % by) + by) % by == wanted;
  if (self.is_undefined()) {
    in.FailUndefined(self);
  } else if (!self.is_float()) {
    in.Fail(absl::StrCat("a number is needed, not ", TypeName(self)));
  }
  return self.is_float() && by != 0 &&
         self.as_float() - static_cast<double>(by) *
                               static_cast<double>(static_cast<int64_t>(self.as_float() / by)) ==
             static_cast<double>(wanted);
}

bool TestDivisibleby(Interpreter& in, const Value& self, const Args& args) {
  const Value* other = Other(in, args);
  if (other == nullptr) return false;
  if (!other->is_integral() || other->as_int() <= 0) {
    return in.Fail("divisibleby needs a number above 0"), false;
  }
  return Remainder(in, self, other->as_int(), 0);
}

bool CompareWith(Interpreter& in, const Value& self, const Args& args, bool (*holds)(int)) {
  const Value* other = Other(in, args);
  if (other == nullptr) return false;
  bool ok = true;
  const int order = Compare(self, *other, &ok);
  if (!ok) {
    in.Fail(absl::StrCat("'", TypeName(self), "' and '", TypeName(*other), "' have no order"));
  }
  return ok && holds(order);
}

bool TestSameas(Interpreter& in, const Value& self, const Args& args) {
  const Value* other = Other(in, args);
  if (other == nullptr || self.kind() != other->kind()) return false;
  if (self.is_none()) return true;
  return self.is_number() ? Equals(self, *other) : self.hint() == other->hint();
}

constexpr TestEntry kTests[] = {
    {"!=",
     [](Interpreter& in, const Value& v, const Args& a) {
       const Value* other = Other(in, a);
       return other != nullptr && !Equals(v, *other);
     }},
    {"<", [](Interpreter& in, const Value& v,
             const Args& a) { return CompareWith(in, v, a, [](int o) { return o < 0; }); }},
    {"<=", [](Interpreter& in, const Value& v,
              const Args& a) { return CompareWith(in, v, a, [](int o) { return o <= 0; }); }},
    {"==",
     [](Interpreter& in, const Value& v, const Args& a) {
       const Value* other = Other(in, a);
       return other != nullptr && Equals(v, *other);
     }},
    {">", [](Interpreter& in, const Value& v,
             const Args& a) { return CompareWith(in, v, a, [](int o) { return o > 0; }); }},
    {">=", [](Interpreter& in, const Value& v,
              const Args& a) { return CompareWith(in, v, a, [](int o) { return o >= 0; }); }},
    {"boolean", [](Interpreter&, const Value& v, const Args&) { return v.is_bool(); }},
    {"callable", [](Interpreter&, const Value& v, const Args&) { return IsCallable(v); }},
    {"defined", [](Interpreter&, const Value& v, const Args&) { return !v.is_undefined(); }},
    {"divisibleby", TestDivisibleby},
    {"eq",
     [](Interpreter& in, const Value& v, const Args& a) {
       const Value* other = Other(in, a);
       return other != nullptr && Equals(v, *other);
     }},
    {"equalto",
     [](Interpreter& in, const Value& v, const Args& a) {
       const Value* other = Other(in, a);
       return other != nullptr && Equals(v, *other);
     }},
    {"escaped",
     [](Interpreter&, const Value& v, const Args&) { return v.is_string() && v.str().markup; }},
    {"even", [](Interpreter& in, const Value& v, const Args&) { return Remainder(in, v, 2, 0); }},
    {"false",
     [](Interpreter&, const Value& v, const Args&) { return v.is_bool() && !v.as_bool(); }},
    {"filter", [](Interpreter&, const Value& v,
                  const Args&) { return v.is_string() && FindFilter(v.view()) != nullptr; }},
    {"float", [](Interpreter&, const Value& v, const Args&) { return v.is_float(); }},
    {"ge", [](Interpreter& in, const Value& v,
              const Args& a) { return CompareWith(in, v, a, [](int o) { return o >= 0; }); }},
    {"greaterthan",
     [](Interpreter& in, const Value& v, const Args& a) {
       return CompareWith(in, v, a, [](int o) { return o > 0; });
     }},
    {"gt", [](Interpreter& in, const Value& v,
              const Args& a) { return CompareWith(in, v, a, [](int o) { return o > 0; }); }},
    {"in",
     [](Interpreter& in, const Value& v, const Args& a) {
       const Value* other = Other(in, a);
       return other != nullptr && in.Contains(*other, v);
     }},
    {"integer", [](Interpreter&, const Value& v, const Args&) { return v.is_int(); }},
    {"iterable", [](Interpreter&, const Value& v, const Args&) { return IsIterable(v); }},
    {"le", [](Interpreter& in, const Value& v,
              const Args& a) { return CompareWith(in, v, a, [](int o) { return o <= 0; }); }},
    {"lessthan", [](Interpreter& in, const Value& v,
                    const Args& a) { return CompareWith(in, v, a, [](int o) { return o < 0; }); }},
    {"lower",
     [](Interpreter& in, const Value& v, const Args& a) {
       const Value text = Value::String(&in.ToStr(v));
       return Truth(FindMethod(text, "islower")->run(in, text, a));
     }},
    {"lt", [](Interpreter& in, const Value& v,
              const Args& a) { return CompareWith(in, v, a, [](int o) { return o < 0; }); }},
    {"mapping", [](Interpreter&, const Value& v, const Args&) { return v.is_dict(); }},
    {"ne",
     [](Interpreter& in, const Value& v, const Args& a) {
       const Value* other = Other(in, a);
       return other != nullptr && !Equals(v, *other);
     }},
    {"none", [](Interpreter&, const Value& v, const Args&) { return v.is_none(); }},
    {"number", [](Interpreter&, const Value& v, const Args&) { return v.is_number(); }},
    {"odd", [](Interpreter& in, const Value& v, const Args&) { return Remainder(in, v, 2, 1); }},
    {"sameas", TestSameas},
    {"sequence", [](Interpreter&, const Value& v, const Args&) { return IsSequence(v); }},
    {"string", [](Interpreter&, const Value& v, const Args&) { return v.is_string(); }},
    {"test", [](Interpreter&, const Value& v,
                const Args&) { return v.is_string() && FindTest(v.view()) != nullptr; }},
    {"true", [](Interpreter&, const Value& v, const Args&) { return v.is_bool() && v.as_bool(); }},
    {"undefined", [](Interpreter&, const Value& v, const Args&) { return v.is_undefined(); }},
    {"upper",
     [](Interpreter& in, const Value& v, const Args& a) {
       const Value text = Value::String(&in.ToStr(v));
       return Truth(FindMethod(text, "isupper")->run(in, text, a));
     }},
};

}  // namespace

const TestEntry* FindTest(absl::string_view name) {
  return FindByName(absl::MakeConstSpan(kTests), name);
}

}  // namespace graft::jinja
