#include "worker/trainer/run_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/digest.h"

namespace graft::trainer {
namespace {

model::TrainedBias BiasOf(LoraBias bias) {
  if (bias == LoraBias::kNone) return model::TrainedBias::kNone;
  return bias == LoraBias::kAll ? model::TrainedBias::kAll : model::TrainedBias::kAdapted;
}

spec::Optimizer OptimizerOf(const OptimizerConfig& config) {
  switch (config.kind) {
    case OptimizerKind::kAdamW:
      break;
    case OptimizerKind::kAdamW8bit:
      return spec::Optimizer::kAdamW8bit;
    case OptimizerKind::kPagedAdamW8bit:
      return spec::Optimizer::kPagedAdamW8bit;
    case OptimizerKind::kAdafactor:
      return spec::Optimizer::kAdafactor;
    case OptimizerKind::kLion:
      return spec::Optimizer::kLion;
    case OptimizerKind::kSgd:
      return config.momentum > 0 ? spec::Optimizer::kSgdMomentum : spec::Optimizer::kSgd;
  }
  return spec::Optimizer::kAdamW;
}

// The fullest micro-batch of the first steps, as a plan of one sequence.
void PlanOfBatches(const data::BatchPlan& batches, spec::TrainingPlan* plan) {
  constexpr int64_t kLookedAt = 64;
  plan->micro_batch = 1;
  plan->sequence = 1;
  for (int64_t step = 0; step < std::min(kLookedAt, batches.steps()); ++step) {
    for (const data::MicroBatch& micro : batches.Step(step, 0).micro_batches) {
      const auto tokens = static_cast<int64_t>(micro.tokens.size());
      if (tokens <= plan->sequence) continue;
      plan->sequence = tokens;
      plan->effective_length = std::max<int64_t>(1, micro.max_segment);
      plan->supervised_share =
          static_cast<double>(micro.supervised_tokens) / static_cast<double>(tokens);
    }
  }
}

bool DividesTheModel(const ParallelismConfig& p) { return p.cp > 1 || p.pp > 1 || p.tp > 1; }

// What is not as by default: a later trainer, which knows more fields, calls the same run the same.
void AddChosen(const Json& config, const Json& defaults, const std::string& path,
               std::string* out) {
  for (const auto& [name, value] : config.as_object()) {
    const Json* usual = defaults.Find(name);
    const std::string here = absl::StrCat(path, "/", name);
    if (usual != nullptr && value.is_object() && usual->is_object()) {
      AddChosen(value, *usual, here, out);
    } else if (usual == nullptr || value.Dump() != usual->Dump()) {
      absl::StrAppend(out, here, "=", value.Dump(), "\n");
    }
  }
}

}  // namespace

Precision WantedPrecision(const RunConfig& config, const DeviceTypes& types) {
  const bool settled = config.precision != Precision::kAuto;
  const bool divided_on_cpus = !types.gpu && DividesTheModel(config.parallelism);
  return settled || !divided_on_cpus ? config.precision : Precision::kFp32;
}

absl::Status CheckSupported(const RunConfig& config) {
  const ParallelismConfig& p = config.parallelism;
  if (p.world > 1 && config.optimizer.kind == OptimizerKind::kAdafactor &&
      (p.tp > 1 || p.ep > 1 || p.zero > 0)) {
    return absl::UnimplementedError(
        "optimizer.kind adafactor together with parallelism.tp, ep or zero is not there: its rows "
        "and columns are of whole tensors; use adamw, lion or sgd");
  }
  return absl::OkStatus();
}

model::BuildOptions BuildOptionsOf(const RunConfig& config, const ComputeChoice& compute,
                                   const spec::ModelFacts& facts) {
  model::BuildOptions options;
  options.compute_type = compute.type();
  options.frozen_type = FrozenType(compute, config.tuning, facts);
  const TuningConfig& t = config.tuning;
  if (t.kind == TuningKind::kAllWeights) {
    options.train = model::Train::kAllWeights;
    return options;
  }
  options.train = model::Train::kLora;
  options.keep_blocks = facts.quantized;
  options.lora = {.rank = t.rank,
                  .alpha = t.alpha,
                  .dropout = t.dropout,
                  .rslora = t.rslora,
                  .dora = t.dora,
                  .target_modules = t.target_modules,
                  .exclude_modules = t.exclude_modules,
                  .layers_to_transform = t.layers_to_transform,
                  .modules_to_save = t.modules_to_save,
                  .bias = BiasOf(t.bias),
                  .init = t.init == LoraInit::kGaussian ? model::LoraInit::kGaussian
                                                        : model::LoraInit::kKaiming,
                  .seed = static_cast<uint64_t>(t.init_seed.value_or(config.seed))};
  return options;
}

model::Recompute RecomputeOf(ActivationCheckpointing kept) {
  if (kept == ActivationCheckpointing::kOffload) return model::Recompute::kLayersFromHost;
  return kept == ActivationCheckpointing::kFull ? model::Recompute::kLayers
                                                : model::Recompute::kNone;
}

spec::TrainingPlan PlanOf(const RunConfig& config, const ComputeChoice& compute) {
  spec::TrainingPlan plan;
  plan.tuning = config.tuning.kind == TuningKind::kAllWeights ? spec::Tuning::kAllWeights
                                                              : spec::Tuning::kLora;
  plan.lora_rank = config.tuning.rank;
  plan.optimizer = OptimizerOf(config.optimizer);
  plan.compute = plan.weights = compute.dtype();
  plan.micro_batch = config.batch.micro;
  plan.global_batch = config.batch.global;
  plan.sequence = config.dataset.max_seq_length;
  const ParallelismConfig& p = config.parallelism;
  plan.layout = {.tp = p.tp, .pp = p.pp, .cp = p.cp, .ep = p.ep};
  plan.layout.dp = std::max<int64_t>(1, p.world / plan.layout.world());
  plan.zero = static_cast<int>(p.zero);
  plan.gpu = false;
  return plan;
}

spec::MemoryEstimate EstimateMemory(const RunConfig& config, const ComputeChoice& compute,
                                    const ModelSource& model, const data::BatchPlan& batches) {
  const bool all = config.tuning.kind == TuningKind::kAllWeights;
  spec::TrainingPlan plan = PlanOf(config, compute);
  if (const spec::Parameter* p = model.description.Find("layers.0.attn.o.weight");
      !all && p != nullptr && model.description.facts.quantized) {
    plan.weights = model.reader->StoredType(*p);
  }
  PlanOfBatches(batches, &plan);
  if (RecomputeOf(config.activation_checkpointing) != model::Recompute::kNone) {
    plan.recompute = spec::Recompute::kLayers;
  }
  return spec::CostModel(model.description).Memory(plan);
}

std::string IdentityOf(const RunConfig& config, const ComputeChoice& compute, int64_t rows) {
  RunConfig same = config;
  // fp32 has been what `auto` was from the beginning, so it leaves the name as it is.
  if (compute.precision != Precision::kFp32) same.precision = compute.precision;
  same.model.path.clear();
  same.model.name.clear();
  same.dataset.training.clear();
  same.dataset.validation.clear();
  same.dataset.skipped_rows.clear();
  same.dataset.token_cache.clear();
  same.parallelism = {};  // another layout gives the same run
  same.output = {};
  same.checkpoint = {};
  same.resume_from.clear();
  same.start_from.clear();
  same.evaluation = {};
  same.events_fd = 1;
  same.device = RunConfig().device;
  same.threads = 0;  // another node has another number of cores
  same.log_interval = 1;
  std::string chosen;
  AddChosen(WriteConfig(same), WriteConfig(RunConfig()), "", &chosen);
  return Sha256::HexOf(absl::StrCat(chosen, rows));
}

}  // namespace graft::trainer
