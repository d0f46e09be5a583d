// What a training run needs, before it runs: memory of the fullest rank by component, seconds of a
// step by part, the least GPUs that hold a model, and the layouts of a cluster in order of speed.
//
//   const CostModel cost(model);
//   MemoryEstimate m = cost.Memory({.tuning = Tuning::kLora, .sequence = 2048});
//   m.total();  MemoryText(m);      // "18.3 GiB: weights 15.0, activations 1.2, ..."
//
// What the model of memory counts is what the trainer keeps: of each layer the residual stream
// twice, q, k and v, the attention's output and log-sum, the inside of the MLP and the adapters'
// inner rows; norms and products are made again in the backward; logits exist a chunk at a time.
// Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/spec/layout.h"
#include "worker/spec/load.h"

namespace graft::spec {

enum class Tuning : uint8_t { kLora, kAllWeights };
enum class Optimizer : uint8_t {
  kAdamW,
  kAdamW8bit,
  kPagedAdamW8bit,
  kAdafactor,
  kLion,
  kSgd,
  kSgdMomentum
};
// What the backward makes again: norms and products alone, or whole layers from their input.
enum class Recompute : uint8_t { kNone, kLayers };

struct TrainingPlan {
  Tuning tuning = Tuning::kLora;
  int64_t lora_rank = 16;
  // The share of linears with adapters, by canonical name behind the layer ("attn.q"); empty: all.
  std::vector<std::string> targets;
  Optimizer optimizer = Optimizer::kAdamW;
  DType compute = DType::kBF16;
  // What weights are kept in. A type other than `compute` is widened for each use; all weights are
  // trained over fp32 masters where `compute` is narrower.
  DType weights = DType::kBF16;
  int64_t micro_batch = 1;
  int64_t global_batch = 8;
  int64_t sequence = 2048;
  // The sum of squared lengths of the segments over the sum of lengths; 0: one segment a sequence.
  int64_t effective_length = 0;
  // Of the tokens, those that carry loss.
  double supervised_share = 1;
  Recompute recompute = Recompute::kNone;
  int zero = 0;  // 1: optimizer states divided over cp x dp; 3: weights and gradients too
  Layout layout;
  // A teacher's or reference model's weights beside it, already divided, in bytes.
  int64_t frozen_extra_bytes = 0;
  // The runtime's own memory (context, kernels, workspaces, communicators) and fragmentation count
  // on a GPU; on a CPU only tensors are counted.
  bool gpu = true;
};

struct MemoryComponent {
  std::string name;
  int64_t bytes = 0;
};

struct MemoryEstimate {
  // Of the pipeline stage that needs most; none is 0.
  std::vector<MemoryComponent> components;
  int64_t stage = 0;

  int64_t total() const;
  int64_t Of(absl::string_view component) const;
};

// The total and the components, largest first, in GiB.
std::string MemoryText(const MemoryEstimate& estimate);

// On a CPU the process' resident set is about total() and this: libtorch's and MKL's own, and pages
// of the mapped model. Measured with torch 2.11 between 200 and 600 MiB above the estimate.
inline constexpr int64_t kCpuResidentExtraBytes = int64_t{345} << 20;

// Of a card's memory what a plan may fill.
inline constexpr double kUsableShare = 0.92;

struct CardSize {
  int gigabytes;  // as it is sold
  int64_t bytes;  // as the driver reports it
};
// 24, 40, 80 and 141 GB.
const std::vector<CardSize>& CardSizes();

struct LeastGpus {
  int64_t gpus = 0;  // 0: more than kMostGpus
  Layout layout;
  MemoryEstimate memory;
};
inline constexpr int64_t kMostGpus = 1024;
// Speeds of a machine, in SI units per second.
struct DeviceRates {
  double matmul_flops = 989e12;     // dense, in the compute type
  double matmul_efficiency = 0.55;  // that a trainer's products reach
  double memory_bandwidth = 3.3e12;
  double nvlink_bandwidth = 360e9;  // bus bandwidth of a collective inside a domain
  double network_bandwidth = 40e9;  // of a rank, between domains
  int64_t gpus_per_domain = 8;
};

struct StepTime {
  double compute = 0;
  double tensor_parallel = 0;
  double context_parallel = 0;
  double expert_parallel = 0;
  double data_parallel = 0;
  double pipeline = 0;  // sends between stages
  double bubble = 0;    // stages that wait
  double total() const {
    return compute + tensor_parallel + context_parallel + expert_parallel + data_parallel +
           pipeline + bubble;
  }
};

struct RankedPlan {
  TrainingPlan plan;
  MemoryEstimate memory;
  StepTime step;
};
class CostModel {
 public:
  explicit CostModel(const ModelDescription& model);

  MemoryEstimate Memory(const TrainingPlan& plan) const;
  // Why `estimate` does not fit into `card_bytes`, with its largest component and what would help.
  std::string MisfitText(const TrainingPlan& plan, const MemoryEstimate& estimate,
                         int64_t card_bytes) const;
  // Floating-point operations of one token, forward and backward.
  double FlopsPerToken(const TrainingPlan& plan) const;
  // Of one optimizer step of `global_batch` sequences.
  StepTime Step(const TrainingPlan& plan, const DeviceRates& rates) const;

  // The fewest cards (a power of two) of `card_bytes` that hold the model at sequence 2048,
  // micro-batch 1, layers made again in the backward; for kAllWeights with ZeRO-3.
  LeastGpus FindLeastGpus(Tuning tuning, int64_t card_bytes) const;
  // The plans over `gpus` cards that are valid and fit, fastest first; of equal speed the one with
  // the smaller tp, then pp. `plan`'s layout, recompute and zero are chosen anew.
  std::vector<RankedPlan> RankPlans(const TrainingPlan& plan, int64_t gpus, int64_t card_bytes,
                                    const DeviceRates& rates) const;

  const DecoderSpec& spec() const { return spec_; }
  int64_t parameters() const { return parameters_; }

  // How a parameter is divided over the ranks of a stage.
  enum class Division : uint8_t { kNone, kTensor, kKvHeads, kExperts };
  // The parameters of one layer (-1: the embedding's side, num_layers: the head's) divided alike.
  struct Group {
    int64_t layer = 0;
    Division division = Division::kNone;
    bool vectors = false;
    double numbers = 0;
    double largest = 0;  // of one parameter
  };
  // A linear that may have an adapter.
  struct Linear {
    int64_t layer = 0;
    std::string role;  // "attn.q": of a fused one its first part
    double in = 0;
    double out = 0;
    bool divided_by_rows = false;  // tp divides its input
  };

 private:
  class StageMemory;

  DecoderSpec spec_;
  int64_t parameters_ = 0;
  double multiplied_ = 0;  // numbers that one token is multiplied with
  std::vector<Group> groups_;
  std::vector<Linear> linears_;
};

}  // namespace graft::spec
