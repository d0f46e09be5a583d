#include "scheduler/service/estimates.h"

#include <algorithm>
#include <initializer_list>
#include <string>

#include "absl/strings/str_cat.h"
#include "scheduler/service/job_spec.h"
#include "worker/spec/estimate.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
constexpr int kMostAlternatives = 5;
constexpr int64_t kMostAlternativeGpus = 64;
constexpr int64_t kWhereMemoryIsUnknown = int64_t{80} << 30;

spec::Optimizer OptimizerOf(const v1::OptimizerSection& section) {
  switch (section.kind()) {
    case v1::OptimizerSection::KIND_ADAMW_8BIT:
      return spec::Optimizer::kAdamW8bit;
    case v1::OptimizerSection::KIND_PAGED_ADAMW_8BIT:
      return spec::Optimizer::kPagedAdamW8bit;
    case v1::OptimizerSection::KIND_ADAFACTOR:
      return spec::Optimizer::kAdafactor;
    case v1::OptimizerSection::KIND_LION:
      return spec::Optimizer::kLion;
    case v1::OptimizerSection::KIND_SGD:
      return spec::Optimizer::kSgdMomentum;
    default:
      return spec::Optimizer::kAdamW;
  }
}

spec::TrainingPlan PlanOf(const v1::JobSpec& spec) {
  const bool cpu = spec.resources().device() == v1::ResourcesSection::DEVICE_CPU;
  const bool lora = spec.tuning().type() != v1::FINETUNING_TYPE_ALL_WEIGHTS;
  spec::TrainingPlan plan;
  plan.tuning = lora ? spec::Tuning::kLora : spec::Tuning::kAllWeights;
  plan.lora_rank = std::max(spec.tuning().lora().rank(), 1);
  plan.optimizer = OptimizerOf(spec.optimizer());
  const bool fp32 = spec.compute().precision() == v1::PRECISION_FP32 || cpu;
  plan.compute = plan.weights = fp32 ? spec::DType::kF32 : spec::DType::kBF16;
  plan.micro_batch = std::max(spec.batch().micro_batch_size(), 1);
  plan.global_batch = std::max(spec.batch().global_batch_size(), 1);
  plan.sequence = std::max(spec.batch().max_seq_length(), 1);
  plan.gpu = !cpu;
  const Layout layout = LayoutOf(spec);
  plan.layout.tp = layout.tp;
  plan.layout.cp = layout.cp;
  plan.layout.dp = layout.dp;
  plan.layout.pp = layout.pp;
  plan.layout.ep = layout.ep;
  plan.zero = ZeroOf(spec, layout);
  return plan;
}

void SetApiLayout(const spec::Layout& layout, v1::Layout& out) {
  out.set_tensor_parallel_size(static_cast<int32_t>(layout.tp));
  out.set_context_parallel_size(static_cast<int32_t>(layout.cp));
  out.set_data_parallel_size(static_cast<int32_t>(layout.dp));
  out.set_pipeline_parallel_size(static_cast<int32_t>(layout.pp));
  out.set_expert_parallel_size(static_cast<int32_t>(layout.ep));
  out.set_world_size(static_cast<int32_t>(layout.tp * layout.cp * layout.dp * layout.pp));
}

void SetMemory(const spec::MemoryEstimate& memory, v1::Estimate::Memory& out) {
  const auto sum = [&memory](std::initializer_list<absl::string_view> components) {
    int64_t bytes = 0;
    for (const absl::string_view component : components) bytes += memory.Of(component);
    return bytes;
  };
  out.set_weights(
      sum({"weights", "adapters", "embedding and head", "gathered layers", "widened weights"}));
  out.set_gradients(sum({"gradients", "sums under way"}));
  out.set_optimizer(sum({"optimizer states", "shares of trained numbers"}));
  out.set_activations(sum({"activations", "layer made again", "received keys and values"}));
  out.set_reference(memory.Of("other models"));
  out.set_total(memory.total());
  out.set_overhead(memory.total() - out.weights() - out.gradients() - out.optimizer() -
                   out.activations() - out.reference());
}

