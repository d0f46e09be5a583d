#include "worker/agent/generate_lines.h"

#include <utility>

#include "base/json.h"
#include "base/status_macros.h"

namespace graft::agent {
namespace {

void TakeConfig(const graft::v1::GenerationConfig& config, trainer::GenerateRequest& request) {
  request.max_tokens = config.max_tokens();
  request.temperature = config.temperature();
  request.top_p = config.top_p();
  request.top_k = config.top_k();
  request.seed = config.seed();
  request.stop.assign(config.stop().begin(), config.stop().end());
}

absl::Status TakeMessages(const graft::v1::ChatRequest& chat, trainer::GenerateRequest& request) {
  request.messages = Json::MakeArray();
  for (const graft::v1::ChatMessage& message : chat.messages()) {
    Json turn = Json::MakeObject();
    turn.Set("role", message.role()).Set("content", message.content());
    if (!message.tool_calls_json().empty()) {
      GRAFT_ASSIGN_OR_RETURN(Json calls, Json::Parse(message.tool_calls_json()));
      turn.Set("tool_calls", std::move(calls));
    }
    if (!message.tool_call_id().empty()) turn.Set("tool_call_id", message.tool_call_id());
    request.messages.Append(std::move(turn));
  }
  if (!chat.tools_json().empty()) {
    GRAFT_ASSIGN_OR_RETURN(request.tools, Json::Parse(chat.tools_json()));
  }
  return absl::OkStatus();
}

graft::v1::FinishReason ReasonOf(trainer::FinishReason reason) {
  switch (reason) {
    case trainer::FinishReason::kStop:
      return graft::v1::FINISH_REASON_STOP;
    case trainer::FinishReason::kLength:
      return graft::v1::FINISH_REASON_LENGTH;
    case trainer::FinishReason::kCancelled:
      return graft::v1::FINISH_REASON_CANCELLED;
  }
  return graft::v1::FINISH_REASON_UNSPECIFIED;
}

graft::v1::Reason ReasonOf(trainer::FailureCode code) {
  switch (code) {
    case trainer::FailureCode::kInvalid:
      return graft::v1::REASON_FIELD_INVALID;
    case trainer::FailureCode::kContextExceeded:
      return graft::v1::REASON_CONTEXT_EXCEEDED;
    case trainer::FailureCode::kInternal:
      break;
  }
  return graft::v1::REASON_RANK_FAILED;
}

void TakeEnd(const trainer::EndReply& end, v1::ServeInferenceRequest& reply) {
  reply.set_request_id(end.id);
  reply.mutable_end()->set_finish_reason(ReasonOf(end.finish_reason));
  graft::v1::InferenceUsage& usage = *reply.mutable_end()->mutable_usage();
  usage.set_prompt_tokens(end.prompt_tokens);
  usage.set_completion_tokens(end.completion_tokens);
  usage.set_first_token_seconds(end.first_token_seconds);
  double total = end.first_token_seconds;
  if (end.tokens_per_second > 0) {
    total += static_cast<double>(end.completion_tokens - 1) / end.tokens_per_second;
  }
  usage.set_total_seconds(total);
}

}  // namespace

absl::StatusOr<trainer::GenerateInput> ToGenerateInput(const v1::ServeInferenceResponse& command) {
  if (command.has_chat()) {
    trainer::GenerateRequest request{.id = command.request_id()};
    TakeConfig(command.chat().config(), request);
    GRAFT_RETURN_IF_ERROR(TakeMessages(command.chat(), request));
    return trainer::GenerateInput(std::move(request));
  }
  if (command.has_complete()) {
    trainer::GenerateRequest request{.id = command.request_id(),
                                     .prompt = command.complete().prompt()};
    TakeConfig(command.complete().config(), request);
    return trainer::GenerateInput(std::move(request));
  }
  if (command.cancel()) return trainer::GenerateInput(trainer::CancelRequest{command.request_id()});
  return absl::InvalidArgumentError("the scheduler sent a command that this worker does not know");
}

v1::ServeInferenceRequest ToReply(const trainer::GenerateReply& reply) {
  v1::ServeInferenceRequest out;
  if (const auto* ready = std::get_if<trainer::ReadyReply>(&reply)) {
    out.mutable_ready()->set_context_length(ready->context_length);
    if (!ready->adapter.empty()) out.mutable_ready()->add_adapters(ready->adapter);
  } else if (const auto* token = std::get_if<trainer::TokenReply>(&reply)) {
    out.set_request_id(token->id);
    out.mutable_tokens()->set_text(token->text);
  } else if (const auto* end = std::get_if<trainer::EndReply>(&reply)) {
    TakeEnd(*end, out);
  } else if (const auto* failed = std::get_if<trainer::FailedReply>(&reply)) {
    out.set_request_id(failed->id);
    out.mutable_failure()->set_reason(ReasonOf(failed->code));
    out.mutable_failure()->set_message(failed->message);
  }
  return out;
}

}  // namespace graft::agent
