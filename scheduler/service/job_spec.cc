#include "scheduler/service/job_spec.h"

#include <algorithm>
#include <cctype>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "google/protobuf/descriptor.h"
#include "graft/v1/model.pb.h"
#include "graft/v1/options.pb.h"
#include "rpc/status.h"
#include "scheduler/service/enum_names.h"
#include "scheduler/service/field_rules.h"
#include "scheduler/service/names.h"
#include "worker/spec/layout.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr int kMostRanks = 1 << 20;  // more than any cluster; keeps products inside of int64
constexpr int64_t kLongestTimeLimitSeconds =
    10LL * 366 * 24 * 3600;  // ten years: longer is a mistake
constexpr double kLoraLearningRate = 2e-4;
constexpr double kAllWeightsLearningRate = 5e-6;

class Resolver {
 public:
  Resolver(SpecCheck& check, int64_t seed) : check_(check), spec_(check.resolved), seed_(seed) {}

  void Run() {
    AddSections();
    FillAndCheck(spec_, "spec");
    CheckReferences();
    CheckMethod();
    CheckTuning();
    CheckBatchAndLayout();
    CheckSharding();
    CheckSchedule();
    CheckTimeLimit();
    CheckUnavailable();
    FillDependent();
  }

 private:
  void Violate(absl::string_view field, v1::Reason reason, absl::string_view message) {
    auto& violation = check_.violations.emplace_back();
    violation.set_field(std::string(field));
    violation.set_reason(reason);
    violation.set_message(std::string(message));
  }

  void AddSections() {
    spec_.mutable_method();
    if (spec_.method().method_case() == v1::MethodSection::METHOD_NOT_SET) {
      spec_.mutable_method()->mutable_sft();
    }
    spec_.mutable_schedule();
    spec_.mutable_batch();
    spec_.mutable_optimizer();
    spec_.mutable_parallelism();
    spec_.mutable_compute();
    spec_.mutable_resources();
    spec_.mutable_output();
    spec_.mutable_evaluation();
    auto& tuning = *spec_.mutable_tuning();
    if (tuning.type() != v1::FINETUNING_TYPE_ALL_WEIGHTS) tuning.mutable_lora();
  }

