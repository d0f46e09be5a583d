#include "worker/data/chat/jinja_interpreter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace graft::jinja {

Interpreter::Interpreter(const Program& program, Arena& arena, const InterpreterLimits& limits,
                         absl::Time now)
    : program_(program),
      arena_(arena),
      limits_(limits),
      now_(now),
      globals_(arena.NewArray<Global>(program.names.size()), program.names.size()),
      output_(arena) {
  std::fill(globals_.begin(), globals_.end(), Global());
  for (const auto& [name, function] : program.functions) {
    Define(name, Value::Object(Kind::kFunction, function));
  }
}

absl::Status Interpreter::Run() {
  scope_ = PushScope(nullptr);
  RunBody(program_.body);
  if (!failed_ && arena_.exhausted()) Step();
  return status_;
}

Value Interpreter::Fail(absl::string_view message) {
  return FailWith(absl::StatusCode::kInvalidArgument, message);
}

Value Interpreter::FailWith(absl::StatusCode code, absl::string_view message) {
  if (!failed_) {
    failed_ = true;
    status_ = absl::Status(code, absl::StrCat("chat template, line ", line_, ": ", message));
  }
  return Value();
}

Value Interpreter::FailUndefined(const Value& value) {
  if (value.unsafe()) {
    return Fail(absl::StrCat("access to '", value.hint()->view(), "' is not safe in a template"));
  }
  if (value.hint() == nullptr) return Fail("a value is undefined");
  return Fail(absl::StrCat("'", value.hint()->view(), "' is undefined"));
}

bool Interpreter::OverBudget() {
  if (failed_) return false;
  if (steps_ > limits_.max_steps) {
    FailWith(absl::StatusCode::kResourceExhausted,
             absl::StrCat("the template needs more than ", limits_.max_steps, " steps"));
  } else {
    FailWith(absl::StatusCode::kResourceExhausted,
             "the template makes more text or values than its limit allows");
  }
  return false;
}

Scope* Interpreter::PushScope(Scope* parent) {
  auto* scope = arena_.New<Scope>();
  scope->parent = parent;
  return scope;
}

void Interpreter::Assign(NameId name, const Value& value) {
  Scope& scope = *scope_;
  for (uint32_t i = 0; i < scope.size; ++i) {
    if (scope.vars[i].name == name) {
      scope.vars[i].value = value;
      return;
    }
  }
  if (scope.size == scope.capacity) {
    scope.capacity = scope.capacity == 0 ? 8 : scope.capacity * 2;
    auto* moved = arena_.NewArray<Var>(scope.capacity);
    std::copy(scope.vars, scope.vars + scope.size, moved);
    scope.vars = moved;
  }
  scope.vars[scope.size++] = {name, value};
}

void Interpreter::AssignTarget(const Target& target, const Value& value) {
  if (!target.tuple.empty()) {
    const List* items = Items(value);
    if (items == nullptr) return;
    if (items->size != target.tuple.size()) {
      Fail(absl::StrCat("cannot unpack ", items->size, " values into ", target.tuple.size(),
                        " names"));
      return;
    }
    for (uint32_t i = 0; i < items->size; ++i) AssignTarget(target.tuple[i], items->items[i]);
    return;
  }
  if (target.attribute == nullptr) return Assign(target.name, value);
  const Value* object = Lookup(target.name);
  if (object == nullptr || object->kind() != Kind::kNamespace) {
    Fail("cannot assign attribute on non-namespace object");
    return;
  }
  if (!target.attribute->view().empty() && target.attribute->view()[0] == '_') {
    Fail("chat templates cannot store underscore-prefixed attributes on a namespace");
    return;
  }
  object->dict().Set(arena_, Value::String(target.attribute), value);
}

void Interpreter::RunBody(const Body& body) {
  if (++depth_ > limits_.max_depth) TooDeep();
  for (const auto& stmt : body) {
    if (failed_ || flow_ != Flow::kNormal) break;
    RunStmt(*stmt);
  }
  --depth_;
}

void Interpreter::RunStmt(const Stmt& stmt) {
  if (!Step()) return;
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kData:
      return out_->Append(*stmt.text);
    case StmtKind::kOutput:
      return Emit(*stmt.expr);
    case StmtKind::kIf:
      return RunIf(stmt);
    case StmtKind::kFor:
      return RunFor(stmt);
    case StmtKind::kSet: {
      const Value value = Eval(*stmt.expr);
      if (!failed_) AssignTarget(stmt.target, value);
      return;
    }
    case StmtKind::kSetBlock:
      return RunSetBlock(stmt);
    case StmtKind::kMacro: {
      auto* macro = arena_.New<MacroObject>();
      macro->def = stmt.macro.get();
      macro->scope = scope_;
      return Assign(stmt.macro->name_id, Value::Object(Kind::kMacro, macro));
    }
    case StmtKind::kCallBlock:
      return RunCallBlock(stmt);
    case StmtKind::kFilterBlock: {
      const Value text = Capture(stmt.body);
      if (!failed_) EmitValue(EvalFilter(*stmt.expr, &text));
      return;
    }
    case StmtKind::kWith:
      return RunWith(stmt);
    case StmtKind::kGeneration:
      return RunGeneration(stmt);
    case StmtKind::kBreak:
      flow_ = Flow::kBreak;
      return;
    case StmtKind::kContinue:
      flow_ = Flow::kContinue;
      return;
  }
}

