// Expressions: literals, names, calls, subscripts, filters and tests.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_expression_parser.h"

namespace graft::jinja {

NameId ExpressionParser::Intern(absl::string_view name) {
  const auto [it, added] =
      program_.name_ids.try_emplace(std::string(name), static_cast<NameId>(program_.names.size()));
  if (added) program_.names.emplace_back(name);
  return it->second;
}

const Str* ExpressionParser::Constant(absl::string_view text) {
  const Str* str = NewStr(program_.arena, text);
  CharCount(*str);  // constants are shared by threads: nothing is written to them later
  return str;
}

absl::StatusOr<ExprPtr> ExpressionParser::Primary() {
  const Token& token = Now();
  ExprPtr node = Node(ExprKind::kConst, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      return NameOrKeyword();
    case TokenKind::kString: {
      std::string text;
      for (; Now().kind == TokenKind::kString; Next()) text += Now().text;
      node->constant = Value::String(Constant(text));
      return node;
    }
    case TokenKind::kInteger:
      node->constant = Value::Int(token.integer);
      Next();
      return node;
    case TokenKind::kFloat:
      node->constant = Value::Float(token.number);
      Next();
      return node;
    default:
      break;
  }
  if (SkipOperator("(")) {
    GRAFT_ASSIGN_OR_RETURN(node, TupleExpr(true, true));
    GRAFT_RETURN_IF_ERROR(ExpectOperator(")"));
    return node;
  }
  if (Now().IsOperator("[")) return ListLiteral();
  if (Now().IsOperator("{")) return DictLiteral();
  return Expected("an expression");
}

absl::StatusOr<ExprPtr> ExpressionParser::NameOrKeyword() {
  const Token& token = Now();
  ExprPtr node = Node(ExprKind::kConst, token.line);
  const std::string& name = token.text;
  if (name == "true" || name == "True") {
    node->constant = Value::Bool(true);
  } else if (name == "false" || name == "False") {
    node->constant = Value::Bool(false);
  } else if (name == "none" || name == "None") {
    node->constant = Value::None();
  } else {
    node->kind = ExprKind::kName;
    node->name = Intern(name);
    node->text = Constant(name);
    NoteName(node->name);
  }
  Next();
  return node;
}

void ExpressionParser::NoteName(NameId name) {
  for (MacroDef* macro : open_macros_) {
    macro->uses_caller |= name == program_.caller;
    macro->uses_varargs |= name == program_.varargs;
    macro->uses_kwargs |= name == program_.kwargs;
  }
}

bool ExpressionParser::AtTupleEnd(Names extra_end) const {
  const Token& token = Now();
  if (token.kind == TokenKind::kVariableEnd || token.kind == TokenKind::kBlockEnd ||
      token.kind == TokenKind::kEnd || token.IsOperator(")")) {
    return true;
  }
  return std::any_of(extra_end.begin(), extra_end.end(),
                     [&](absl::string_view name) { return token.IsName(name); });
}

absl::StatusOr<ExprPtr> ExpressionParser::TupleExpr(bool with_condition, bool parenthesised,
                                                    Names extra_end) {
  const int line = Now().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) {
      if (!SkipOperator(",")) break;
      is_tuple = true;
    }
    if (AtTupleEnd(extra_end)) break;
    GRAFT_ASSIGN_OR_RETURN(ExprPtr item, Expression(with_condition));
    items.push_back(std::move(item));
    if (!Now().IsOperator(",")) break;
  }
  if (!is_tuple && items.size() == 1) return std::move(items[0]);
  if (items.empty() && !parenthesised) return Expected("an expression");
  ExprPtr node = Node(ExprKind::kTuple, line);
  node->items = std::move(items);
  return Sealed(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::ListLiteral() {
  ExprPtr node = Node(ExprKind::kList, Now().line);
  Next();
  while (!Now().IsOperator("]")) {
    if (!node->items.empty()) GRAFT_RETURN_IF_ERROR(ExpectOperator(","));
    if (Now().IsOperator("]")) break;
    GRAFT_ASSIGN_OR_RETURN(ExprPtr item, Expression());
    node->items.push_back(std::move(item));
  }
  Next();
  return Sealed(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::DictLiteral() {
  ExprPtr node = Node(ExprKind::kDict, Now().line);
  Next();
  while (!Now().IsOperator("}")) {
    if (!node->items.empty()) GRAFT_RETURN_IF_ERROR(ExpectOperator(","));
    if (Now().IsOperator("}")) break;
    GRAFT_ASSIGN_OR_RETURN(ExprPtr key, Expression());
    GRAFT_RETURN_IF_ERROR(ExpectOperator(":"));
    GRAFT_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    node->items.push_back(std::move(key));
    node->items.push_back(std::move(value));
  }
  Next();
  return Sealed(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::Postfix(ExprPtr node) {
  while (true) {
    if (Now().IsOperator(".") || Now().IsOperator("[")) {
      GRAFT_ASSIGN_OR_RETURN(node, Subscript(std::move(node)));
    } else if (Now().IsOperator("(")) {
      GRAFT_ASSIGN_OR_RETURN(node, Call(std::move(node)));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::FiltersAndTests(ExprPtr node) {
  while (true) {
    if (Now().IsOperator("|")) {
      GRAFT_ASSIGN_OR_RETURN(node, Filter(std::move(node)));
    } else if (Now().IsName("is")) {
      GRAFT_ASSIGN_OR_RETURN(node, Test(std::move(node)));
    } else if (Now().IsOperator("(")) {
      GRAFT_ASSIGN_OR_RETURN(node, Call(std::move(node)));
    } else {
      return node;
    }
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Subscript(ExprPtr base) {
  const int line = Now().line;
  if (SkipOperator(".")) {
    const Token& token = Now();
    ExprPtr node = Node(ExprKind::kAttr, line);
    node->a = std::move(base);
    if (token.kind == TokenKind::kName) {
      node->text = Constant(token.text);
    } else if (token.kind == TokenKind::kInteger) {
      node->kind = ExprKind::kItem;
      node->b = Node(ExprKind::kConst, line);
      node->b->constant = Value::Int(token.integer);
    } else {
      return Expected("a name or a number");
    }
    Next();
    return Sealed(std::move(node));
  }
  Next();
  std::vector<ExprPtr> items;
  while (!Now().IsOperator("]")) {
    if (!items.empty()) GRAFT_RETURN_IF_ERROR(ExpectOperator(","));
    GRAFT_ASSIGN_OR_RETURN(ExprPtr item, Subscribed());
    items.push_back(std::move(item));
  }
  if (items.empty()) return Expected("an index");
  Next();
  ExprPtr index = std::move(items[0]);
  if (items.size() > 1) {
    items[0] = std::move(index);
    index = Node(ExprKind::kTuple, line);
    index->items = std::move(items);
    GRAFT_ASSIGN_OR_RETURN(index, Sealed(std::move(index)));
  }
  return Binary(ExprKind::kItem, line, std::move(base), std::move(index));
}

absl::StatusOr<ExprPtr> ExpressionParser::Subscribed() {
  const int line = Now().line;
  ExprPtr first;
  if (!Now().IsOperator(":")) {
    GRAFT_ASSIGN_OR_RETURN(first, Expression());
    if (!Now().IsOperator(":")) return first;
  }
  Next();
  ExprPtr node = Node(ExprKind::kSlice, line);
  node->a = std::move(first);
  const auto at_end = [&] { return Now().IsOperator("]") || Now().IsOperator(","); };
  if (!Now().IsOperator(":") && !at_end()) {
    GRAFT_ASSIGN_OR_RETURN(node->b, Expression());
  }
  if (SkipOperator(":") && !at_end()) {
    GRAFT_ASSIGN_OR_RETURN(node->c, Expression());
  }
  return Sealed(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::Call(ExprPtr callee) {
  ExprPtr node = Node(ExprKind::kCall, Now().line);
  node->a = std::move(callee);
  GRAFT_ASSIGN_OR_RETURN(node->args, Arguments());
  return Sealed(std::move(node));
}

absl::StatusOr<std::unique_ptr<CallArgs>> ExpressionParser::Arguments() {
  auto args = std::make_unique<CallArgs>();
  GRAFT_RETURN_IF_ERROR(ExpectOperator("("));
  bool first = true;
  while (!Now().IsOperator(")")) {
    if (!first) {
      GRAFT_RETURN_IF_ERROR(ExpectOperator(","));
      if (Now().IsOperator(")")) break;
    }
    first = false;
    GRAFT_RETURN_IF_ERROR(Argument(*args));
  }
  Next();
  return args;
}

absl::Status ExpressionParser::Argument(CallArgs& args) {
  if (SkipOperator("*")) {
    if (args.star != nullptr || args.double_star != nullptr) return Error("invalid call");
    GRAFT_ASSIGN_OR_RETURN(args.star, Expression());
  } else if (SkipOperator("**")) {
    if (args.double_star != nullptr) return Error("invalid call");
    GRAFT_ASSIGN_OR_RETURN(args.double_star, Expression());
  } else if (Now().kind == TokenKind::kName && Ahead().IsOperator("=")) {
    const Str* name = Constant(Now().text);
    Next();
    Next();
    GRAFT_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    args.named.emplace_back(name, std::move(value));
  } else {
    if (!args.named.empty() || args.star != nullptr || args.double_star != nullptr) {
      return Error("a positional argument follows a named one");
    }
    GRAFT_ASSIGN_OR_RETURN(ExprPtr value, Expression());
    args.positional.push_back(std::move(value));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ExpressionParser::DottedName() {
  if (Now().kind != TokenKind::kName) return Expected("a name");
  std::string name = Now().text;
  Next();
  while (SkipOperator(".")) {
    if (Now().kind != TokenKind::kName) return Expected("a name");
    absl::StrAppend(&name, ".", Now().text);
    Next();
  }
  return name;
}

absl::StatusOr<ExprPtr> ExpressionParser::Filter(ExprPtr base, bool bar) {
  const int line = Now().line;
  if (bar) Next();
  ExprPtr node = Node(ExprKind::kFilter, line);
  node->a = std::move(base);
  GRAFT_ASSIGN_OR_RETURN(const std::string name, DottedName());
  node->text = Constant(name);
  node->filter = FindFilter(name);
  if (Now().IsOperator("(")) {
    GRAFT_ASSIGN_OR_RETURN(node->args, Arguments());
  }
  return Sealed(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::Test(ExprPtr base) {
  ExprPtr node = Node(ExprKind::kTest, Now().line);
  Next();
  node->negated = SkipName("not");
  node->a = std::move(base);
  GRAFT_ASSIGN_OR_RETURN(const std::string name, DottedName());
  node->text = Constant(name);
  node->test = FindTest(name);
  if (Now().IsOperator("(")) {
    GRAFT_ASSIGN_OR_RETURN(node->args, Arguments());
  } else if (AtTestArgument()) {
    if (Now().IsName("is")) return Error("you cannot chain multiple tests with is");
    node->args = std::make_unique<CallArgs>();
    GRAFT_ASSIGN_OR_RETURN(ExprPtr arg, Primary());
    GRAFT_ASSIGN_OR_RETURN(arg, Postfix(std::move(arg)));
    node->args->positional.push_back(std::move(arg));
  }
  return Sealed(std::move(node));
}

bool ExpressionParser::AtTestArgument() const {
  const Token& token = Now();
  switch (token.kind) {
    case TokenKind::kName:
      return !token.IsName("else") && !token.IsName("or") && !token.IsName("and");
    case TokenKind::kString:
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return true;
    default:
      return token.IsOperator("(") || token.IsOperator("[") || token.IsOperator("{");
  }
}

}  // namespace graft::jinja
