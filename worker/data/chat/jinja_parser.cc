#include "worker/data/chat/jinja_parser.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_lexer.h"

namespace graft::jinja {
namespace {

using Names = std::initializer_list<absl::string_view>;

class Parser {
 public:
  Parser(std::vector<Token> tokens, Program& program)
      : tokens_(std::move(tokens)), program_(program) {
    program_.loop = Intern("loop");
    program_.caller = Intern("caller");
    program_.varargs = Intern("varargs");
    program_.kwargs = Intern("kwargs");
  }

  absl::Status Run() {
    GRAFT_ASSIGN_OR_RETURN(program_.body, Statements({}));
    for (const FunctionEntry& function : Functions()) {
      const NameId name = program_.FindName(function.name);
      if (name != Program::kNoName) program_.functions.emplace_back(name, &function);
    }
    return absl::OkStatus();
  }

 private:
  // --- tokens
  const Token& Now() const { return tokens_[pos_]; }
  const Token& Ahead() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  void Next() {
    if (pos_ + 1 < tokens_.size()) ++pos_;
  }
  bool SkipOperator(absl::string_view op) {
    if (!Now().IsOperator(op)) return false;
    Next();
    return true;
  }
  bool SkipName(absl::string_view name) {
    if (!Now().IsName(name)) return false;
    Next();
    return true;
  }
  absl::Status Error(absl::string_view message) const {
    return absl::InvalidArgumentError(
        absl::StrCat("chat template, line ", Now().line, ": ", message));
  }
  static std::string Describe(const Token& token) {
    switch (token.kind) {
      case TokenKind::kEnd:
        return "the end of the template";
      case TokenKind::kBlockEnd:
        return "'%}'";
      case TokenKind::kVariableEnd:
        return "'}}'";
      case TokenKind::kData:
        return "text";
      default:
        return absl::StrCat("'", token.text, "'");
    }
  }
  absl::Status Expected(absl::string_view what) const {
    return Error(absl::StrCat("expected ", what, ", found ", Describe(Now())));
  }
  absl::Status ExpectOperator(absl::string_view op) {
    return SkipOperator(op) ? absl::OkStatus() : Expected(absl::StrCat("'", op, "'"));
  }
  absl::Status ExpectName(absl::string_view name) {
    return SkipName(name) ? absl::OkStatus() : Expected(absl::StrCat("'", name, "'"));
  }
  absl::Status ExpectBlockEnd() {
    if (Now().kind != TokenKind::kBlockEnd) return Expected("'%}'");
    Next();
    return absl::OkStatus();
  }

  NameId Intern(absl::string_view name) {
    const auto [it, added] = program_.name_ids.try_emplace(
        std::string(name), static_cast<NameId>(program_.names.size()));
    if (added) program_.names.emplace_back(name);
    return it->second;
  }
  const Str* Constant(absl::string_view text) {
    const Str* str = NewStr(program_.arena, text);
    CharCount(*str);  // constants are shared by threads: nothing is written to them later
    return str;
  }

  struct DepthGuard {
    explicit DepthGuard(int& depth) : depth(depth) { ++depth; }
    ~DepthGuard() { --depth; }
    int& depth;
  };
  absl::Status CheckDepth() const {
    return depth_ > kMaxParseDepth
               ? Error(absl::StrCat("nests deeper than ", kMaxParseDepth, " levels"))
               : absl::OkStatus();
  }

  // --- expression nodes
  ExprPtr Node(ExprKind kind, int line) {
    auto node = std::make_unique<Expr>();
    node->kind = kind;
    node->line = line;
    return node;
  }
  static int HeightOf(const ExprPtr& expr) { return expr == nullptr ? 0 : expr->height; }
  absl::StatusOr<ExprPtr> Sealed(ExprPtr node) const {
    int height = std::max({HeightOf(node->a), HeightOf(node->b), HeightOf(node->c)});
    for (const ExprPtr& item : node->items) height = std::max(height, HeightOf(item));
    if (node->args != nullptr) {
      for (const ExprPtr& arg : node->args->positional) height = std::max(height, HeightOf(arg));
      for (const auto& [name, arg] : node->args->named) height = std::max(height, HeightOf(arg));
    }
    node->height = height + 1;
    if (node->height > kMaxExpressionHeight) {
      return Error(absl::StrCat("an expression of more than ", kMaxExpressionHeight, " levels"));
    }
    return node;
  }
  absl::StatusOr<ExprPtr> Unary(ExprKind kind, int line, ExprPtr a) const {
    auto node = std::make_unique<Expr>();
    node->kind = kind;
    node->line = line;
    node->a = std::move(a);
    return Sealed(std::move(node));
  }
  absl::StatusOr<ExprPtr> Binary(ExprKind kind, int line, ExprPtr a, ExprPtr b) const {
    auto node = std::make_unique<Expr>();
    node->kind = kind;
    node->line = line;
    node->a = std::move(a);
    node->b = std::move(b);
    return Sealed(std::move(node));
  }

