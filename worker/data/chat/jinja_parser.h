// Tokens to a Program, by jinja2's grammar with its loop controls and Hugging Face's generation
// blocks.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/chat/jinja_ast.h"

namespace graft::jinja {

// How deep statements and expressions may nest, and how many operators may follow one another.
constexpr int kMaxParseDepth = 150;
constexpr int kMaxExpressionHeight = 400;
constexpr size_t kMaxTemplateBytes = 4 << 20;

// INVALID_ARGUMENT with the line; UNIMPLEMENTED for statements that no chat template uses.
absl::StatusOr<std::unique_ptr<const Program>> Parse(absl::string_view source);

}  // namespace graft::jinja