  // Defaults and bounds as the contract states them beside each field.
  void FillAndCheck(Message& message, const std::string& path) {
    const google::protobuf::Reflection& reflection = *message.GetReflection();
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor& field = *message.GetDescriptor()->field(i);
      const std::string here = absl::StrCat(path, ".", field.name());
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        if (field.is_map()) continue;
        if (field.is_repeated()) {
          for (int j = 0; j < reflection.FieldSize(message, &field); ++j) {
            FillAndCheck(*reflection.MutableRepeatedMessage(&message, &field, j),
                         absl::StrCat(here, "[", j, "]"));
          }
        } else if (reflection.HasField(message, &field) &&
                   absl::StartsWith(field.message_type()->full_name(), "graft.")) {
          FillAndCheck(*reflection.MutableMessage(&message, &field), here);
        }
        continue;
      }
      if (field.is_repeated() || !field.options().HasExtension(v1::rule)) continue;
      if (field.has_presence() && !reflection.HasField(message, &field)) {
        SetDefault(message, field);
      } else {
        CheckBounds(message, field, here);
      }
    }
  }

  void CheckBounds(const Message& message, const FieldDescriptor& field, const std::string& here) {
    const std::string wrong = OutOfBounds(message, field);
    if (!wrong.empty()) Violate(here, v1::REASON_FIELD_INVALID, wrong);
  }

  void CheckName(const std::string& name, absl::string_view pattern, absl::string_view field) {
    if (name.empty()) {
      return Violate(field, v1::REASON_FIELD_REQUIRED, absl::StrCat("is missing: ", pattern));
    }
    if (!ParseName(name, pattern).ok()) {
      Violate(field, v1::REASON_NAME_INVALID,
              absl::StrCat("'", name, "' is no name of the form ", pattern));
    }
  }

  void CheckReferences() {
    CheckName(spec_.model().base(), "workspaces/*/models/*", "spec.model.base");
    if (spec_.dataset().training().empty()) {
      Violate("spec.dataset.training", v1::REASON_FIELD_REQUIRED, "at least one source of rows");
    }
    const auto check = [this](const auto& sources, absl::string_view field) {
      for (int i = 0; i < sources.size(); ++i) {
        const std::string& name = sources[i].fileset();
        const std::string here = absl::StrCat(field, "[", i, "].fileset");
        CheckName(name,
                  absl::StrContains(name, "/versions/") ? "workspaces/*/filesets/*/versions/*"
                                                        : "workspaces/*/filesets/*",
                  here);
      }
    };
    check(spec_.dataset().training(), "spec.dataset.training");
    check(spec_.dataset().validation(), "spec.dataset.validation");
    if (!spec_.dataset().validation().empty() && spec_.dataset().validation_split() > 0) {
      Violate("spec.dataset.validation_split", v1::REASON_FIELDS_EXCLUSIVE,
              "excludes spec.dataset.validation; leave one out");
    }
    CheckName(spec_.resources().queue(), "queues/*", "spec.resources.queue");
    for (int i = 0; i < spec_.resources().nodes_size(); ++i) {
      CheckName(spec_.resources().nodes(i), "nodes/*",
                absl::StrCat("spec.resources.nodes[", i, "]"));
    }
    if (!spec_.output().name().empty() && !CheckId(spec_.output().name(), "").ok()) {
      Violate("spec.output.name", v1::REASON_NAME_INVALID,
              "is no id: 2 to 63 characters of a-z, 0-9, '-', '_' and '.'");
    }
  }

  void CheckMethod() {
    if (!spec_.method().has_sft()) {
      Violate("spec.method", v1::REASON_FEATURE_UNAVAILABLE, "this build has the method sft alone");
    }
  }

  void CheckTuning() {
    const auto& tuning = spec_.tuning();
    const auto save = spec_.output().save();
    Unavailable(save == v1::OutputSection::SAVE_MERGED_4BIT, "spec.output.save",
                "merged models are written in full precision");
    if (tuning.type() != v1::FINETUNING_TYPE_ALL_WEIGHTS) return;
    if (save == v1::OutputSection::SAVE_ADAPTER ||
        save == v1::OutputSection::SAVE_ADAPTER_AND_MERGED) {
      Violate(
          "spec.output.save", v1::REASON_FIELDS_EXCLUSIVE,
          "names an adapter, which spec.tuning.type all_weights does not make; leave it out, or "
          "set type lora");
    }
    if (tuning.has_lora()) {
      Violate("spec.tuning.lora", v1::REASON_FIELDS_EXCLUSIVE,
              "excludes type all_weights; leave it out or set type lora");
    }
    if (tuning.base_quantization() > v1::TuningSection::BASE_QUANTIZATION_NONE) {
      Violate("spec.tuning.base_quantization", v1::REASON_FIELDS_EXCLUSIVE,
              "all_weights trains the base itself, which must not be quantized");
    }
  }

  void CheckBatchAndLayout() {
    auto& parallelism = *spec_.mutable_parallelism();
    if (parallelism.data_parallel_size() != 0) {
      Violate("spec.parallelism.data_parallel_size", v1::REASON_FIELD_READ_ONLY,
              "is nodes x gpus_per_node / (tensor x pipeline x context) and cannot be set");
    }
    // Clamped, so that no product below overflows; what lies outside is told and refused.
    const auto fill = [](bool has, int value) {
      return has ? std::clamp(value, 1, kMostRanks) : 1;
    };
    const int tp = fill(parallelism.has_tensor_parallel_size(), parallelism.tensor_parallel_size());
    const int pp =
        fill(parallelism.has_pipeline_parallel_size(), parallelism.pipeline_parallel_size());
    const int cp =
        fill(parallelism.has_context_parallel_size(), parallelism.context_parallel_size());
    const int ep = fill(parallelism.has_expert_parallel_size(), parallelism.expert_parallel_size());
    const int nodes = fill(parallelism.has_nodes(), parallelism.nodes());
    if (nodes > 1 && spec_.resources().max_level() == v1::ResourcesSection::LEVEL_NODE) {
      Violate("spec.parallelism.nodes", v1::REASON_FIELDS_EXCLUSIVE,
              absl::StrCat("is ", nodes, ", and spec.resources.max_level keeps the gang on one; ",
                           "leave one of them out"));
    }
    const int64_t group = int64_t{tp} * pp * cp;
    // Where it is left open: as few as give each node as many, in whole tensor groups.
    const int64_t smallest =
        group <= kMostRanks ? tp * std::lcm(int64_t{pp} * cp, int64_t{nodes}) : group;
    const int64_t given = parallelism.has_gpus_per_node()
                              ? int64_t{nodes} * fill(true, parallelism.gpus_per_node())
                              : smallest;
    if (group > kMostRanks || given > kMostRanks) {
      Violate("spec.parallelism", v1::REASON_LAYOUT_INVALID,
              absl::StrCat("asks for more than ", kMostRanks, " ranks"));
      return SetLayoutSizes(1, 1, 1, 1, 1);
    }
    if (given % group != 0) {
      Violate("spec.parallelism", v1::REASON_LAYOUT_INVALID,
              absl::StrCat("nodes x gpus_per_node = ", given,
                           " is no multiple of tensor x pipeline x context = ", group));
      return SetLayoutSizes(1, 1, 1, 1, 1);
    }
    const int dp = static_cast<int>(given / group);
    if (ep > 1 && (tp > 1 || (dp * cp) % ep != 0)) {
      Violate("spec.parallelism.expert_parallel_size", v1::REASON_LAYOUT_INVALID,
              absl::StrCat("is ", ep,
                           "; it needs tensor_parallel_size 1 and must divide data x "
                           "context = ",
                           dp * cp));
    }
    SetLayoutSizes(tp, pp, cp, ep, dp);
    const int64_t step = int64_t{spec_.batch().micro_batch_size()} * dp;
    const int64_t global = spec_.batch().global_batch_size();
    if (step > 0 && global % step != 0) {
      const int64_t nearest = std::max<int64_t>(1, (global + step / 2) / step) * step;
      Violate("spec.batch.global_batch_size", v1::REASON_FIELD_INVALID,
              absl::StrCat("is ", global,
                           ", no multiple of micro_batch_size x data_parallel_size = ", step,
                           "; the nearest is ", nearest));
    }
  }

  void CheckSharding() {
    const auto& parallelism = spec_.parallelism();
    const bool weights = parallelism.shard_weights();
    if (!weights && !parallelism.shard_optimizer()) return;
    const char* field =
        weights ? "spec.parallelism.shard_weights" : "spec.parallelism.shard_optimizer";
    if (spec_.optimizer().kind() == v1::OptimizerSection::KIND_ADAFACTOR) {
      Violate(field, v1::REASON_FIELDS_EXCLUSIVE,
              "excludes spec.optimizer.kind adafactor, whose states are of whole rows and columns");
    }
    if (!weights) return;
    if (parallelism.pipeline_parallel_size() > 1) {
      Violate(field, v1::REASON_FIELDS_EXCLUSIVE,
              "excludes a pipeline; use shard_optimizer, or pipeline_parallel_size 1");
    }
    if (spec_.tuning().type() != v1::FINETUNING_TYPE_ALL_WEIGHTS) {
      Violate(field, v1::REASON_FIELDS_EXCLUSIVE,
              "divides weights that are trained; set spec.tuning.type all_weights, or use "
              "shard_optimizer");
    }
  }

  void SetLayoutSizes(int tp, int pp, int cp, int ep, int dp) {
    auto& parallelism = *spec_.mutable_parallelism();
    parallelism.set_tensor_parallel_size(tp);
    parallelism.set_pipeline_parallel_size(pp);
    parallelism.set_context_parallel_size(cp);
    parallelism.set_expert_parallel_size(ep);
    parallelism.set_data_parallel_size(dp);
  }

  void CheckInterval(const v1::Interval& interval, absl::string_view field, bool may_be_time) {
    const bool above = interval.every_case() == v1::Interval::kEpochs  ? interval.epochs() > 0
                       : interval.every_case() == v1::Interval::kSteps ? interval.steps() > 0
                       : interval.every_case() == v1::Interval::kTime
                           ? interval.time().seconds() > 0 || interval.time().nanos() > 0
                           : true;
    if (!above) Violate(field, v1::REASON_FIELD_INVALID, "is not above 0; leave it out");
    if (interval.every_case() == v1::Interval::kTime && !may_be_time) {
      Violate(field, v1::REASON_FIELD_INVALID, "is steps or epochs; checkpoints alone go by time");
    }
  }

  void CheckSchedule() {
    CheckInterval(spec_.schedule().val_check_interval(), "spec.schedule.val_check_interval", false);
    CheckInterval(spec_.schedule().checkpoint_interval(), "spec.schedule.checkpoint_interval",
                  true);
    const auto& optimizer = spec_.optimizer();
    if (optimizer.warmup_steps() > 0 && optimizer.has_warmup_ratio()) {
      Violate("spec.optimizer.warmup_ratio", v1::REASON_FIELDS_EXCLUSIVE,
              "excludes spec.optimizer.warmup_steps; leave one out");
    }
    const bool needs_min =
        optimizer.lr_schedule() == v1::OptimizerSection::LR_SCHEDULE_COSINE_WITH_MIN_LR;
    if (needs_min && optimizer.min_learning_rate() <= 0) {
      Violate("spec.optimizer.min_learning_rate", v1::REASON_FIELD_REQUIRED,
              "cosine_with_min_lr needs it");
    }
    if (!spec_.schedule().has_seed()) spec_.mutable_schedule()->set_seed(seed_);
  }

  void CheckTimeLimit() {
    const auto& limit = spec_.resources().time_limit();
    if (limit.seconds() >= 0 && limit.nanos() >= 0 && limit.seconds() <= kLongestTimeLimitSeconds) {
      return;
    }
    Violate(
        "spec.resources.time_limit", v1::REASON_FIELD_INVALID,
        absl::StrCat("is ", limit.seconds(), " s; it is 0 (none) to ", kLongestTimeLimitSeconds));
  }

  void Unavailable(bool asked, absl::string_view field, absl::string_view what) {
    if (asked) Violate(field, v1::REASON_FEATURE_UNAVAILABLE, what);
  }

  // What the contract has and this build has not is refused by name, never left out in silence.
  void CheckUnavailable() {
    const auto& lora = spec_.tuning().lora();
    const auto& resources = spec_.resources();
    Unavailable(spec_.tuning().base_quantization() > v1::TuningSection::BASE_QUANTIZATION_NONE,
                "spec.tuning.base_quantization", "quantized bases are not in this build");
    Unavailable(lora.init() > v1::Lora::INIT_GAUSSIAN, "spec.tuning.lora.init",
                "this build starts adapters with kaiming or gaussian");
    const auto& stopping = spec_.schedule().early_stopping();
    Unavailable(stopping.has_metric() && stopping.metric() != "val_loss",
                "spec.schedule.early_stopping.metric", "this build looks at val_loss alone");
    Unavailable(spec_.evaluation().evaluations_size() > 0, "spec.evaluation.evaluations",
                "is not in this build");
    Unavailable(
        spec_.parallelism().has_sequence_parallel() && !spec_.parallelism().sequence_parallel(),
        "spec.parallelism.sequence_parallel",
        "tensor-parallel ranks of this build always divide norms; leave it out");
    Unavailable(spec_.has_integrations(), "spec.integrations", "is not in this build");
    Unavailable(resources.device_indices_size() > 0, "spec.resources.device_indices",
                "is not in this build");
    Unavailable(resources.device_products_size() > 0, "spec.resources.device_products",
                "is not in this build; use node_selector");
  }

  void FillDependent() {
    const bool all = spec_.tuning().type() == v1::FINETUNING_TYPE_ALL_WEIGHTS;
    if (!spec_.optimizer().has_learning_rate()) {
      spec_.mutable_optimizer()->set_learning_rate(all ? kAllWeightsLearningRate
                                                       : kLoraLearningRate);
    }
    if (spec_.output().save() == v1::OutputSection::SAVE_UNSPECIFIED) {
      spec_.mutable_output()->set_save(spec_.tuning().type() == v1::FINETUNING_TYPE_LORA
                                           ? v1::OutputSection::SAVE_ADAPTER
                                           : v1::OutputSection::SAVE_MERGED);
    }
  }

  SpecCheck& check_;
  v1::JobSpec& spec_;
  const int64_t seed_;
};

