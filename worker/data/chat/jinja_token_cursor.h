// Where a parser stands in the tokens of a template, and the errors it gives from there.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "worker/data/chat/jinja_lexer.h"

namespace graft::jinja {

class TokenCursor {
 public:
  explicit TokenCursor(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
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

  // INVALID_ARGUMENT with the line of the token.
  absl::Status Error(absl::string_view message) const {
    return absl::InvalidArgumentError(
        absl::StrCat("chat template, line ", Now().line, ": ", message));
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

 private:
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

  std::vector<Token> tokens_;
  size_t pos_ = 0;
};

}  // namespace graft::jinja
