#include "worker/spec/estimate.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace graft::spec {
namespace {

// The runtime of a GPU process: context and kernels, the workspace of products, a communicator.
constexpr int64_t kRuntimeBytes = int64_t{900} << 20;
constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;
constexpr int64_t kCommunicatorBytes = int64_t{256} << 20;
// Of what is allocated and freed within a step.
constexpr double kFragmentation = 0.05;
// As worker/model/cross_entropy.cc chunks the head.
constexpr int64_t kLogitsChunkBytes = int64_t{24} << 20;
constexpr int64_t kMinLogitsRows = 64;
constexpr int64_t kFp32 = 4;

double BytesPerNumber(DType type) {
  return static_cast<double>(BlockBytes(type)) / static_cast<double>(BlockElements(type));
}

int64_t Ceil(double x) { return static_cast<int64_t>(std::ceil(x)); }

// Bytes an optimizer keeps of each trained number, masters apart.
double StateBytes(Optimizer optimizer) {
  switch (optimizer) {
    case Optimizer::kAdamW:
      return 8;
    case Optimizer::kAdamW8bit:
      return 2 + 2 * 4.0 / 256;  // a scale for each block of 256
    case Optimizer::kAdafactor:
      return 0.05;  // a row and a column of each matrix
    case Optimizer::kLion:
    case Optimizer::kSgdMomentum:
      return 4;
    case Optimizer::kSgd:
      return 0;
  }
  return 8;
}

// Where a parameter lives: its layer (-1: embedding side, num_layers: head side) and its division.
struct Share {
  int64_t layer = 0;
  double fraction = 1;  // of the parameter that one rank of its stage holds, before ZeRO
};

int64_t LayerOf(const std::string& name, int64_t layers) {
  if (!absl::StartsWith(name, "layers.")) {
    return absl::StartsWith(name, "embed") || absl::StartsWith(name, "positions") ? -1 : layers;
  }
  return std::stoll(name.substr(7));
}

bool IsNorm(absl::string_view name) {
  return absl::StrContains(name, "norm.") || absl::StrContains(name, ".q_norm") ||
         absl::StrContains(name, ".k_norm");
}

Share ShareOf(const DecoderSpec& spec, const Layout& layout, const Parameter& p) {
  Share share;
  share.layer = LayerOf(p.name, spec.num_layers());
  const double tp = static_cast<double>(layout.tp);
  if (absl::StrContains(p.name, ".moe.experts.")) {
    share.fraction = 1 / (tp * static_cast<double>(layout.ep));
    return share;
  }
  const bool replicated =
      IsNorm(p.name) || absl::StrContains(p.name, ".router") ||
      absl::StrContains(p.name, ".shared_gate") || absl::StrContains(p.name, ".q_a.") ||
      absl::StrContains(p.name, ".kv_a.") || absl::StartsWith(p.name, "positions");
  if (replicated) return share;
  const bool kv = absl::StrContains(p.name, ".attn.k.") || absl::StrContains(p.name, ".attn.v.");
  // KV heads are replicated where tp exceeds them.
  share.fraction = kv ? 1 / std::min(tp, static_cast<double>(spec.attention.kv_heads)) : 1 / tp;
  return share;
}

bool Adapted(const TrainingPlan& plan, absl::string_view canonical) {
  if (plan.targets.empty()) return true;
  return std::any_of(plan.targets.begin(), plan.targets.end(), [&](const std::string& t) {
    return absl::EndsWith(canonical, absl::StrCat(".", t));
  });
}

// First layer and one past the last of a stage: as even as can be, the rest to the middle stages.
std::pair<int64_t, int64_t> LayersOfStage(int64_t layers, int64_t pp, int64_t stage) {
  return {layers * stage / pp, layers * (stage + 1) / pp};
}

class Memory {
 public:
  Memory(const ModelDescription& model, const TrainingPlan& plan)
      : model_(model), spec_(model.spec), plan_(plan), layout_(plan.layout) {
    tokens_ =
        static_cast<double>(plan.micro_batch * plan.sequence) / static_cast<double>(layout_.cp);
    compute_ = BytesPerNumber(plan.compute);
    linears_ = HubLinears(model);
  }

  MemoryEstimate Estimate() {
    MemoryEstimate fullest;
    for (int64_t stage = 0; stage < layout_.pp; ++stage) {
      MemoryEstimate e = Stage(stage);
      if (stage == 0 || e.total() > fullest.total()) fullest = std::move(e);
    }
    return fullest;
  }