void AddWarning(absl::string_view code, absl::string_view field, std::string message,
                absl::string_view explanation, SpecCheck& check) {
  auto& warning = check.warnings.emplace_back();
  warning.set_code(std::string(code));
  warning.set_field(std::string(field));
  warning.set_message(std::move(message));
  warning.set_explanation(std::string(explanation));
}

// As much of a model as its layout depends on.
spec::DecoderSpec OutlineOf(const v1::ModelSpec& model) {
  spec::DecoderSpec outline;
  outline.attention.heads = model.attention_heads();
  outline.attention.kv_heads = std::max(model.kv_heads(), 1);
  outline.moe.experts = model.experts().count();
  outline.moe.expert_ffn = model.experts().intermediate_size();
  outline.layers.assign(static_cast<size_t>(std::max(model.layers(), 1)),
                        {.ffn = model.intermediate_size()});
  return outline;
}

spec::LayoutRequest LayoutRequestOf(const v1::JobSpec& resolved) {
  const Layout layout = LayoutOf(resolved);
  return {.gpus = layout.world(),
          .tp = layout.tp,
          .pp = layout.pp,
          .cp = layout.cp,
          .ep = layout.ep,
          .micro_batch = std::max(resolved.batch().micro_batch_size(), 1),
          .global_batch = std::max(resolved.batch().global_batch_size(), 1),
          .sequence = std::max(resolved.batch().max_seq_length(), 1)};
}