// Of each trained number, that an optimizer keeps in a checkpoint.
int StatesOf(spec::Optimizer optimizer) {
  switch (optimizer) {
    case spec::Optimizer::kSgd:
    case spec::Optimizer::kAdafactor:  // a row and a column of each matrix
      return 0;
    case spec::Optimizer::kLion:
    case spec::Optimizer::kSgdMomentum:
      return 1;
    default:
      return 2;
  }
}

// What comes to lie on a node's disk: its inputs, the checkpoints that stay, the best and the one
// that is being written beside them, and the output.
int64_t DiskOf(const spec::ModelDescription& model, const v1::JobSpec& resolved,
               spec::TrainingPlan plan, int64_t dataset_bytes) {
  plan.layout = {};
  plan.zero = 0;
  const int64_t trained = spec::CostModel(model).Memory(plan).Of("gradients");  // as many, in fp32
  const int64_t checkpoint = trained * (1 + StatesOf(plan.optimizer));
  const bool adapter = resolved.tuning().type() == v1::FINETUNING_TYPE_LORA;
  const int64_t kept = resolved.schedule().keep_checkpoints() + 2;
  return model.facts.weight_bytes + dataset_bytes + kept * checkpoint +
         (adapter ? trained : model.facts.weight_bytes);
}

spec::DeviceRates RatesOf(const DeviceNumbers& device) {
  spec::DeviceRates rates;
  if (device.tflops > 0) rates.matmul_flops = device.tflops * 1e12;
  if (device.bandwidth_gb_per_s > 0) rates.memory_bandwidth = device.bandwidth_gb_per_s * 1e9;
  return rates;
}

}  // namespace

absl::Duration ExpectedRunTime(const v1::Job& job) {
  const int64_t cap = job.resolved_spec().schedule().max_steps();
  const int64_t steps = job.estimate().steps() > 0 ? job.estimate().steps() : cap;
  if (steps <= 0 || job.estimate().step_seconds() <= 0) return absl::InfiniteDuration();
  return absl::Seconds(job.estimate().step_seconds() * static_cast<double>(steps));
}

v1::Estimate EstimateFor(const spec::ModelDescription& model, const v1::JobSpec& resolved,
                         const DeviceNumbers& device, int64_t dataset_bytes) {
  const spec::CostModel cost(model);
  const spec::TrainingPlan plan = PlanOf(resolved);
  const spec::DeviceRates rates = RatesOf(device);
  v1::Estimate estimate;
  SetMemory(cost.Memory(plan), *estimate.mutable_device_memory());
  estimate.set_disk(DiskOf(model, resolved, plan, dataset_bytes));
  const int64_t nodes = std::max(resolved.parallelism().nodes(), 1);
  const int64_t ranks = std::max<int64_t>(plan.layout.world() / nodes, 1);
  estimate.set_host_memory(
      ranks * (spec::kCpuResidentExtraBytes + (plan.gpu ? 0 : estimate.device_memory().total())));
  SetApiLayout(plan.layout, *estimate.mutable_layout());
  estimate.set_step_seconds(cost.Step(plan, rates).total());
  estimate.set_basis("computed");
  // Without numbers of the rows only a bound on steps says how long it runs.
  if (resolved.schedule().max_steps() > 0) {
    estimate.set_steps(resolved.schedule().max_steps());
    estimate.set_tokens(estimate.steps() * plan.global_batch * plan.sequence);
    const double seconds = estimate.step_seconds() * static_cast<double>(estimate.steps());
    estimate.mutable_run_time()->set_seconds(static_cast<int64_t>(seconds));
  }
  const int64_t memory = device.memory_bytes > 0 ? device.memory_bytes : kWhereMemoryIsUnknown;
  for (int64_t gpus = 1; gpus <= kMostAlternativeGpus && plan.gpu; gpus *= 2) {
    for (const spec::RankedPlan& ranked : cost.RankPlans(plan, gpus, memory, rates)) {
      if (estimate.alternatives_size() == kMostAlternatives) break;
      v1::Alternative& one = *estimate.add_alternatives();
      SetApiLayout(ranked.plan.layout, *one.mutable_layout());
      one.set_devices(static_cast<int32_t>(gpus));
      one.set_device_memory(ranked.memory.total());
      one.set_step_seconds(ranked.step.total());
      one.set_note(absl::StrCat("the fastest on ", gpus, gpus == 1 ? " device" : " devices"));
      break;
    }
  }
  return estimate;
}

}  // namespace graft::scheduler