 private:
  MemoryEstimate Stage(int64_t stage) {
    std::tie(first_, last_) = LayersOfStage(spec_.num_layers(), layout_.pp, stage);
    head_side_ = stage == layout_.pp - 1;
    embed_side_ = stage == 0;
    MemoryEstimate e;
    e.stage = stage;
    CountParameters();
    Weights(e);
    Trained(e);
    const int64_t before = static_cast<int64_t>(e.components.size());
    Activations(e, stage);
    int64_t moving = 0;
    for (size_t i = static_cast<size_t>(before); i < e.components.size(); ++i) {
      moving += e.components[i].bytes;
    }
    if (plan_.gpu) Runtime(e, moving);
    return e;
  }

  static void Add(MemoryEstimate& e, const char* name, double bytes) {
    if (bytes >= 1) e.components.push_back({name, Ceil(bytes)});
  }

  bool OnStage(int64_t layer) const {
    if (layer == -1) return embed_side_;
    if (layer == spec_.num_layers()) return head_side_;
    return layer >= first_ && layer < last_;
  }

  // What one rank of the stage holds, in numbers; and the largest that is widened for its use.
  void CountParameters() {
    matrices_ = vectors_ = largest_matrix_ = adapters_ = 0;
    for (const Parameter& p : model_.parameters) {
      const Share share = ShareOf(spec_, layout_, p);
      // A tied embedding stands on the first and on the last stage.
      const bool tied_copy = spec_.tied_embeddings && head_side_ && p.name == "embed.weight";
      if (!OnStage(share.layer) && !tied_copy) continue;
      const double n = static_cast<double>(p.elements()) * share.fraction;
      (p.shape.size() == 1 ? vectors_ : matrices_) += n;
      if (p.shape.size() > 1 && p.name != "embed.weight") {
        largest_matrix_ = std::max(largest_matrix_, n);
      }
      if (p.name == "embed.weight" && spec_.tied_embeddings && head_side_) {
        largest_matrix_ = std::max(largest_matrix_, n);  // as the head
      }
    }
    if (plan_.tuning == Tuning::kLora) CountAdapters();
  }

  // Of a column-parallel linear A is replicated and B divided; of a row-parallel one the other way.
  void CountAdapters() {
    const double r = static_cast<double>(plan_.lora_rank);
    const double tp = static_cast<double>(layout_.tp);
    for (const HubLinear& linear : linears_) {
      const std::string& name = linear.parts[0].name;
      if (!OnStage(LayerOf(name, spec_.num_layers())) || !Adapted(plan_, name)) continue;
      const bool row = absl::EndsWith(name, ".o") || absl::EndsWith(name, ".down");
      const double in = static_cast<double>(linear.in) / (row ? tp : 1);
      const double out = static_cast<double>(linear.out) / (row ? 1 : tp);
      adapters_ += r * (in + out);
    }
  }

  double ZeroShare(int from_stage) const {
    return plan_.zero >= from_stage ? static_cast<double>(layout_.dp * layout_.cp) : 1;
  }

  void Weights(MemoryEstimate& e) const {
    const bool all = plan_.tuning == Tuning::kAllWeights;
    const double kept = all ? compute_ : BytesPerNumber(plan_.weights);
    const double bytes = matrices_ * kept + vectors_ * (all ? compute_ : kFp32);
    Add(e, "weights", bytes / ZeroShare(3));
    if (plan_.zero >= 3) Add(e, "gathered layers", 2 * LayerNumbers() * kept);
    if (!all && plan_.weights != plan_.compute) {
      Add(e, "widened weights", largest_matrix_ * compute_);
    }
    Add(e, "other models", static_cast<double>(plan_.frozen_extra_bytes));
  }

  double LayerNumbers() const {
    return (matrices_ + vectors_) / static_cast<double>(std::max<int64_t>(1, last_ - first_));
  }

  void Trained(MemoryEstimate& e) const {
    const double trained = plan_.tuning == Tuning::kLora ? adapters_ : matrices_ + vectors_;
    if (plan_.tuning == Tuning::kLora) Add(e, "adapters", trained * kFp32);
    Add(e, "gradients", trained * kFp32 / ZeroShare(3));
    double states = StateBytes(plan_.optimizer);
    if (plan_.tuning == Tuning::kAllWeights && compute_ < kFp32) states += kFp32;  // masters
    Add(e, "optimizer states", trained * states / ZeroShare(1));
  }