void Interpreter::RunIf(const Stmt& stmt) {
  for (const auto& [condition, body] : stmt.branches) {
    const Value value = Eval(*condition);
    if (failed_) return;
    if (Truth(value)) return RunBody(body);
  }
  RunBody(stmt.otherwise);
}

void Interpreter::RunFor(const Stmt& stmt) {
  const Value iterable = Eval(*stmt.expr);
  if (failed_) return;
  const List* items = Items(iterable);
  if (items != nullptr) RunLoop(stmt, *items, 0);
}

const List* Interpreter::FilteredItems(const Stmt& stmt, const List& items) {
  List& kept = NewList(arena_).list();
  Scope* const outer = scope_;
  scope_ = PushScope(outer);
  for (const Value& item : items) {
    if (!Step()) break;
    AssignTarget(stmt.target, item);
    if (failed_) break;
    if (Truth(Eval(*stmt.filter))) kept.Push(arena_, item);
  }
  scope_ = outer;
  return failed_ ? nullptr : &kept;
}

void Interpreter::RunLoop(const Stmt& stmt, const List& items, int depth) {
  const List* walked = stmt.filter == nullptr ? &items : FilteredItems(stmt, items);
  if (walked == nullptr) return;
  Scope* const outer = scope_;
  if (walked->size == 0) {
    scope_ = PushScope(outer);
    RunBody(stmt.otherwise);
    scope_ = outer;
    return;
  }
  auto* loop = arena_.New<LoopState>();
  loop->stmt = &stmt;
  loop->scope = outer;
  loop->items = walked;
  loop->depth = depth;
  scope_ = PushScope(outer);
  const Value loop_value = Value::Object(Kind::kLoop, loop);
  Assign(program_.loop, loop_value);
  for (uint32_t i = 0; i < walked->size && !failed_; ++i) {
    loop->index = i;
    // What the body of the pass before has set is gone, the name `loop` taken by it included.
    scope_->size = 1;
    scope_->vars[0].value = loop_value;
    AssignTarget(stmt.target, walked->items[i]);
    RunBody(stmt.body);
    const Flow flow = std::exchange(flow_, Flow::kNormal);
    if (flow == Flow::kBreak) break;
  }
  scope_ = outer;
}

Value Interpreter::CallLoop(const LoopState& loop, const Args& args) {
  if (!loop.stmt->recursive) {
    return Fail("the loop must have the 'recursive' marker to be called");
  }
  if (args.count() != 1 || args.positional.empty()) return Fail("loop() takes one argument");
  const List* items = Items(args.positional[0]);
  if (items == nullptr) return Value();
  Text text(arena_);
  Text* const out = std::exchange(out_, &text);
  Scope* const scope = std::exchange(scope_, loop.scope);
  RunLoop(*loop.stmt, *items, loop.depth + 1);
  scope_ = scope;
  out_ = out;
  return text.FinishValue();
}

Value Interpreter::Capture(const Body& body) {
  Text text(arena_);
  Text* const out = std::exchange(out_, &text);
  Scope* const outer = scope_;
  scope_ = PushScope(outer);
  RunBody(body);
  scope_ = outer;
  out_ = out;
  return failed_ ? Value() : text.FinishValue();
}

void Interpreter::RunSetBlock(const Stmt& stmt) {
  Value value = Capture(stmt.body);
  if (!failed_ && stmt.filter != nullptr) value = EvalFilter(*stmt.filter, &value);
  if (!failed_) AssignTarget(stmt.target, value);
}

void Interpreter::RunCallBlock(const Stmt& stmt) {
  auto* macro = arena_.New<MacroObject>();
  macro->def = stmt.macro.get();
  macro->scope = scope_;
  const Value caller = Value::Object(Kind::kMacro, macro);
  const Value result = EvalCall(*stmt.expr, &caller);
  if (!failed_) EmitValue(result);
}

void Interpreter::RunWith(const Stmt& stmt) {
  std::vector<Value> values;
  for (const auto& [target, expr] : stmt.assignments) {
    values.push_back(Eval(*expr));
    if (failed_) return;
  }
  Scope* const outer = scope_;
  scope_ = PushScope(outer);
  for (size_t i = 0; i < values.size(); ++i) AssignTarget(stmt.assignments[i].first, values[i]);
  RunBody(stmt.body);
  scope_ = outer;
}

