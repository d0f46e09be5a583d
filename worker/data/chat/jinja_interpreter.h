// Runs a parsed template.
//
// Errors are sticky: the first one is kept, every evaluation after it returns undefined at once,
// and Run() returns it. Functions written against the interpreter say `return in.Fail(...)` and
// check failed() after evaluating.
//
// One interpreter runs once, on one thread.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/data/chat/jinja_ast.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_value.h"

namespace graft::jinja {

struct Var {
  NameId name;
  Value value;
};

struct Scope {
  Scope* parent = nullptr;
  Var* vars = nullptr;
  uint32_t size = 0;
  uint32_t capacity = 0;
};

struct LoopState {
  const Stmt* stmt = nullptr;
  Scope* scope = nullptr;  // in which the loop stands
  const List* items = nullptr;
  uint32_t index = 0;
  int depth = 0;
  const List* last_changed = nullptr;
};

struct MacroObject {
  const MacroDef* def = nullptr;
  Scope* scope = nullptr;
};

struct CyclerState {
  const List* items = nullptr;
  uint32_t index = 0;
};

struct JoinerState {
  const Str* separator = nullptr;
  bool used = false;
};

struct InterpreterLimits {
  int64_t max_steps = 0;
  int max_depth = 0;
};

class Interpreter {
 public:
  Interpreter(const Program& program, Arena& arena, const InterpreterLimits& limits,
              absl::Time now);

  // Defines a variable of the context. kNoName, of what the template does not mention, is ignored.
  void Define(NameId name, const Value& value) {
    if (name != Program::kNoName) globals_[name] = {value, true};
  }
  // About how long the output is going to be; sooner or later it has to be allocated.
  void ReserveOutput(size_t bytes) { output_.Reserve(bytes); }
  absl::Status Run();

  const Text& output() const { return output_; }
  std::string TakeText() { return std::move(output_.text()); }
  // What the {% generation %} blocks wrote, as ranges of bytes of the output, in order.
  const std::vector<Range>& generated() const { return generated_; }
  // A generation block wrote into a macro or a set block, so its place is not known.
  bool generated_elsewhere() const { return generated_elsewhere_; }

  // --- for filters, tests, methods and functions
  Arena& arena() { return arena_; }
  absl::Time now() const { return now_; }
  bool failed() const { return failed_; }
  // Keeps the first error, with the line; returns undefined.
  Value Fail(absl::string_view message);
  Value FailWith(absl::StatusCode code, absl::string_view message);
  // Fails with what is wrong with an undefined value.
  Value FailUndefined(const Value& value);
  // Counts work that is more than one step; false where the budget is spent.
  bool Charge(int64_t steps) {
    steps_ += steps;
    if (!failed_ && steps_ <= limits_.max_steps && !arena_.exhausted()) return true;
    return OverBudget();
  }

  // obj.name and obj[key]
  Value Attr(const Value& object, const Str& name);
  Value Item(const Value& object, const Value& key);
  Value Call(const Value& callee, const Args& args);
  // The items of what can be walked (characters of a string, keys of a dict); nullptr and failed
  // otherwise. A generator is used up by it.
  const List* Items(const Value& value);
  bool Contains(const Value& container, const Value& item);
  // a + b of two values, as the operator does.
  Value Add(const Value& a, const Value& b);
  // str(value)
  const Str& ToStr(const Value& value);

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  using ArgValues = absl::InlinedVector<Value, 4>;
  using NamedValues = absl::InlinedVector<std::pair<const Str*, Value>, 2>;

  bool Step() { return Charge(1); }
  // Fails with the bound that was crossed; always false.
  bool OverBudget();
  const Value* Lookup(NameId name) const {
    for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
      for (uint32_t i = scope->size; i-- > 0;) {
        if (scope->vars[i].name == name) return &scope->vars[i].value;
      }
    }
    return globals_[name].defined ? &globals_[name].value : nullptr;
  }
  void Assign(NameId name, const Value& value);
  void AssignTarget(const Target& target, const Value& value);
  Scope* PushScope(Scope* parent);

  // jinja_interpreter.cc: statements
  void RunBody(const Body& body);
  void RunStmt(const Stmt& stmt);
  void RunIf(const Stmt& stmt);
  void RunFor(const Stmt& stmt);
  void RunLoop(const Stmt& stmt, const List& items, int depth);
  const List* FilteredItems(const Stmt& stmt, const List& items);
  void RunSetBlock(const Stmt& stmt);
  void RunCallBlock(const Stmt& stmt);
  void RunWith(const Stmt& stmt);
  void RunGeneration(const Stmt& stmt);
  // The output of `body` in a scope of its own.
  Value Capture(const Body& body);
  Value CallMacro(const MacroObject& macro, const Args& args, const Value* caller);
  bool BindMacro(const MacroDef& def, const Args& args, const Value* caller);
  void BindDefaults(const MacroDef& def, size_t given, const Args& args);
  bool BindExtras(const MacroDef& def, const Args& args, const Value* caller);
  Value CallLoop(const LoopState& loop, const Args& args);
  void Emit(const Expr& expr);
  void EmitValue(const Value& value);

  // jinja_expressions.cc
  // Constants and names, which most operands are, cost no call.
  Value Eval(const Expr& expr) {
    if (expr.kind == ExprKind::kConst) return expr.constant;
    return expr.kind == ExprKind::kName ? EvalName(expr) : EvalTree(expr);
  }
  Value EvalName(const Expr& expr) const {
    const Value* value = Lookup(expr.name);
    return value != nullptr ? *value : Value::Undefined(expr.text);
  }
  Value EvalTree(const Expr& expr);
  Value EvalNode(const Expr& expr);
  Value TooDeep();
  Value EvalItem(const Expr& expr);
  Value EvalSlice(const Value& object, const Expr& slice);
  Value EvalList(const Expr& expr);
  Value EvalDict(const Expr& expr);
  bool EvalArgs(const CallArgs* args, ArgValues& positional, NamedValues& named);
  Value LoopAttr(LoopState& loop, absl::string_view name);
  Value EvalCall(const Expr& expr, const Value* caller);
  Value EvalFilter(const Expr& expr, const Value* base);
  Value EvalTest(const Expr& expr);
  Value EvalCompare(const Expr& expr);
  bool CompareOne(CompareOp op, const Value& a, const Value& b);

  // jinja_arithmetic.cc
  Value EvalConcat(const Expr& expr);
  Value EvalSum(const Expr& expr);
  Value EvalArithmetic(const Expr& expr);
  Value Integers(ExprKind kind, int64_t a, int64_t b);
  Value Floats(ExprKind kind, double a, double b);
  Value Multiply(const Value& a, const Value& b);
  Value RepeatValue(const Value& sequence, int64_t times);
  Value Negate(const Value& value, bool negative);

  const Program& program_;
  Arena& arena_;
  const InterpreterLimits limits_;
  const absl::Time now_;
  struct Global {
    Value value;
    bool defined = false;
  };
  absl::Span<Global> globals_;  // by NameId, in the arena
  Scope* scope_ = nullptr;
  Text output_;
  Text* out_ = &output_;
  Flow flow_ = Flow::kNormal;
  int64_t steps_ = 0;
  int depth_ = 0;
  int line_ = 1;
  bool failed_ = false;
  absl::Status status_;
  std::vector<Range> generated_;
  bool generated_elsewhere_ = false;
};

}  // namespace graft::jinja
