#include "worker/trainer/generate_protocol.h"

#include "base/status_macros.h"

namespace graft::trainer {

template <typename V>
void VisitFields(V& v, GenerateRequest& r) {
  v("id", r.id);
  v("messages", r.messages);
  v("tools", r.tools);
  v("prompt", r.prompt);
  v("max_tokens", r.max_tokens);
  v("temperature", r.temperature);
  v("top_p", r.top_p);
  v("top_k", r.top_k);
  v("seed", r.seed);
  v("stop", r.stop);
}

template <typename V>
void VisitFields(V& v, CancelRequest& r) {
  v("cancel", r.cancel);
}

template <typename V>
void VisitFields(V& v, ReadyReply& r) {
  v("version", r.version);
  v("model", r.model);
  v("adapter", r.adapter);
  v("context_length", r.context_length);
}

template <typename V>
void VisitFields(V& v, TokenReply& r) {
  v("id", r.id);
  v("text", r.text);
}

template <typename V>
void VisitFields(V& v, EndReply& r) {
  v("id", r.id);
  v("finish_reason", r.finish_reason);
  v("prompt_tokens", r.prompt_tokens);
  v("completion_tokens", r.completion_tokens);
  v("first_token_seconds", r.first_token_seconds);
  v("tokens_per_second", r.tokens_per_second);
}

template <typename V>
void VisitFields(V& v, FailedReply& r) {
  v("id", r.id);
  v("code", r.code);
  v("message", r.message);
}

namespace {

// In the order of the variant.
constexpr const char* kReplies[] = {"ready", "token", "end", "failed"};
static_assert(std::size(kReplies) == std::variant_size_v<GenerateReply>);

absl::Status CheckRequest(const GenerateRequest& r) {
  if (r.messages.is_null() == r.prompt.empty()) {
    return absl::InvalidArgumentError("a request has either messages or a prompt");
  }
  if (!r.messages.is_null() && !r.messages.is_array()) {
    return absl::InvalidArgumentError("messages: wanted an array");
  }
  if (r.max_tokens < 1) return absl::InvalidArgumentError("max_tokens is at least 1");
  if (!(r.temperature >= 0)) return absl::InvalidArgumentError("temperature is at least 0");
  if (!(r.top_p > 0 && r.top_p <= 1)) return absl::InvalidArgumentError("top_p is in (0, 1]");
  if (r.top_k < 0) return absl::InvalidArgumentError("top_k is at least 0");
  return absl::OkStatus();
}

absl::StatusOr<Json> ParseLine(absl::string_view line) {
  if (line.size() > kMaxGenerateLineBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a line has ", line.size(), " bytes; the limit is ", kMaxGenerateLineBytes));
  }
  GRAFT_ASSIGN_OR_RETURN(Json json, Json::Parse(line));
  if (!json.is_object()) return absl::InvalidArgumentError("a line is no JSON object");
  return json;
}

template <size_t I = 0>
absl::StatusOr<GenerateReply> ReadReply(const Json& json, absl::string_view kind) {
  if constexpr (I == std::variant_size_v<GenerateReply>) {
    return absl::InvalidArgumentError(absl::StrCat("reply \"", kind, "\" is not known"));
  } else {
    if (kind != kReplies[I]) return ReadReply<I + 1>(json, kind);
    std::variant_alternative_t<I, GenerateReply> reply;
    GRAFT_RETURN_IF_ERROR(ReadFields(json, "", reply, UnknownKeys::kIgnored));
    return GenerateReply(std::move(reply));
  }
}

}  // namespace

std::string FormatGenerateInput(const GenerateInput& input) {
  return std::visit([](const auto& i) { return WriteFields(i).Dump(); }, input);
}

absl::StatusOr<GenerateInput> ParseGenerateInput(absl::string_view line) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, ParseLine(line));
  if (json.Find("cancel") != nullptr) {
    CancelRequest cancel;
    GRAFT_RETURN_IF_ERROR(ReadFields(json, "", cancel, UnknownKeys::kIgnored));
    return GenerateInput(cancel);
  }
  GenerateRequest request;
  GRAFT_RETURN_IF_ERROR(ReadFields(json, "", request, UnknownKeys::kIgnored));
  GRAFT_RETURN_IF_ERROR(CheckRequest(request));
  return GenerateInput(std::move(request));
}

std::string FormatGenerateReply(const GenerateReply& reply) {
  Json line = Json::MakeObject();
  line.Set("event", kReplies[reply.index()]);
  const Json fields = std::visit([](const auto& r) { return WriteFields(r); }, reply);
  for (const auto& [key, value] : fields.as_object()) line.Set(key, value);
  return line.Dump();
}

absl::StatusOr<GenerateReply> ParseGenerateReply(absl::string_view line) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, ParseLine(line));
  const std::string kind = json.GetString("event");
  if (kind == "ready" && json.GetInt("version") != kGenerateVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the trainer speaks version ", json.GetInt("version"),
                     " of its generate lines, not ", kGenerateVersion));
  }
  return ReadReply(json, kind);
}

}  // namespace graft::trainer
