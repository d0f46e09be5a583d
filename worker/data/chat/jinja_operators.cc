// Expressions: their nodes, and the operators from the weakest to the strongest.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/chat/jinja_expression_parser.h"
#include "worker/data/chat/jinja_parser.h"

namespace graft::jinja {
namespace {

int HeightOf(const ExprPtr& expr) { return expr == nullptr ? 0 : expr->height; }

}  // namespace

absl::Status ExpressionParser::CheckDepth() const {
  return depth_ > kMaxParseDepth
             ? Error(absl::StrCat("nests deeper than ", kMaxParseDepth, " levels"))
             : absl::OkStatus();
}

ExprPtr ExpressionParser::Node(ExprKind kind, int line) {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  return node;
}

absl::StatusOr<ExprPtr> ExpressionParser::Sealed(ExprPtr node) const {
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

absl::StatusOr<ExprPtr> ExpressionParser::Unary(ExprKind kind, int line, ExprPtr a) const {
  ExprPtr node = Node(kind, line);
  node->a = std::move(a);
  return Sealed(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::Binary(ExprKind kind, int line, ExprPtr a,
                                                 ExprPtr b) const {
  ExprPtr node = Node(kind, line);
  node->a = std::move(a);
  node->b = std::move(b);
  return Sealed(std::move(node));
}

absl::StatusOr<ExprPtr> ExpressionParser::Expression(bool with_condition) {
  const DepthGuard guard(depth_);
  GRAFT_RETURN_IF_ERROR(CheckDepth());
  return with_condition ? Condition() : Or();
}

absl::StatusOr<ExprPtr> ExpressionParser::Condition() {
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

absl::StatusOr<ExprPtr> ExpressionParser::LeftToRight(absl::Span<const BinaryOp> ops,
                                                      Operand operand) {
  GRAFT_ASSIGN_OR_RETURN(ExprPtr left, (this->*operand)());
  while (true) {
    const int line = Now().line;
    const auto op = std::find_if(ops.begin(), ops.end(), [&](const BinaryOp& o) {
      return Now().IsOperator(o.text) || Now().IsName(o.text);
    });
    if (op == ops.end()) return left;
    Next();
    GRAFT_ASSIGN_OR_RETURN(ExprPtr right, (this->*operand)());
    GRAFT_ASSIGN_OR_RETURN(left, Binary(op->kind, line, std::move(left), std::move(right)));
  }
}

absl::StatusOr<ExprPtr> ExpressionParser::Or() {
  return LeftToRight({{"or", ExprKind::kOr}}, &ExpressionParser::And);
}

absl::StatusOr<ExprPtr> ExpressionParser::And() {
  return LeftToRight({{"and", ExprKind::kAnd}}, &ExpressionParser::Not);
}

absl::StatusOr<ExprPtr> ExpressionParser::Not() {
  if (!Now().IsName("not")) return Comparison();
  const DepthGuard guard(depth_);
  GRAFT_RETURN_IF_ERROR(CheckDepth());
  const int line = Now().line;
  Next();
  GRAFT_ASSIGN_OR_RETURN(ExprPtr value, Not());
  return Unary(ExprKind::kNot, line, std::move(value));
}

bool ExpressionParser::TakeCompareOp(CompareOp& op) {
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

absl::StatusOr<ExprPtr> ExpressionParser::Comparison() {
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

absl::StatusOr<ExprPtr> ExpressionParser::Sum() {
  return LeftToRight({{"+", ExprKind::kAdd}, {"-", ExprKind::kSub}}, &ExpressionParser::Concat);
}

absl::StatusOr<ExprPtr> ExpressionParser::Concat() {
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

absl::StatusOr<ExprPtr> ExpressionParser::Product() {
  return LeftToRight({{"*", ExprKind::kMul},
                      {"/", ExprKind::kDiv},
                      {"//", ExprKind::kFloorDiv},
                      {"%", ExprKind::kMod}},
                     &ExpressionParser::Power);
}

absl::StatusOr<ExprPtr> ExpressionParser::Power() {
  return LeftToRight({{"**", ExprKind::kPow}}, &ExpressionParser::UnaryWithFilters);
}

absl::StatusOr<ExprPtr> ExpressionParser::UnaryExpr(bool with_filter) {
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

}  // namespace graft::jinja
