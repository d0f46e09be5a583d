// The expressions of jinja2's grammar: the half of the parser that statements stand on.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/data/chat/jinja_ast.h"
#include "worker/data/chat/jinja_token_cursor.h"

namespace graft::jinja {

class ExpressionParser : protected TokenCursor {
 protected:
  using Names = std::initializer_list<absl::string_view>;

  ExpressionParser(std::vector<Token> tokens, Program& program)
      : TokenCursor(std::move(tokens)), program_(program) {}

  // A count of how deep statements and expressions nest, for as long as it lives.
  struct DepthGuard {
    explicit DepthGuard(int& depth) : depth(depth) { ++depth; }
    ~DepthGuard() { --depth; }
    int& depth;
  };
  absl::Status CheckDepth() const;

  NameId Intern(absl::string_view name);
  const Str* Constant(absl::string_view text);

  absl::StatusOr<ExprPtr> Expression(bool with_condition = true);
  // One expression, or several with commas: a tuple. `parenthesised` allows the empty tuple.
  absl::StatusOr<ExprPtr> TupleExpr(bool with_condition, bool parenthesised, Names extra_end = {});
  // "| name(args)", the bar not yet taken. `base` is null at the start of a filter block.
  absl::StatusOr<ExprPtr> Filter(ExprPtr base, bool bar = true);
  bool AtTupleEnd(Names extra_end) const;

  Program& program_;
  int depth_ = 0;
  std::vector<MacroDef*> open_macros_;  // around the expression, which may use their specials

 private:
  struct BinaryOp {
    absl::string_view text;
    ExprKind kind;
  };
  using Operand = absl::StatusOr<ExprPtr> (ExpressionParser::*)();

  static ExprPtr Node(ExprKind kind, int line);
  // `node` with its height; an error where that is out of bounds.
  absl::StatusOr<ExprPtr> Sealed(ExprPtr node) const;
  absl::StatusOr<ExprPtr> Unary(ExprKind kind, int line, ExprPtr a) const;
  absl::StatusOr<ExprPtr> Binary(ExprKind kind, int line, ExprPtr a, ExprPtr b) const;
  // operand (op operand)*, grouped from the left.
  absl::StatusOr<ExprPtr> LeftToRight(absl::Span<const BinaryOp> ops, Operand operand);

  // jinja_operators.cc: lowest precedence first
  absl::StatusOr<ExprPtr> Condition();
  absl::StatusOr<ExprPtr> Or();
  absl::StatusOr<ExprPtr> And();
  absl::StatusOr<ExprPtr> Not();
  bool TakeCompareOp(CompareOp& op);
  absl::StatusOr<ExprPtr> Comparison();
  absl::StatusOr<ExprPtr> Sum();
  absl::StatusOr<ExprPtr> Concat();
  absl::StatusOr<ExprPtr> Product();
  absl::StatusOr<ExprPtr> Power();
  absl::StatusOr<ExprPtr> UnaryWithFilters() { return UnaryExpr(true); }
  absl::StatusOr<ExprPtr> UnaryExpr(bool with_filter);

  // jinja_primaries.cc: literals, names, and what stands behind them
  absl::StatusOr<ExprPtr> Primary();
  absl::StatusOr<ExprPtr> NameOrKeyword();
  void NoteName(NameId name);
  absl::StatusOr<ExprPtr> ListLiteral();
  absl::StatusOr<ExprPtr> DictLiteral();
  absl::StatusOr<ExprPtr> Postfix(ExprPtr node);
  absl::StatusOr<ExprPtr> FiltersAndTests(ExprPtr node);
  absl::StatusOr<ExprPtr> Subscript(ExprPtr base);
  // An index, or a slice a:b:c.
  absl::StatusOr<ExprPtr> Subscribed();
  absl::StatusOr<ExprPtr> Call(ExprPtr callee);
  absl::StatusOr<std::unique_ptr<CallArgs>> Arguments();
  absl::Status Argument(CallArgs& args);
  absl::StatusOr<std::string> DottedName();
  absl::StatusOr<ExprPtr> Test(ExprPtr base);
  bool AtTestArgument() const;
};

}  // namespace graft::jinja