  // --- expressions, lowest precedence first
  absl::StatusOr<ExprPtr> Expression(bool with_condition = true) {
    const DepthGuard guard(depth_);
    GRAFT_RETURN_IF_ERROR(CheckDepth());
    return with_condition ? Condition() : Or();
  }

  absl::StatusOr<ExprPtr> Condition() {
    const int line = Now().line;
    GRAFT_ASSIGN_OR_RETURN(ExprPtr value, Or());
    while (SkipName("if")) {
      ExprPtr node = Node(ExprKind::kCondition, line);
      GRAFT_ASSIGN_OR_RETURN(node->b, Or());
      if (SkipName("else")) {
        GRAFT_ASSIGN_OR_RETURN(node->c, Expression());
      }
      node->a = std::move(value);
      GRAFT_ASSIGN_OR_RETURN(value, Sealed(std::move(node)));
    }
    return value;
  }

  absl::StatusOr<ExprPtr> Or() {
    GRAFT_ASSIGN_OR_RETURN(ExprPtr left, And());
    while (Now().IsName("or")) {
      const int line = Now().line;
      Next();
      GRAFT_ASSIGN_OR_RETURN(ExprPtr right, And());
      GRAFT_ASSIGN_OR_RETURN(left, Binary(ExprKind::kOr, line, std::move(left), std::move(right)));
    }
    return left;
  }

  absl::StatusOr<ExprPtr> And() {
    GRAFT_ASSIGN_OR_RETURN(ExprPtr left, Not());
    while (Now().IsName("and")) {
      const int line = Now().line;
      Next();
      GRAFT_ASSIGN_OR_RETURN(ExprPtr right, Not());
      GRAFT_ASSIGN_OR_RETURN(left, Binary(ExprKind::kAnd, line, std::move(left), std::move(right)));
    }
    return left;
  }

  absl::StatusOr<ExprPtr> Not() {
    if (!Now().IsName("not")) return Comparison();
    const DepthGuard guard(depth_);
    GRAFT_RETURN_IF_ERROR(CheckDepth());
    const int line = Now().line;
    Next();
    GRAFT_ASSIGN_OR_RETURN(ExprPtr value, Not());
    return Unary(ExprKind::kNot, line, std::move(value));
  }

  bool TakeCompareOp(CompareOp& op) {
    static constexpr std::pair<absl::string_view, CompareOp> kOps[] = {
        {"==", CompareOp::kEq}, {"!=", CompareOp::kNe}, {"<", CompareOp::kLt},
        {"<=", CompareOp::kLe}, {">", CompareOp::kGt},  {">=", CompareOp::kGe}};
    for (const auto& [text, kind] : kOps) {
      if (SkipOperator(text)) return op = kind, true;
    }
    if (SkipName("in")) return op = CompareOp::kIn, true;
    if (Now().IsName("not") && Ahead().IsName("in")) {
      Next();
      Next();
      return op = CompareOp::kNotIn, true;
    }
    return false;
  }

  absl::StatusOr<ExprPtr> Comparison() {
    const int line = Now().line;
    GRAFT_ASSIGN_OR_RETURN(ExprPtr first, Sum());
    CompareOp op;
    if (!TakeCompareOp(op)) return first;
    ExprPtr node = Node(ExprKind::kCompare, line);
    node->items.push_back(std::move(first));
    do {
      node->ops.push_back(op);
      GRAFT_ASSIGN_OR_RETURN(ExprPtr next, Sum());
      node->items.push_back(std::move(next));
    } while (TakeCompareOp(op));
    return Sealed(std::move(node));
  }

