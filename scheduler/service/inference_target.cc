#include "scheduler/service/inference_target.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "rpc/status.h"
#include "scheduler/service/field_rules.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr int kMaxStops = 16;            // as the contract says
constexpr uint64_t kSeeds = 1ULL << 31;  // short enough to be typed again

absl::Status Unavailable(absl::string_view feature) {
  return rpc::FeatureUnavailable(feature, absl::StrCat(feature, " is not in this build"));
}

absl::Status CheckModelReady(const v1::Model& model) {
  if (model.state() == v1::Model::STATE_READY) return absl::OkStatus();
  return rpc::ErrorBuilder(
             absl::StatusCode::kFailedPrecondition,
             absl::StrCat(model.name(), " is ", v1::Model::State_Name(model.state()).substr(6),
                          model.message().empty() ? "" : ": ", model.message()))
      .Reason("STATE_CONFLICT")
      .Metadata("resource", model.name())
      .Build();
}

absl::Status CheckEnabled(const v1::Adapter& adapter) {
  if (!adapter.has_enabled() || adapter.enabled()) return absl::OkStatus();
  const std::vector<std::string> parts = absl::StrSplit(adapter.name(), '/');
  return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                           absl::StrCat(adapter.name(), " is disabled; `graft adapter enable ",
                                        parts[3], " ", parts[5], "` lets it answer"))
      .Reason("ADAPTER_DISABLED")
      .Metadata("resource", adapter.name())
      .Build();
}

// What the trainer has no arithmetic for.
absl::Status CheckFeatures(const v1::GenerationConfig& config) {
  if (config.frequency_penalty() != 0) return Unavailable("config.frequency_penalty");
  if (config.presence_penalty() != 0) return Unavailable("config.presence_penalty");
  if (config.has_repetition_penalty() && config.repetition_penalty() != 1) {
    return Unavailable("config.repetition_penalty");
  }
  if (config.logprobs() != 0) return Unavailable("config.logprobs");
  return absl::OkStatus();
}

void FillFrom(const v1::PromptDefaults& from, v1::GenerationConfig& config) {
  if (!config.has_temperature() && from.has_temperature()) {
    config.set_temperature(from.temperature());
  }
  if (!config.has_top_p() && from.has_top_p()) config.set_top_p(from.top_p());
  if (!config.has_top_k() && from.has_top_k()) config.set_top_k(from.top_k());
  if (!config.has_max_tokens() && from.has_max_tokens()) config.set_max_tokens(from.max_tokens());
  if (config.stop().empty()) *config.mutable_stop() = from.stop();
}

std::string SystemPrompt(const InferenceTarget& target) {
  if (target.adapter.has_value() && target.adapter->prompt().has_system_prompt()) {
    return target.adapter->prompt().system_prompt();
  }
  return target.model.prompt().system_prompt();
}

