// Template text to tokens, as jinja2's lexer with trim_blocks and lstrip_blocks does it.
// White-space control is resolved here; the parser sees data, tags and what is in them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::jinja {

enum class TokenKind : uint8_t {
  kData,
  kBlockBegin,
  kBlockEnd,
  kVariableBegin,
  kVariableEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;  // data, name, operator; of a string its value, escapes undone
  int64_t integer = 0;
  double number = 0;

  bool IsOperator(absl::string_view op) const { return kind == TokenKind::kOperator && text == op; }
  bool IsName(absl::string_view name) const { return kind == TokenKind::kName && text == name; }
};

// INVALID_ARGUMENT with the line. The last token is kEnd.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

}  // namespace graft::jinja