  absl::StatusOr<ExprPtr> Sum() {
    GRAFT_ASSIGN_OR_RETURN(ExprPtr left, Concat());
    while (Now().IsOperator("+") || Now().IsOperator("-")) {
      const ExprKind kind = Now().text == "+" ? ExprKind::kAdd : ExprKind::kSub;
      const int line = Now().line;
      Next();
      GRAFT_ASSIGN_OR_RETURN(ExprPtr right, Concat());
      GRAFT_ASSIGN_OR_RETURN(left, Binary(kind, line, std::move(left), std::move(right)));
    }
    return left;
  }

  absl::StatusOr<ExprPtr> Concat() {
    const int line = Now().line;
    GRAFT_ASSIGN_OR_RETURN(ExprPtr first, Product());
    if (!Now().IsOperator("~")) return first;
    ExprPtr node = Node(ExprKind::kConcat, line);
    node->items.push_back(std::move(first));
    while (SkipOperator("~")) {
      GRAFT_ASSIGN_OR_RETURN(ExprPtr next, Product());
      node->items.push_back(std::move(next));
    }
    return Sealed(std::move(node));
  }

  absl::StatusOr<ExprPtr> Product() {
    static constexpr std::pair<absl::string_view, ExprKind> kOps[] = {{"*", ExprKind::kMul},
                                                                      {"/", ExprKind::kDiv},
                                                                      {"//", ExprKind::kFloorDiv},
                                                                      {"%", ExprKind::kMod}};
    GRAFT_ASSIGN_OR_RETURN(ExprPtr left, Power());
    while (true) {
      const int line = Now().line;
      const auto* op = std::find_if(std::begin(kOps), std::end(kOps),
                                    [&](const auto& o) { return Now().IsOperator(o.first); });
      if (op == std::end(kOps)) return left;
      Next();
      GRAFT_ASSIGN_OR_RETURN(ExprPtr right, Power());
      GRAFT_ASSIGN_OR_RETURN(left, Binary(op->second, line, std::move(left), std::move(right)));
    }
  }

  absl::StatusOr<ExprPtr> Power() {
    GRAFT_ASSIGN_OR_RETURN(ExprPtr left, UnaryExpr(true));
    while (Now().IsOperator("**")) {
      const int line = Now().line;
      Next();
      GRAFT_ASSIGN_OR_RETURN(ExprPtr right, UnaryExpr(true));
      GRAFT_ASSIGN_OR_RETURN(left, Binary(ExprKind::kPow, line, std::move(left), std::move(right)));
    }
    return left;
  }

  absl::StatusOr<ExprPtr> UnaryExpr(bool with_filter) {
    const DepthGuard guard(depth_);
    GRAFT_RETURN_IF_ERROR(CheckDepth());
    const int line = Now().line;
    ExprPtr node;
    if (Now().IsOperator("-") || Now().IsOperator("+")) {
      const ExprKind kind = Now().text == "-" ? ExprKind::kNeg : ExprKind::kPos;
      Next();
      GRAFT_ASSIGN_OR_RETURN(ExprPtr inner, UnaryExpr(false));
      GRAFT_ASSIGN_OR_RETURN(node, Unary(kind, line, std::move(inner)));
    } else {
      GRAFT_ASSIGN_OR_RETURN(node, Primary());
    }
    GRAFT_ASSIGN_OR_RETURN(node, Postfix(std::move(node)));
    if (!with_filter) return node;
    return FiltersAndTests(std::move(node));
  }

