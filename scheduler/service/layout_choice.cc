#include "scheduler/service/layout_choice.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "scheduler/service/job_spec.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr double kTrainedOfLora = 0.005;  // of all parameters, where the layers are not known

ModelFacts FactsOf(const v1::ModelSpec& model) {
  return {.parameters = model.parameters(),
          .active_parameters = model.experts().active_parameters(),
          .layers = model.layers(),
          .heads = model.attention_heads(),
          .kv_heads = model.kv_heads() > 0 ? model.kv_heads() : model.attention_heads(),
          .hidden = model.hidden_size(),
          .experts = model.experts().count(),
          .experts_per_token = model.experts().per_token(),
          .columns = std::gcd(model.intermediate_size(), model.experts().intermediate_size())};
}

double TrainedShare(const v1::JobSpec& spec, const v1::ModelSpec& model) {
  if (spec.tuning().type() == v1::FINETUNING_TYPE_ALL_WEIGHTS) return 1;
  double adapted = 0;
  for (const auto& layer : model.linear_layers()) {
    adapted += static_cast<double>(layer.in_features() + layer.out_features()) * layer.count();
  }
  if (adapted == 0 || model.parameters() == 0) return kTrainedOfLora;
  return adapted * std::max(spec.tuning().lora().rank(), 1) /
         static_cast<double>(model.parameters());
}

double BytesPerWeight(const v1::JobSpec& spec) {
  switch (spec.tuning().base_quantization()) {
    case v1::TuningSection::BASE_QUANTIZATION_NF4:
      return 0.55;
    case v1::TuningSection::BASE_QUANTIZATION_INT8:
      return 1.05;
    default:
      return spec.compute().precision() == v1::PRECISION_FP32 ? 4 : 2;
  }
}

// The largest GPU that the gang may take, and the most of them in one NVLink domain.
ShapeRates RatesOf(const ClusterView& cluster, const GangRequest& like) {
  ShapeRates rates;
  rates.device_bytes = 0;
  rates.devices_per_domain = 1;
  const Topology& empty = cluster.empty();
  const auto& pools = empty.pools();
  for (const auto& [pool, where] : empty.at(Topology::kRoot).counts) {
    const Topology::Pool& own = pools[static_cast<size_t>(pool)];
    if (own.kind != like.device_kind || own.memory_bytes < like.min_memory_bytes) continue;
    for (int size = own.stride - 1; size > 0; --size) {
      if (empty.Counts(where)[size] == 0) continue;
      rates.device_bytes = std::max(rates.device_bytes, own.memory_bytes);
      rates.devices_per_domain = std::max(rates.devices_per_domain, size);
      break;
    }
  }
  return rates;
}

int DevicesGiven(const v1::ParallelismSection& asked) {
  if (!asked.has_gpus_per_node()) return 0;
  return asked.gpus_per_node() * (asked.has_nodes() ? asked.nodes() : 1);
}

}  // namespace

bool LeavesLayoutOpen(const v1::ParallelismSection& asked) {
  return !asked.has_gpus_per_node() || !asked.has_tensor_parallel_size() ||
         !asked.has_pipeline_parallel_size() || !asked.has_context_parallel_size() ||
         !asked.has_expert_parallel_size();
}

namespace {

// What of the specification the cost of a layout depends on.
ShapeRequest CostsOf(const v1::JobSpec& resolved, const v1::ModelSpec& model) {
  return {.sequence = std::max(resolved.batch().max_seq_length(), 1),
          .micro_batch = std::max(resolved.batch().micro_batch_size(), 1),
          .global_batch = std::max(resolved.batch().global_batch_size(), 1),
          .trained_share = TrainedShare(resolved, model),
          .bytes_per_weight = BytesPerWeight(resolved),
          .recompute_layers = resolved.compute().activation_checkpointing() ==
                              v1::ComputeSection::ACTIVATION_CHECKPOINTING_FULL};
}

}  // namespace

double StepChange(const v1::JobSpec& resolved, const v1::ModelSpec& model,
                  const ClusterView& cluster, const GangRequest& from, const GangRequest& to) {
  const ModelFacts facts = FactsOf(model);
  if (facts.parameters <= 0 || facts.heads < 1) return 0;
  const ShapeRequest costs = CostsOf(resolved, model);
  const ShapeRates rates = RatesOf(cluster, from);
  const auto seconds = [&](const GangRequest& gang) {
    const bool near =
        from.max_level == to.max_level && gang.layout.world() <= rates.devices_per_domain;
    return ShapeStepSeconds(facts, costs, rates, gang.layout,
                            near ? Level::kDomain : gang.max_level);
  };
  return seconds(to) / seconds(from) - 1;
}

absl::StatusOr<ShapeChoice> ChooseLayout(const v1::ParallelismSection& asked,
                                         const v1::JobSpec& resolved, const v1::ModelSpec& model,
                                         const ClusterView& cluster, const GangRequest& like) {
  ShapeRequest request = CostsOf(resolved, model);
  request.devices = DevicesGiven(asked);
  request.tp = asked.tensor_parallel_size();
  request.cp = asked.context_parallel_size();
  // Weights that are divided are not those of a pipeline.
  request.pp = asked.shard_weights() ? 1 : asked.pipeline_parallel_size();
  request.ep = asked.expert_parallel_size();
  request.tp_across_domains = asked.allow_tp_across_nodes();
  return ChooseShape(FactsOf(model), request, RatesOf(cluster, like), cluster.topology(), like);
}

void ApplyLayout(const ShapeChoice& choice, JobRequest& request, v1::Job& body) {
  const Shape& first = choice.shapes.front();
  request.gang.layout = first.layout;
  request.other_layouts.clear();
  v1::Estimate& estimate = *body.mutable_estimate();
  estimate.clear_alternatives();
  double memory = first.memory_bytes;
  for (size_t i = 1; i < choice.shapes.size(); ++i) {
    const Shape& shape = choice.shapes[i];
    request.other_layouts.push_back(shape.layout);
    memory = std::max(memory, shape.memory_bytes);
    v1::Alternative& one = *estimate.add_alternatives();
    SetLayout(shape.layout, *one.mutable_layout());
    one.set_devices(shape.layout.world());
    one.set_device_memory(static_cast<int64_t>(shape.memory_bytes));
    one.set_step_seconds(shape.step_seconds);
    one.set_note("taken where the first does not fit and this one does");
  }
  // Any of them may be taken, so that each device must hold the largest.
  const double usable = ShapeRates().usable_share;
  request.gang.min_memory_bytes =
      std::max(request.gang.min_memory_bytes, static_cast<int64_t>(memory / usable));
  SetLayout(first.layout, *estimate.mutable_layout());
  estimate.set_step_seconds(first.step_seconds);
  estimate.mutable_device_memory()->set_total(static_cast<int64_t>(first.memory_bytes));
  estimate.set_basis("computed");
  v1::ParallelismSection& resolved = *body.mutable_resolved_spec()->mutable_parallelism();
  resolved.set_tensor_parallel_size(first.layout.tp);
  resolved.set_pipeline_parallel_size(first.layout.pp);
  resolved.set_context_parallel_size(first.layout.cp);
  resolved.set_expert_parallel_size(first.layout.ep);
  resolved.set_data_parallel_size(first.layout.dp);
  if (!resolved.has_gpus_per_node()) {
    resolved.set_gpus_per_node(first.layout.world() / std::max(resolved.nodes(), 1));
  }
}

}  // namespace graft::scheduler