std::string JobFieldOf(const spec::LayoutRemark& remark) {
  const bool of_batch = v1::BatchSection::descriptor()->FindFieldByName(remark.field) != nullptr;
  return absl::StrCat(of_batch ? "spec.batch." : "spec.parallelism.", remark.field);
}

// To be read behind the field's name.
std::string MessageOf(const spec::LayoutRemark& remark) {
  absl::string_view message = remark.message;
  if (absl::ConsumePrefix(&message, absl::StrCat(remark.field, " "))) {
    return absl::StrCat(absl::ascii_isdigit(static_cast<unsigned char>(message[0])) ? "of " : "",
                        message);
  }
  return absl::StrCat("does not fit: ", message);
}

}  // namespace

std::string ShortName(const google::protobuf::EnumDescriptor& type, int value) {
  return absl::AsciiStrToLower(EnumShort(type, value));
}

SpecCheck ResolveSpec(const v1::JobSpec& spec, int64_t seed) {
  SpecCheck check;
  check.resolved = spec;
  Resolver(check, seed).Run();
  return check;
}

void CheckAgainstModel(const v1::ModelSpec& model, SpecCheck& check) {
  v1::JobSpec& spec = check.resolved;
  if (model.context_length() > 0 && spec.batch().max_seq_length() > model.context_length()) {
    AddWarning("MAX_SEQ_LENGTH_CLAMPED", "spec.batch.max_seq_length",
               absl::StrCat("lowered from ", spec.batch().max_seq_length(), " to ",
                            model.context_length(), ", the model's context"),
               "The model was not trained on longer sequences; set it to its context.", check);
    spec.mutable_batch()->set_max_seq_length(static_cast<int32_t>(model.context_length()));
  }
  const auto told = [&check](const std::string& field) {
    return std::any_of(check.violations.begin(), check.violations.end(),
                       [&](const auto& violation) { return violation.field() == field; });
  };
  const spec::LayoutCheck layout = spec::CheckLayout(OutlineOf(model), LayoutRequestOf(spec));
  for (const spec::LayoutRemark& remark : layout.violations) {
    const std::string field = JobFieldOf(remark);
    if (told(field)) continue;  // by what needs no model
    auto& violation = check.violations.emplace_back();
    violation.set_field(field);
    violation.set_reason(v1::REASON_LAYOUT_INVALID);
    violation.set_message(MessageOf(remark));
  }
  for (const spec::LayoutRemark& remark : layout.warnings) {
    AddWarning(remark.code, JobFieldOf(remark), MessageOf(remark),
               "The job runs as it is; another layout uses its devices better.", check);
  }
  if (layout.ok()) {
    spec.mutable_parallelism()->set_expert_parallel_size(static_cast<int32_t>(layout.layout.ep));
  }
}