  absl::StatusOr<ExprPtr> Primary() {
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

  absl::StatusOr<ExprPtr> NameOrKeyword() {
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

  void NoteName(NameId name) {
    for (MacroDef* macro : open_macros_) {
      macro->uses_caller |= name == program_.caller;
      macro->uses_varargs |= name == program_.varargs;
      macro->uses_kwargs |= name == program_.kwargs;
    }
  }

  bool AtTupleEnd(Names extra_end) const {
    const Token& token = Now();
    if (token.kind == TokenKind::kVariableEnd || token.kind == TokenKind::kBlockEnd ||
        token.kind == TokenKind::kEnd || token.IsOperator(")")) {
      return true;
    }
    return std::any_of(extra_end.begin(), extra_end.end(),
                       [&](absl::string_view name) { return token.IsName(name); });
  }

  // One expression, or several with commas: a tuple. `parenthesised` allows the empty tuple.
  absl::StatusOr<ExprPtr> TupleExpr(bool with_condition, bool parenthesised, Names extra_end = {}) {
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

  absl::StatusOr<ExprPtr> ListLiteral() {
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

  absl::StatusOr<ExprPtr> DictLiteral() {
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

  absl::StatusOr<ExprPtr> Postfix(ExprPtr node) {
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

  absl::StatusOr<ExprPtr> FiltersAndTests(ExprPtr node) {
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

  absl::StatusOr<ExprPtr> Subscript(ExprPtr base) {
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

  // An index, or a slice a:b:c.
  absl::StatusOr<ExprPtr> Subscribed() {
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

  absl::StatusOr<ExprPtr> Call(ExprPtr callee) {
    ExprPtr node = Node(ExprKind::kCall, Now().line);
    node->a = std::move(callee);
    GRAFT_ASSIGN_OR_RETURN(node->args, Arguments());
    return Sealed(std::move(node));
  }

  absl::StatusOr<std::unique_ptr<CallArgs>> Arguments() {
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

  absl::Status Argument(CallArgs& args) {
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

  absl::StatusOr<std::string> DottedName() {
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

  // "| name(args)", the bar not yet taken. `base` is null at the start of a filter block.
  absl::StatusOr<ExprPtr> Filter(ExprPtr base, bool bar = true) {
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

  absl::StatusOr<ExprPtr> Test(ExprPtr base) {
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

  bool AtTestArgument() const {
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

  // --- statements
  // Statements up to a block whose name is in `ends`, which is left to be read: at its name.
  absl::StatusOr<Body> Statements(Names ends) {
    const DepthGuard guard(depth_);
    GRAFT_RETURN_IF_ERROR(CheckDepth());
    Body body;
    while (true) {
      const Token& token = Now();
      if (token.kind == TokenKind::kEnd) {
        if (ends.size() == 0) return body;
        return Expected(absl::StrCat("'", *ends.begin(), "'"));
      }
      auto stmt = std::make_unique<Stmt>();
      stmt->line = token.line;
      if (token.kind == TokenKind::kData) {
        stmt->kind = StmtKind::kData;
        stmt->text = Constant(token.text);
        Next();
      } else if (token.kind == TokenKind::kVariableBegin) {
        Next();
        stmt->kind = StmtKind::kOutput;
        GRAFT_ASSIGN_OR_RETURN(stmt->expr, TupleExpr(true, false));
        if (Now().kind != TokenKind::kVariableEnd) return Expected("'}}'");
        Next();
      } else {
        Next();
        if (Now().kind == TokenKind::kName &&
            std::find(ends.begin(), ends.end(), Now().text) != ends.end()) {
          return body;
        }
        GRAFT_RETURN_IF_ERROR(Statement(*stmt));
      }
      body.push_back(std::move(stmt));
    }
  }

  // Statements up to the block `end`, which is taken.
  absl::StatusOr<Body> BodyUntil(absl::string_view end) {
    GRAFT_RETURN_IF_ERROR(ExpectBlockEnd());
    GRAFT_ASSIGN_OR_RETURN(Body body, Statements({end}));
    Next();
    GRAFT_RETURN_IF_ERROR(ExpectBlockEnd());
    return body;
  }

  absl::Status Statement(Stmt& stmt) {
    if (Now().kind != TokenKind::kName) return Expected("a tag name");
    const std::string name = Now().text;
    Next();
    if (name == "if") return If(stmt);
    if (name == "for") return For(stmt);
    if (name == "set") return Set(stmt);
    if (name == "macro") return Macro(stmt);
    if (name == "call") return CallBlock(stmt);
    if (name == "filter") return FilterBlock(stmt);
    if (name == "with") return With(stmt);
    if (name == "generation") return Generation(stmt);
    if (name == "print") return Print(stmt);
    if (name == "break" || name == "continue") return LoopControl(stmt, name == "break");
    for (const absl::string_view other :
         {"include", "import", "from", "extends", "block", "autoescape", "trans", "do", "debug"}) {
      if (name == other) {
        return absl::UnimplementedError(
            absl::StrCat("chat template, line ", stmt.line, ": {% ", name,
                         " %} is not supported: no chat template of a model uses it"));
      }
    }
    return Error(absl::StrCat("encountered unknown tag '", name, "'"));
  }

  absl::Status Print(Stmt& stmt) {
    stmt.kind = StmtKind::kOutput;
    GRAFT_ASSIGN_OR_RETURN(stmt.expr, TupleExpr(true, false));
    return ExpectBlockEnd();
  }

  absl::Status LoopControl(Stmt& stmt, bool is_break) {
    if (loops_ == 0) return Error("break and continue belong into a for loop");
    stmt.kind = is_break ? StmtKind::kBreak : StmtKind::kContinue;
    return ExpectBlockEnd();
  }

  absl::Status If(Stmt& stmt) {
    stmt.kind = StmtKind::kIf;
    while (true) {
      GRAFT_ASSIGN_OR_RETURN(ExprPtr condition, TupleExpr(false, false));
      GRAFT_RETURN_IF_ERROR(ExpectBlockEnd());
      GRAFT_ASSIGN_OR_RETURN(Body body, Statements({"elif", "else", "endif"}));
      stmt.branches.emplace_back(std::move(condition), std::move(body));
      if (SkipName("elif")) continue;
      if (SkipName("else")) {
        GRAFT_ASSIGN_OR_RETURN(stmt.otherwise, BodyUntil("endif"));
        return absl::OkStatus();
      }
      Next();
      return ExpectBlockEnd();
    }
  }

  absl::Status For(Stmt& stmt) {
    stmt.kind = StmtKind::kFor;
    GRAFT_ASSIGN_OR_RETURN(stmt.target, AssignTarget(false, {"in"}));
    GRAFT_RETURN_IF_ERROR(ExpectName("in"));
    GRAFT_ASSIGN_OR_RETURN(stmt.expr, TupleExpr(false, false, {"recursive"}));
    if (SkipName("if")) {
      GRAFT_ASSIGN_OR_RETURN(stmt.filter, Expression());
    }
    stmt.recursive = SkipName("recursive");
    GRAFT_RETURN_IF_ERROR(ExpectBlockEnd());
    ++loops_;
    GRAFT_ASSIGN_OR_RETURN(stmt.body, Statements({"endfor", "else"}));
    --loops_;
    if (SkipName("else")) {
      GRAFT_ASSIGN_OR_RETURN(stmt.otherwise, BodyUntil("endfor"));
      return absl::OkStatus();
    }
    Next();
    return ExpectBlockEnd();
  }

  absl::StatusOr<Target> OneTarget(bool with_namespace) {
    if (SkipOperator("(")) {
      GRAFT_ASSIGN_OR_RETURN(Target target, AssignTarget(false, {}));
      GRAFT_RETURN_IF_ERROR(ExpectOperator(")"));
      return target;
    }
    if (Now().kind != TokenKind::kName) return Expected("a name to assign to");
    static constexpr absl::string_view kReserved[] = {"true", "false", "none",
                                                      "True", "False", "None"};
    for (const absl::string_view reserved : kReserved) {
      if (Now().text == reserved) return Error(absl::StrCat("can't assign to '", reserved, "'"));
    }
    Target target;
    target.name = Intern(Now().text);
    Next();
    if (with_namespace && SkipOperator(".")) {
      if (Now().kind != TokenKind::kName) return Expected("a name");
      target.attribute = Constant(Now().text);
      Next();
    }
    return target;
  }

  absl::StatusOr<Target> AssignTarget(bool with_namespace, Names extra_end) {
    const DepthGuard guard(depth_);
    GRAFT_RETURN_IF_ERROR(CheckDepth());
    Target target;
    bool is_tuple = false;
    while (true) {
      if (is_tuple && (AtTupleEnd(extra_end) || Now().IsOperator("="))) break;
      GRAFT_ASSIGN_OR_RETURN(Target item, OneTarget(with_namespace));
      target.tuple.push_back(std::move(item));
      if (!SkipOperator(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      Target only = std::move(target.tuple[0]);
      return only;
    }
    return target;
  }

  absl::Status Set(Stmt& stmt) {
    GRAFT_ASSIGN_OR_RETURN(stmt.target, AssignTarget(true, {}));
    if (SkipOperator("=")) {
      stmt.kind = StmtKind::kSet;
      GRAFT_ASSIGN_OR_RETURN(stmt.expr, TupleExpr(true, false));
      return ExpectBlockEnd();
    }
    stmt.kind = StmtKind::kSetBlock;
    while (Now().IsOperator("|")) {
      GRAFT_ASSIGN_OR_RETURN(stmt.filter, Filter(std::move(stmt.filter)));
    }
    GRAFT_ASSIGN_OR_RETURN(stmt.body, BodyUntil("endset"));
    return absl::OkStatus();
  }

  absl::Status Signature(MacroDef& macro) {
    GRAFT_RETURN_IF_ERROR(ExpectOperator("("));
    while (!Now().IsOperator(")")) {
      if (!macro.parameters.empty()) GRAFT_RETURN_IF_ERROR(ExpectOperator(","));
      if (Now().kind != TokenKind::kName) return Expected("the name of a parameter");
      macro.parameters.push_back(Intern(Now().text));
      macro.parameter_names.push_back(Constant(Now().text));
      Next();
      if (SkipOperator("=")) {
        GRAFT_ASSIGN_OR_RETURN(ExprPtr value, Expression());
        macro.defaults.push_back(std::move(value));
      } else if (!macro.defaults.empty()) {
        return Error("a parameter without default follows one with");
      }
    }
    Next();
    return absl::OkStatus();
  }

  absl::Status MacroBody(MacroDef& macro, absl::string_view end) {
    open_macros_.push_back(&macro);
    const int loops = std::exchange(loops_, 0);
    auto body = BodyUntil(end);
    loops_ = loops;
    open_macros_.pop_back();
    GRAFT_RETURN_IF_ERROR(body.status());
    macro.body = *std::move(body);
    return absl::OkStatus();
  }

  absl::Status Macro(Stmt& stmt) {
    stmt.kind = StmtKind::kMacro;
    stmt.macro = std::make_unique<MacroDef>();
    if (Now().kind != TokenKind::kName) return Expected("the name of the macro");
    stmt.macro->name = Constant(Now().text);
    stmt.macro->name_id = Intern(Now().text);
    Next();
    GRAFT_RETURN_IF_ERROR(Signature(*stmt.macro));
    return MacroBody(*stmt.macro, "endmacro");
  }

  absl::Status CallBlock(Stmt& stmt) {
    stmt.kind = StmtKind::kCallBlock;
    stmt.macro = std::make_unique<MacroDef>();
    stmt.macro->name = Constant("caller");
    if (Now().IsOperator("(")) GRAFT_RETURN_IF_ERROR(Signature(*stmt.macro));
    GRAFT_ASSIGN_OR_RETURN(stmt.expr, Expression());
    if (stmt.expr->kind != ExprKind::kCall) return Error("expected call");
    return MacroBody(*stmt.macro, "endcall");
  }

  absl::Status FilterBlock(Stmt& stmt) {
    stmt.kind = StmtKind::kFilterBlock;
    GRAFT_ASSIGN_OR_RETURN(stmt.expr, Filter(nullptr, /*bar=*/false));
    while (Now().IsOperator("|")) {
      GRAFT_ASSIGN_OR_RETURN(stmt.expr, Filter(std::move(stmt.expr)));
    }
    GRAFT_ASSIGN_OR_RETURN(stmt.body, BodyUntil("endfilter"));
    return absl::OkStatus();
  }

  absl::Status With(Stmt& stmt) {
    stmt.kind = StmtKind::kWith;
    while (Now().kind != TokenKind::kBlockEnd) {
      if (!stmt.assignments.empty()) GRAFT_RETURN_IF_ERROR(ExpectOperator(","));
      GRAFT_ASSIGN_OR_RETURN(Target target, OneTarget(false));
      GRAFT_RETURN_IF_ERROR(ExpectOperator("="));
      GRAFT_ASSIGN_OR_RETURN(ExprPtr value, Expression());
      stmt.assignments.emplace_back(std::move(target), std::move(value));
    }
    GRAFT_ASSIGN_OR_RETURN(stmt.body, BodyUntil("endwith"));
    return absl::OkStatus();
  }

  absl::Status Generation(Stmt& stmt) {
    stmt.kind = StmtKind::kGeneration;
    program_.has_generation = true;
    const int loops = std::exchange(loops_, 0);  // its body is a call block
    GRAFT_ASSIGN_OR_RETURN(stmt.body, BodyUntil("endgeneration"));
    loops_ = loops;
    return absl::OkStatus();
  }

  std::vector<Token> tokens_;
  Program& program_;
  size_t pos_ = 0;
  int depth_ = 0;
  int loops_ = 0;
  std::vector<MacroDef*> open_macros_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const Program>> Parse(absl::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(absl::StrCat("chat template of ", source.size(),
                                                   " bytes: the limit is ", kMaxTemplateBytes));
  }
  GRAFT_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  auto program = std::make_unique<Program>();
  GRAFT_RETURN_IF_ERROR(Parser(std::move(tokens), *program).Run());
  return program;
}

}  // namespace graft::jinja
