// JSON lines between `graft-trainer --generate` and whoever started it. In: requests and
// cancellations, one object a line. Out: `ready` (first, with the version), then for each request
// `token` lines and one `end` or `failed`, all with the request's id. Requests are answered in the
// order in which they came. Free of torch.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/trainer/json_fields.h"

namespace graft::trainer {

inline constexpr int64_t kGenerateVersion = 1;
inline constexpr size_t kMaxGenerateLineBytes = 16 << 20;

struct GenerateRequest {
  std::string id;
  // Either `messages` (an array of {"role", "content"}, through the model's chat template, with the
  // array `tools` where it is given) or `prompt` (as it stands).
  Json messages;
  Json tools;
  std::string prompt;
  int64_t max_tokens = 256;
  double temperature = 0;  // 0: greedy
  double top_p = 1;
  int64_t top_k = 0;  // 0: all
  int64_t seed = 0;
  std::vector<std::string> stop;
};

struct CancelRequest {
  std::string cancel;  // the id of a request
};

using GenerateInput = std::variant<GenerateRequest, CancelRequest>;

enum class FinishReason { kStop, kLength, kCancelled };

struct ReadyReply {
  int64_t version = kGenerateVersion;
  std::string model;
  std::string adapter;
  int64_t context_length = 0;
};

struct TokenReply {
  std::string id;
  std::string text;  // whole UTF-8 characters
};

struct EndReply {
  std::string id;
  FinishReason finish_reason = FinishReason::kStop;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double first_token_seconds = 0;
  double tokens_per_second = 0;
};

enum class FailureCode { kInternal, kInvalid, kContextExceeded };

struct FailedReply {
  std::string id;
  FailureCode code = FailureCode::kInternal;
  std::string message;
};

using GenerateReply = std::variant<ReadyReply, TokenReply, EndReply, FailedReply>;

std::string FormatGenerateInput(const GenerateInput& input);
// INVALID_ARGUMENT with the path of what is wrong. An unknown key is ignored.
absl::StatusOr<GenerateInput> ParseGenerateInput(absl::string_view line);
std::string FormatGenerateReply(const GenerateReply& reply);
absl::StatusOr<GenerateReply> ParseGenerateReply(absl::string_view line);

template <>
struct EnumNames<FinishReason> {
  static std::vector<std::pair<FinishReason, const char*>> Names() {
    return {{FinishReason::kStop, "stop"},
            {FinishReason::kLength, "length"},
            {FinishReason::kCancelled, "cancelled"}};
  }
};

template <>
struct EnumNames<FailureCode> {
  static std::vector<std::pair<FailureCode, const char*>> Names() {
    return {{FailureCode::kInternal, "internal"},
            {FailureCode::kInvalid, "invalid"},
            {FailureCode::kContextExceeded, "context_exceeded"}};
  }
};

}  // namespace graft::trainer
