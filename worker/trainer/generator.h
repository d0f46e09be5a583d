// Answers: a prompt through the model, a token at a time.
//
//   Generator generator(model, [&](int64_t n) { return ContinueWithCache(decoder, n); });
//   GRAFT_ASSIGN_OR_RETURN(Answer a, generator.Run(request, [](absl::string_view text) { ... }));
//
// One thread, one answer at a time.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/trainer/continuation.h"
#include "worker/trainer/generate_protocol.h"
#include "worker/trainer/model_source.h"

namespace graft::trainer {

struct Answer {
  std::string text;
  FinishReason finish_reason = FinishReason::kStop;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double first_token_seconds = 0;
  double tokens_per_second = 0;  // of the tokens after the first
  std::vector<int32_t> ids;
};

class Generator {
 public:
  // Gets text as it becomes whole; false stops the answer (kCancelled).
  using OnText = std::function<bool(absl::string_view)>;
  // Begins an answer of at most so many tokens, its prompt among them.
  using Begin = std::function<Continuation(int64_t capacity)>;
  Generator(const ModelSource& model, Begin begin) : model_(model), begin_(std::move(begin)) {}

  // INVALID_ARGUMENT for a prompt that the template or the tokenizer refuses, OUT_OF_RANGE for one
  // that fills the context.
  absl::StatusOr<Answer> Run(const GenerateRequest& request, const OnText& on_text) const;

 private:
  absl::StatusOr<std::vector<int32_t>> PromptIds(const GenerateRequest& request) const;
  bool Ends(int32_t id) const;

  const ModelSource& model_;
  const Begin begin_;
};

}  // namespace graft::trainer