  // Numbers that a layer keeps of each token, those of `compute` and the log-sums of fp32.
  double KeptPerToken(const LayerSpec& layer) const {
    const double h = static_cast<double>(spec_.hidden);
    const double inner = static_cast<double>(InnerRows(layer));
    return 2 * h + (AttentionPerToken() + MlpPerToken(layer)) / static_cast<double>(layout_.tp) +
           inner;
  }
  double AttentionPerToken() const {
    const AttentionSpec& a = spec_.attention;
    const double heads = static_cast<double>(a.heads);
    const double q = heads * static_cast<double>(a.head_dim);
    const double v = heads * static_cast<double>(a.value_dim);
    const double log_sums = heads * kFp32 / compute_;
    if (!a.mla) return q + 2 * static_cast<double>(spec_.kv_width()) + q + log_sums;
    const double latents = static_cast<double>(2 * a.q_lora_rank + 2 * a.kv_lora_rank);
    return 2 * q + v + v + latents + log_sums;
  }
  double MlpPerToken(const LayerSpec& layer) const {
    if (!layer.moe) {
      return static_cast<double>(layer.ffn) * (spec_.mlp.gated ? 2 : 1);
    }
    const MoeSpec& m = spec_.moe;
    const double sides = m.expert.gated ? 2 : 1;
    const double routed =
        static_cast<double>(m.experts_per_token) *
        (sides * static_cast<double>(m.expert_ffn) + 2 * static_cast<double>(spec_.hidden));
    return routed + sides * static_cast<double>(m.shared_ffn) + static_cast<double>(m.experts);
  }
  int64_t InnerRows(const LayerSpec& layer) const {
    if (plan_.tuning != Tuning::kLora) return 0;
    int64_t count = 0;
    const std::string prefix = absl::StrCat("layers.", first_, ".");
    for (const HubLinear& linear : linears_) {
      if (absl::StartsWith(linear.parts[0].name, prefix) && Adapted(plan_, linear.parts[0].name)) {
        ++count;
      }
    }
    return count * plan_.lora_rank;
  }

  // The gradients and remade values that live together in the backward of a layer.
  double BackwardPerToken(const LayerSpec& layer) const {
    const double h = static_cast<double>(spec_.hidden);
    const double tp = static_cast<double>(layout_.tp);
    const double mlp = MlpPerToken(layer) / tp * (spec_.mlp.gated ? 1.5 : 2) + 2 * h;
    const double attention = AttentionPerToken() / tp + 3 * h;
    return std::max(mlp, attention);
  }

  void Activations(MemoryEstimate& e, int64_t stage) const {
    const double h = static_cast<double>(spec_.hidden);
    double kept = 0, layer_kept = 0, backward = 0;
    for (int64_t i = first_; i < last_; ++i) {
      const LayerSpec& layer = spec_.layers[static_cast<size_t>(i)];
      kept += KeptPerToken(layer);
      layer_kept = std::max(layer_kept, KeptPerToken(layer));
      backward = std::max(backward, BackwardPerToken(layer));
    }
    if (plan_.recompute == Recompute::kLayers) kept = h * static_cast<double>(last_ - first_);
    kept += h;  // the residual stream behind the last layer
    // 1F1B: a stage holds as many micro-batches as there are stages from it on.
    const double in_flight = static_cast<double>(std::min(MicroBatches(), layout_.pp - stage));
    Add(e, "activations", kept * tokens_ * compute_ * in_flight);
    if (plan_.recompute == Recompute::kLayers) {
      Add(e, "layer made again", layer_kept * tokens_ * compute_);
    }
    const double loss = head_side_ ? LossBytes() : 0;
    Add(e, loss > backward * tokens_ * compute_ ? "loss" : "backward of a layer",
        std::max(loss, backward * tokens_ * compute_));
    if (layout_.cp > 1) {
      const double kv = 2 * static_cast<double>(spec_.kv_width()) / static_cast<double>(layout_.tp);
      Add(e, "received keys and values", 2 * kv * tokens_ * compute_);
    }
  }

  int64_t MicroBatches() const {
    return std::max<int64_t>(1, plan_.global_batch / (plan_.micro_batch * layout_.dp));
  }

  // The supervised rows picked, normalised, and their gradient twice; and a chunk of logits.
  double LossBytes() const {
    const double rows = tokens_ * plan_.supervised_share;
    const double vocab = static_cast<double>(spec_.vocab) / static_cast<double>(layout_.tp);
    const double chunk_rows = std::min(
        rows, std::max(static_cast<double>(kMinLogitsRows),
                       std::floor(static_cast<double>(kLogitsChunkBytes) / (vocab * compute_))));
    // On a GPU the chunk's logits, their fp32 log-probabilities and gradient live together.
    const double chunk = chunk_rows * vocab * (plan_.gpu ? compute_ + 2 * kFp32 : compute_);
    return 4 * rows * static_cast<double>(spec_.hidden) * compute_ + chunk;
  }

  void Runtime(MemoryEstimate& e, int64_t moving) const {
    int64_t groups = 0;
    for (int64_t size : {layout_.tp, layout_.pp, layout_.cp, layout_.dp, layout_.ep}) {
      groups += size > 1 ? 1 : 0;
    }
    Add(e, "runtime",
        static_cast<double>(kRuntimeBytes + kWorkspaceBytes + groups * kCommunicatorBytes));
    Add(e, "fragmentation", kFragmentation * static_cast<double>(moving));
  }