void Interpreter::RunGeneration(const Stmt& stmt) {
  const Value text = Capture(stmt.body);
  if (failed_) return;
  if (out_ == &output_) {
    const auto begin = static_cast<uint32_t>(output_.size());
    generated_.push_back({begin, begin + text.str().size, 0});
  } else {
    generated_elsewhere_ = true;
  }
  EmitValue(text);
}

Value Interpreter::CallMacro(const MacroObject& macro, const Args& args, const Value* caller) {
  if (++depth_ > limits_.max_depth) {
    return FailWith(absl::StatusCode::kResourceExhausted,
                    absl::StrCat("macros call deeper than ", limits_.max_depth, " levels"));
  }
  Text text(arena_);
  Text* const out = std::exchange(out_, &text);
  Scope* const scope = std::exchange(scope_, PushScope(macro.scope));
  const Flow flow = std::exchange(flow_, Flow::kNormal);
  const int line = line_;
  if (BindMacro(*macro.def, args, caller)) RunBody(macro.def->body);
  line_ = line;
  flow_ = flow;
  scope_ = scope;
  out_ = out;
  --depth_;
  return failed_ ? Value() : text.FinishValue();
}

bool Interpreter::BindMacro(const MacroDef& def, const Args& args, const Value* caller) {
  const size_t given = std::min(args.positional.size(), def.parameters.size());
  for (size_t i = 0; i < given; ++i) Assign(def.parameters[i], args.positional[i]);
  BindDefaults(def, given, args);
  return !failed_ && BindExtras(def, args, caller);
}

void Interpreter::BindDefaults(const MacroDef& def, size_t given, const Args& args) {
  const size_t first_default = def.parameters.size() - def.defaults.size();
  for (size_t i = given; i < def.parameters.size() && !failed_; ++i) {
    const Value* named = nullptr;
    for (const auto& [name, value] : args.named) {
      if (name->view() == def.parameter_names[i]->view()) named = &value;
    }
    if (named != nullptr) {
      Assign(def.parameters[i], *named);
    } else if (i >= first_default) {
      Assign(def.parameters[i], Eval(*def.defaults[i - first_default]));
    } else {
      Assign(def.parameters[i], Value::Undefined(def.parameter_names[i]));
    }
  }
}

bool Interpreter::BindExtras(const MacroDef& def, const Args& args, const Value* caller) {
  const Value extra_named = NewDict(arena_);
  for (const auto& argument : args.named) {
    const Str* const name = argument.first;
    const Value& value = argument.second;
    const auto known = std::find_if(def.parameter_names.begin(), def.parameter_names.end(),
                                    [&](const Str* p) { return p->view() == name->view(); });
    if (known == def.parameter_names.end()) {
      if (name->view() == "caller" && caller == nullptr) {
        caller = &value;
        continue;
      }
      extra_named.dict().Set(arena_, Value::String(name), value);
    } else if (static_cast<size_t>(known - def.parameter_names.begin()) < args.positional.size()) {
      Fail(absl::StrCat("macro got multiple values for argument '", name->view(), "'"));
    }
  }
  if (def.uses_kwargs) {
    Assign(program_.kwargs, extra_named);
  } else if (extra_named.dict().size > 0) {
    Fail(absl::StrCat("macro '", def.name->view(), "' takes no keyword argument '",
                      extra_named.dict().entries[0].key.view(), "'"));
  }
  if (def.uses_varargs) {
    const Value rest = NewList(arena_, Kind::kTuple);
    for (size_t i = def.parameters.size(); i < args.positional.size(); ++i) {
      rest.list().Push(arena_, args.positional[i]);
    }
    Assign(program_.varargs, rest);
  } else if (args.positional.size() > def.parameters.size()) {
    Fail(absl::StrCat("macro '", def.name->view(), "' takes not more than ", def.parameters.size(),
                      " argument(s)"));
  }
  if (def.uses_caller) {
    Assign(program_.caller, caller != nullptr ? *caller : Value::Undefined(nullptr));
  } else if (caller != nullptr) {
    Fail(absl::StrCat("macro '", def.name->view(), "' takes no keyword argument 'caller'"));
  }
  return !failed_;
}

void Interpreter::EmitValue(const Value& value) {
  if (failed_) return;
  if (value.is_string()) return out_->Append(value.str());
  AppendStr(value, *out_);
}

// Writes the pieces of a sum or concatenation of strings one by one, without building the whole.
void Interpreter::Emit(const Expr& expr) {
  const Expr* node = &expr;
  absl::InlinedVector<const Expr*, 8> rest;
  for (; node->kind == ExprKind::kAdd; node = node->a.get()) rest.push_back(node->b.get());
  Value left = Eval(*node);
  while (!failed_ && !rest.empty()) {
    const Value right = Eval(*rest.back());
    if (failed_) return;
    rest.pop_back();
    if (left.is_string() && right.is_string() && !left.str().markup && !right.str().markup) {
      EmitValue(left);
      left = right;
    } else {
      left = Add(left, right);
    }
  }
  EmitValue(left);
}

}  // namespace graft::jinja