absl::Status CheckMessages(const v1::ChatRequest& request) {
  if (request.messages().empty()) return InvalidField("messages", "is empty");
  for (int i = 0; i < request.messages_size(); ++i) {
    const v1::ChatMessage& message = request.messages(i);
    const std::string& role = message.role();
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      return InvalidField(
          absl::StrCat("messages[", i, "].role"),
          absl::StrCat("is '", role, "'; known are system, user, assistant and tool"));
    }
    if (!message.tool_calls_json().empty() && !Json::Parse(message.tool_calls_json()).ok()) {
      return InvalidField(absl::StrCat("messages[", i, "].tool_calls_json"), "is no JSON");
    }
  }
  if (!request.tools_json().empty()) {
    const absl::StatusOr<Json> tools = Json::Parse(request.tools_json());
    if (!tools.ok() || !tools->is_array()) return InvalidField("tools_json", "is no JSON array");
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> InferenceTarget::Versions() const {
  std::vector<std::string> versions = {model.fileset()};
  if (adapter.has_value()) versions.push_back(adapter->fileset());
  return versions;
}

absl::StatusOr<InferenceTarget> FindTarget(const Store& store, const std::string& name) {
  const bool is_adapter = absl::StrContains(name, "/adapters/");
  GRAFT_ASSIGN_OR_RETURN(
      const auto ids,
      ParseName(name, is_adapter ? "workspaces/*/models/*/adapters/*" : "workspaces/*/models/*"));
  InferenceTarget target{.name = name, .workspace = ids[0]};
  const std::string model = absl::StrCat("workspaces/", ids[0], "/models/", ids[1]);
  GRAFT_ASSIGN_OR_RETURN(target.model,
                         ReadResource<v1::Model>(store, ModelRecordKey(ids[0], ids[1]), model));
  GRAFT_RETURN_IF_ERROR(CheckModelReady(target.model));
  if (is_adapter) {
    GRAFT_ASSIGN_OR_RETURN(
        target.adapter,
        ReadResource<v1::Adapter>(store, AdapterRecordKey(ids[0], ids[1], ids[2]), name));
    GRAFT_RETURN_IF_ERROR(CheckEnabled(*target.adapter));
  }
  return target;
}

absl::StatusOr<v1::GenerationConfig> ResolveConfig(const v1::GenerationConfig& asked,
                                                   const InferenceTarget& target, Random& random) {
  v1::GenerationConfig config = asked;
  if (target.adapter.has_value()) FillFrom(target.adapter->prompt(), config);
  FillFrom(target.model.prompt(), config);
  if (!config.has_seed()) config.set_seed(static_cast<int64_t>(random.Uniform(kSeeds)));
  for (int i = 0; i < config.GetDescriptor()->field_count(); ++i) {
    const auto& field = *config.GetDescriptor()->field(i);
    if (field.is_repeated()) continue;
    if (!config.GetReflection()->HasField(config, &field)) SetDefault(config, field);
    const std::string wrong = OutOfBounds(config, field);
    if (!wrong.empty()) return InvalidField(absl::StrCat("config.", field.name()), wrong);
  }
  if (config.stop_size() > kMaxStops) {
    return InvalidField("config.stop",
                        absl::StrCat("has ", config.stop_size(), " texts; at most ", kMaxStops));
  }
  GRAFT_RETURN_IF_ERROR(CheckFeatures(config));
  return config;
}

absl::StatusOr<v1::ChatRequest> ResolveChat(const v1::ChatRequest& asked,
                                            const InferenceTarget& target, Random& random) {
  GRAFT_RETURN_IF_ERROR(CheckMessages(asked));
  if (!asked.checkpoint().empty()) return Unavailable("checkpoint");
  if (target.model.chat_template().empty() && target.model.spec().chat_template().empty()) {
    return InvalidField("model", absl::StrCat("'", target.name,
                                              "' has no chat template; Complete (`graft complete`) "
                                              "goes on from a text"));
  }
  v1::ChatRequest request = asked;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_config(), ResolveConfig(asked.config(), target, random));
  const bool has_system =
      std::any_of(asked.messages().begin(), asked.messages().end(),
                  [](const v1::ChatMessage& message) { return message.role() == "system"; });
  if (const std::string system = SystemPrompt(target); !system.empty() && !has_system) {
    v1::ChatMessage& first = *request.add_messages();
    first.set_role("system");
    first.set_content(system);
    std::rotate(request.mutable_messages()->pointer_begin(),
                request.mutable_messages()->pointer_end() - 1,
                request.mutable_messages()->pointer_end());
  }
  return request;
}

absl::StatusOr<v1::CompleteRequest> ResolveComplete(const v1::CompleteRequest& asked,
                                                    const InferenceTarget& target, Random& random) {
  if (asked.prompt().empty()) return InvalidField("prompt", "is empty");
  if (!asked.checkpoint().empty()) return Unavailable("checkpoint");
  v1::CompleteRequest request = asked;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_config(), ResolveConfig(asked.config(), target, random));
  return request;
}

std::vector<v1::Warning> WarningsFor(const InferenceTarget& target, bool chat) {
  if (!target.adapter.has_value()) return {};
  const v1::DatasetSection::Format format = target.adapter->row_format();
  const bool completes = format == v1::DatasetSection::FORMAT_PROMPT_COMPLETION ||
                         format == v1::DatasetSection::FORMAT_TEXT;
  const bool chats = format == v1::DatasetSection::FORMAT_CHAT;
  if (chat ? !completes : !chats) return {};
  v1::Warning warning;
  warning.set_code("ROW_FORMAT_DIFFERS");
  warning.set_field("model");
  const std::vector<std::string> parts = absl::StrSplit(target.name, '/');
  warning.set_message(absl::StrCat("the adapter ", parts[5], " learnt from ",
                                   chat ? "prompts and completions" : "conversations", "; `graft ",
                                   chat ? "complete " : "chat ", parts[3], "+", parts[5],
                                   "` asks it as it was trained"));
  warning.set_explanation(
      "Rows of another kind are laid out for the model in another way, so that it may answer as if "
      "it had not been trained.");
  return {warning};
}

}  // namespace graft::scheduler