absl::Status ViolationsStatus(const std::vector<v1::ValidateJobResponse::Violation>& violations) {
  const bool missing_feature = std::all_of(
      violations.begin(), violations.end(),
      [](const auto& violation) { return violation.reason() == v1::REASON_FEATURE_UNAVAILABLE; });
  rpc::ErrorBuilder error(
      missing_feature ? absl::StatusCode::kUnimplemented : absl::StatusCode::kInvalidArgument,
      absl::StrCat(
          "the job cannot be created: ", violations[0].field(), " ", violations[0].message(),
          violations.size() > 1 ? absl::StrCat(" (and ", violations.size() - 1, " more)") : ""));
  error.Reason(v1::Reason_Name(violations[0].reason()).substr(7));
  for (const auto& violation : violations) error.Field(violation.field(), violation.message());
  return error.Build();
}

Layout LayoutOf(const v1::JobSpec& resolved) {
  const auto& p = resolved.parallelism();
  return {.tp = std::max(p.tensor_parallel_size(), 1),
          .cp = std::max(p.context_parallel_size(), 1),
          .dp = std::max(p.data_parallel_size(), 1),
          .pp = std::max(p.pipeline_parallel_size(), 1),
          .ep = std::max(p.expert_parallel_size(), 1)};
}

int ZeroOf(const v1::JobSpec& resolved, const Layout& layout) {
  const v1::ParallelismSection& asked = resolved.parallelism();
  if (asked.shard_weights()) return 3;
  if (asked.has_shard_optimizer()) return asked.shard_optimizer() ? 1 : 0;
  // The states of all weights are the larger part of a rank's memory, and cost nothing to divide.
  const bool all = resolved.tuning().type() == v1::FINETUNING_TYPE_ALL_WEIGHTS;
  const bool divisible = resolved.optimizer().kind() != v1::OptimizerSection::KIND_ADAFACTOR;
  return all && divisible && layout.dp * layout.cp > 1 ? 1 : 0;
}