  const ModelDescription& model_;
  const DecoderSpec& spec_;
  const TrainingPlan& plan_;
  const Layout& layout_;
  std::vector<HubLinear> linears_;
  double tokens_ = 0;   // of a micro-batch on one rank
  double compute_ = 2;  // bytes of a number

  // Of the stage at hand.
  int64_t first_ = 0, last_ = 0;
  bool embed_side_ = false, head_side_ = false;
  double matrices_ = 0, vectors_ = 0, largest_matrix_ = 0, adapters_ = 0;
};

std::string Gib(int64_t bytes) {
  return absl::StrFormat("%.1f", static_cast<double>(bytes) / (1 << 30));
}

}  // namespace

int64_t MemoryEstimate::total() const {
  int64_t sum = 0;
  for (const MemoryComponent& c : components) sum += c.bytes;
  return sum;
}

int64_t MemoryEstimate::Of(absl::string_view component) const {
  for (const MemoryComponent& c : components) {
    if (c.name == component) return c.bytes;
  }
  return 0;
}

MemoryEstimate EstimateMemory(const ModelDescription& model, const TrainingPlan& plan) {
  return Memory(model, plan).Estimate();
}

std::string MemoryText(const MemoryEstimate& estimate) {
  std::vector<MemoryComponent> sorted = estimate.components;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return absl::StrCat(Gib(estimate.total()), " GiB: ",
                      absl::StrJoin(sorted, ", ", [](std::string* out, const MemoryComponent& c) {
                        absl::StrAppend(out, c.name, " ", Gib(c.bytes));
                      }));
}

std::string MisfitText(const ModelDescription& model, const TrainingPlan& plan,
                       const MemoryEstimate& estimate, int64_t card_bytes) {
  const auto largest =
      std::max_element(estimate.components.begin(), estimate.components.end(),
                       [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  std::vector<std::string> fixes;
  const auto offer = [&](TrainingPlan other, absl::string_view what) {
    const int64_t saved = estimate.total() - EstimateMemory(model, other).total();
    if (saved > estimate.total() / 100) fixes.push_back(absl::StrCat(what, " (-", Gib(saved), ")"));
  };
  TrainingPlan other = plan;
  other.recompute = Recompute::kLayers;
  if (plan.recompute == Recompute::kNone) offer(other, "activation checkpointing in full");
  other = plan;
  other.sequence = plan.sequence / 2;
  offer(other, absl::StrCat("max_seq_length ", other.sequence));
  other = plan;
  other.layout.pp *= 2;
  if (other.layout.pp <= model.spec.num_layers()) {
    offer(other, absl::StrCat("pipeline_parallel_size ", other.layout.pp));
  }
  if (plan.tuning == Tuning::kAllWeights) {
    other = plan;
    other.tuning = Tuning::kLora;
    offer(other, "lora");
  }
  return absl::StrCat("it needs ", Gib(estimate.total()), " GiB of each card's ",
                      Gib(static_cast<int64_t>(kUsableShare * static_cast<double>(card_bytes))),
                      " usable; most of it is ", largest->name, " (", Gib(largest->bytes), ")",
                      fixes.empty() ? "" : "; what helps: ", absl::StrJoin(fixes, ", "));
}

const std::vector<CardSize>& CardSizes() {
  static const std::vector<CardSize>* const sizes =
      new std::vector<CardSize>{{24, int64_t{24} << 30},
                                {40, int64_t{39} << 30},
                                {80, int64_t{79} << 30},
                                {141, int64_t{139} << 30}};
  return *sizes;
}

LeastGpus FindLeastGpus(const ModelDescription& model, Tuning tuning, int64_t card_bytes) {
  const double usable = kUsableShare * static_cast<double>(card_bytes);
  for (int64_t gpus = 1; gpus <= kMostGpus; gpus *= 2) {
    LeastGpus best;
    // A batch that every layout can divide: its size hardly matters to memory.
    const LayoutRequest request{.gpus = gpus, .global_batch = gpus, .gpus_per_nvlink_domain = 8};
    for (const Layout& layout : EnumerateLayouts(model.spec, request)) {
      if (layout.cp > 1) continue;
      TrainingPlan plan{.tuning = tuning, .recompute = Recompute::kLayers, .layout = layout};
      plan.global_batch = gpus;
      plan.zero = tuning == Tuning::kAllWeights ? 3 : 0;
      MemoryEstimate memory = EstimateMemory(model, plan);
      if (static_cast<double>(memory.total()) > usable) continue;
      if (best.gpus == 0 || memory.total() < best.memory.total()) {
        best = {gpus, layout, std::move(memory)};
      }
    }
    if (best.gpus > 0) return best;
  }
  return {};
}

}  // namespace graft::spec
