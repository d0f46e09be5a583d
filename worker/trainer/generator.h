// Answers: a prompt through the decoder with a cache of keys and values, a token at a time.
//
//   Generator generator(model, decoder);
//   GRAFT_ASSIGN_OR_RETURN(Answer a, generator.Run(request, [](absl::string_view text) { ... }));
//
// One thread, one answer at a time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/decoder.h"
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
  Generator(const ModelSource& model, const model::Decoder& decoder)
      : model_(model), decoder_(decoder) {}

  // INVALID_ARGUMENT for a prompt that the template or the tokenizer refuses, OUT_OF_RANGE for one
  // that fills the context.
  absl::StatusOr<Answer> Run(const GenerateRequest& request, const OnText& on_text) const;

 private:
  absl::StatusOr<std::vector<int32_t>> PromptIds(const GenerateRequest& request) const;
  bool Ends(int32_t id) const;

  const ModelSource& model_;
  const model::Decoder& decoder_;
};

// A greedy answer to one user message, or to the bare text where the model has no chat template.
absl::StatusOr<std::string> AnswerOnce(const ModelSource& model, const model::Decoder& decoder,
                                       const std::string& prompt, int64_t max_tokens);

}  // namespace graft::trainer