void SetLayout(const Layout& layout, v1::Layout& out) {
  out.set_tensor_parallel_size(layout.tp);
  out.set_context_parallel_size(layout.cp);
  out.set_data_parallel_size(layout.dp);
  out.set_pipeline_parallel_size(layout.pp);
  out.set_expert_parallel_size(layout.ep);
  out.set_world_size(layout.world());
}

namespace {

Level LevelOf(v1::ResourcesSection::Level level) {
  switch (level) {
    case v1::ResourcesSection::LEVEL_NODE:
      return Level::kNode;
    case v1::ResourcesSection::LEVEL_NVLINK_DOMAIN:
      return Level::kDomain;
    case v1::ResourcesSection::LEVEL_RACK:
      return Level::kRack;
    case v1::ResourcesSection::LEVEL_SPINE:
      return Level::kSpine;
    default:
      return Level::kCluster;
  }
}

AtTimeLimit AtTimeLimitOf(v1::ResourcesSection::AtTimeLimit asked) {
  if (asked == v1::ResourcesSection::AT_TIME_LIMIT_FAIL) return AtTimeLimit::kFail;
  return asked == v1::ResourcesSection::AT_TIME_LIMIT_COMPLETE ? AtTimeLimit::kComplete
                                                               : AtTimeLimit::kPause;
}

}  // namespace

JobRequest ToJobRequest(const v1::JobSpec& resolved, const JobKey& key,
                        const std::string& workspace, const std::string& device) {
  const auto& resources = resolved.resources();
  JobRequest request{.key = key,
                     .workspace = workspace,
                     .queue = resources.queue().substr(std::string("queues/").size()),
                     .priority = resources.priority(),
                     .max_restarts = resources.max_restarts(),
                     .preemptible = resources.preemptible(),
                     .time_limit = absl::Seconds(resources.time_limit().seconds()),
                     .at_time_limit = AtTimeLimitOf(resources.at_time_limit()),
                     .hold = resources.hold()};
  request.gang.layout = LayoutOf(resolved);
  request.gang.device_kind = device;
  request.gang.min_memory_bytes = resources.min_device_memory_bytes();
  for (const auto& [label, value] : resources.node_selector()) request.gang.labels[label] = value;
  request.gang.tolerations.assign(resources.tolerations().begin(), resources.tolerations().end());
  request.gang.allow_tp_across_domains = resolved.parallelism().allow_tp_across_nodes();
  for (const std::string& first : resources.after()) {
    const std::string id = first.substr(first.rfind('/') + 1);
    request.after.push_back(absl::StrCat(workspace, "/", id));
  }
  for (const std::string& node : resources.nodes()) {
    request.gang.only_nodes.push_back(node.substr(std::string("nodes/").size()));
  }
  request.gang.max_level = LevelOf(resources.max_level());
  request.gang.nodes = resolved.parallelism().nodes();
  return request;
}

}  // namespace graft::scheduler
