#include "worker/data/chat/jinja_parser.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_expression_parser.h"
#include "worker/data/chat/jinja_lexer.h"

namespace graft::jinja {
namespace {

// The statements.
class Parser : private ExpressionParser {
 public:
  Parser(std::vector<Token> tokens, Program& program)
      : ExpressionParser(std::move(tokens), program) {
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

  int loops_ = 0;
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
