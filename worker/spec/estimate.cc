#include "worker/spec/estimate.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "worker/spec/stages.h"

namespace graft::spec {
namespace {

// The runtime of a GPU process: context and kernels, the workspace of products, a communicator.
constexpr int64_t kRuntimeBytes = int64_t{900} << 20;
constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;
constexpr int64_t kCommunicatorBytes = int64_t{256} << 20;
// Of gradients that are packed for their sums at a time (worker/parallel/reducer.h).
constexpr int64_t kSumsUnderWayBytes = int64_t{64} << 20;
// Of what is allocated and freed within a step.
constexpr double kFragmentation = 0.05;
// As worker/model/cross_entropy.cc chunks the head.
constexpr int64_t kLogitsChunkBytes = int64_t{24} << 20;
constexpr int64_t kMinLogitsRows = 64;
constexpr double kFp32 = 4;

// Bytes an optimizer keeps of each trained number, masters apart.
double StateBytes(const TrainingPlan& plan) {
  switch (plan.optimizer) {
    case Optimizer::kAdamW:
      return 8;
    case Optimizer::kPagedAdamW8bit:
      if (plan.gpu) return 0;  // they are in the host's memory
      [[fallthrough]];
    case Optimizer::kAdamW8bit:
      return 2 + 2 * kFp32 / 256;  // a scale for each block of 256
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

int64_t LayerOf(const std::string& name, int64_t layers) {
  if (!absl::StartsWith(name, "layers.")) {
    return absl::StartsWith(name, "embed") || absl::StartsWith(name, "positions") ? -1 : layers;
  }
  return std::stoll(name.substr(7));
}

CostModel::Division DivisionOf(const Parameter& p) {
  if (absl::StrContains(p.name, ".moe.experts.")) return CostModel::Division::kExperts;
  for (const char* part :
       {"norm.", ".router", ".shared_gate", ".q_a.", ".kv_a.", "positions", ".sinks"}) {
    if (absl::StrContains(p.name, part)) return CostModel::Division::kNone;
  }
  const bool kv = absl::StrContains(p.name, ".attn.k.") || absl::StrContains(p.name, ".attn.v.");
  return kv ? CostModel::Division::kKvHeads : CostModel::Division::kTensor;
}

// First layer and one past the last of a stage, as even as can be.
bool Adapted(const TrainingPlan& plan, const CostModel::Linear& linear) {
  return plan.targets.empty() ||
         std::find(plan.targets.begin(), plan.targets.end(), linear.role) != plan.targets.end();
}

std::string Gib(int64_t bytes) {
  return absl::StrFormat("%.1f", static_cast<double>(bytes) / (1 << 30));
}

}  // namespace

CostModel::CostModel(const ModelDescription& model)
    : spec_(model.spec), parameters_(model.facts.parameters) {
  const int64_t layers = spec_.num_layers();
  std::map<std::tuple<int64_t, Division, bool>, Group> groups;
  for (const Parameter& p : model.parameters) {
    const double n = static_cast<double>(p.elements());
    const bool vector = p.shape.size() == 1;
    const Division division = DivisionOf(p);
    const int64_t layer = LayerOf(p.name, layers);
    Group& group = groups[{layer, division, vector}];
    group.layer = layer;
    group.division = division;
    group.vectors = vector;
    group.numbers += n;
    group.largest = std::max(group.largest, n);
    // Rows of an embedding are looked up, not multiplied, unless they are the head.
    const bool looked_up =
        p.name == "positions.weight" || (p.name == "embed.weight" && !spec_.tied_embeddings);
    if (vector || looked_up) continue;
    multiplied_ += division == Division::kExperts
                       ? n * static_cast<double>(spec_.moe.experts_per_token) /
                             static_cast<double>(spec_.moe.experts)
                       : n;
  }
  for (auto& [key, group] : groups) groups_.push_back(group);
  for (const HubLinear& linear : HubLinears(model)) {
    const std::string& name = linear.parts[0].name;
    const size_t dot = name.find('.', 7);
    linears_.push_back(
        {.layer = LayerOf(name, layers),
         .role = name.substr(dot + 1),
         .in = static_cast<double>(linear.in),
         .out = static_cast<double>(linear.out),
         .divided_by_rows = absl::EndsWith(name, ".o") || absl::EndsWith(name, ".down")});
  }
}

// --- Memory ---

// The memory of one rank of one pipeline stage.
class CostModel::StageMemory {
 public:
  StageMemory(const CostModel& cost, const TrainingPlan& plan, int64_t stage,
              std::pair<int64_t, int64_t> layers)
      : cost_(cost),
        spec_(cost.spec_),
        plan_(plan),
        layout_(plan.layout),
        stage_(stage),
        first_(layers.first),
        last_(layers.second) {
    tp_ = static_cast<double>(layout_.tp);
    tokens_ =
        static_cast<double>(plan.micro_batch * plan.sequence) / static_cast<double>(layout_.cp);
    bytes_ = BytesPerNumber(plan.compute);
  }

  MemoryEstimate Estimate() {
    estimate_.stage = stage_;
    CountParameters();
    if (plan_.tuning == Tuning::kLora) CountAdapters();
    Weights();
    Trained();
    const int64_t lasting = estimate_.total();
    Activations();
    if (plan_.gpu) Runtime(static_cast<double>(estimate_.total() - lasting));
    return std::move(estimate_);
  }

 private:
  void Add(const char* name, double bytes) {
    if (bytes < 1) return;
    estimate_.components.push_back({name, static_cast<int64_t>(std::ceil(bytes))});
  }

  bool embed_side() const { return stage_ == 0; }
  bool head_side() const { return stage_ == layout_.pp - 1; }
  bool OnStage(int64_t layer) const {
    if (layer == -1) return embed_side() || (head_side() && spec_.tied_embeddings);
    if (layer == spec_.num_layers()) return head_side();
    return layer >= first_ && layer < last_;
  }

  double Share(Division division) const {
    switch (division) {
      case Division::kNone:
        return 1;
      case Division::kTensor:
        return 1 / tp_;
      case Division::kKvHeads:  // replicated where tp exceeds them
        return 1 / std::min(tp_, static_cast<double>(spec_.attention.kv_heads));
      case Division::kExperts:
        return 1 / (tp_ * static_cast<double>(layout_.ep));
    }
    return 1;
  }

  void CountParameters() {
    for (const Group& group : cost_.groups_) {
      if (!OnStage(group.layer)) continue;
      const double share = Share(group.division);
      (group.vectors ? vectors_ : matrices_) += group.numbers * share;
      if (group.layer == -1 || group.layer == spec_.num_layers()) ends_ += group.numbers * share;
      // A looked-up embedding is not widened; a tied one is, as the head.
      const bool looked_up = group.layer == -1 && !(head_side() && spec_.tied_embeddings);
      if (!group.vectors && !looked_up) {
        largest_matrix_ = std::max(largest_matrix_, group.largest * share);
      }
    }
  }

  // Of a column-parallel linear A is replicated and B divided; of a row-parallel one the other way.
  void CountAdapters() {
    const double rank = static_cast<double>(plan_.lora_rank);
    for (const Linear& linear : cost_.linears_) {
      if (linear.layer < first_ || linear.layer >= last_ || !Adapted(plan_, linear)) continue;
      const double in = linear.in / (linear.divided_by_rows ? tp_ : 1);
      const double out = linear.out / (linear.divided_by_rows ? 1 : tp_);
      adapters_ += rank * (in + out);
      inner_rows_ += rank;
    }
  }

  double ZeroShare(int from_stage) const {
    return plan_.zero >= from_stage ? static_cast<double>(layout_.dp * layout_.cp) : 1;
  }

  void Weights() {
    const bool all = plan_.tuning == Tuning::kAllWeights;
    const double kept = all ? bytes_ : BytesPerNumber(plan_.weights);
    const double total = matrices_ * kept + vectors_ * (all ? bytes_ : kFp32);
    Add("weights", total / ZeroShare(3));
    if (ZeroShare(3) > 1) {
      // These stay, with their gradients; of a layer there are its weights and gradients, and its
      // neighbours' that come and that are summed.
      Add("embedding and head", ends_ * (kept + kFp32));
      const double layers = static_cast<double>(std::max<int64_t>(1, last_ - first_));
      Add("gathered layers", 4 * (total - ends_ * kept) / layers);
    }
    if (!all && plan_.weights != plan_.compute) Add("widened weights", largest_matrix_ * bytes_);
    Add("other models", static_cast<double>(plan_.frozen_extra_bytes));
  }

  void Trained() {
    const bool all = plan_.tuning == Tuning::kAllWeights;
    const double trained = all ? matrices_ + vectors_ : adapters_;
    if (!all) Add("adapters", trained * kFp32);
    Add("gradients", trained * kFp32 / ZeroShare(3));
    if (layout_.dp * layout_.cp > 1) {
      // On CPUs once more in the memory that the ranks share.
      Add("sums under way",
          std::min<double>(trained * kFp32, kSumsUnderWayBytes) * (plan_.gpu ? 1 : 2));
    }
    // The optimizer works on copies of a rank's share.
    const bool copies = plan_.zero > 0 && plan_.zero < 3 && ZeroShare(1) > 1;
    if (copies) Add("shares of trained numbers", 2 * trained * kFp32 / ZeroShare(1));
    const double masters = all && bytes_ < kFp32 ? kFp32 : 0;
    Add("optimizer states", trained * (StateBytes(plan_) + masters) / ZeroShare(1));
  }

  // --- What the forward keeps, in numbers of each token; log-sums are fp32 ---

  double AttentionPerToken() const {
    const AttentionSpec& a = spec_.attention;
    const double heads = static_cast<double>(a.heads);
    const double q = heads * static_cast<double>(a.head_dim);
    const double out = heads * static_cast<double>(a.value_dim);
    const double log_sums = heads * kFp32 / bytes_;
    if (!a.mla) return q + 2 * static_cast<double>(spec_.kv_width()) + out + log_sums;
    const double latents = 2 * static_cast<double>(a.q_lora_rank + a.kv_lora_rank);
    return 2 * q + 2 * out + latents + log_sums;
  }

  double MlpPerToken(const LayerSpec& layer) const {
    if (!layer.moe) return static_cast<double>(layer.ffn) * (spec_.mlp.gated ? 2 : 1);
    const MoeSpec& m = spec_.moe;
    const double sides = m.expert.gated ? 2 : 1;
    const double routed =
        static_cast<double>(m.experts_per_token) *
        (sides * static_cast<double>(m.expert_ffn) + 2 * static_cast<double>(spec_.hidden));
    return routed + sides * static_cast<double>(m.shared_ffn) + static_cast<double>(m.experts);
  }

  double KeptPerToken(const LayerSpec& layer) const {
    // The residual stream between blocks is cut by tokens over the tensor-parallel ranks.
    return (2 * static_cast<double>(spec_.hidden) + AttentionPerToken() + MlpPerToken(layer)) / tp_;
  }

  // The gradients and remade values that live together in the backward of a layer.
  double BackwardPerToken(const LayerSpec& layer) const {
    const double h = static_cast<double>(spec_.hidden);
    const double mlp = MlpPerToken(layer) / tp_ * (spec_.mlp.gated ? 1.5 : 2) + 2 * h;
    return std::max(mlp, AttentionPerToken() / tp_ + 3 * h);
  }

  void Activations() {
    const double layers = static_cast<double>(last_ - first_);
    double all_layers = inner_rows_, one_layer = 0, backward = 0;
    for (int64_t i = first_; i < last_; ++i) {
      const LayerSpec& layer = spec_.layers[static_cast<size_t>(i)];
      all_layers += KeptPerToken(layer);
      one_layer = std::max(one_layer, KeptPerToken(layer) + inner_rows_ / layers);
      backward = std::max(backward, BackwardPerToken(layer));
    }
    const double h = static_cast<double>(spec_.hidden);
    const bool again = plan_.recompute == Recompute::kLayers;
    // And the stream behind the last.
    const double kept = (again ? h / tp_ * layers : all_layers) + h / tp_;
    // 1F1B: a stage holds as many micro-batches as there are stages from it on.
    const double in_flight = static_cast<double>(std::min(MicroBatches(), layout_.pp - stage_));
    Add("activations", kept * tokens_ * bytes_ * in_flight);
    if (again) Add("layer made again", one_layer * tokens_ * bytes_);
    // The loss is done before the backward of a layer begins.
    const double loss = head_side() ? LossBytes() : 0;
    const double of_layer = backward * tokens_ * bytes_;
    Add(loss > of_layer ? "loss" : "backward of a layer", std::max(loss, of_layer));
    if (layout_.cp > 1) {
      const double kv = 2 * static_cast<double>(spec_.kv_width()) / tp_;
      Add("received keys and values", 2 * kv * tokens_ * bytes_);
    }
  }

  int64_t MicroBatches() const {
    return std::max<int64_t>(1, plan_.global_batch / (plan_.micro_batch * layout_.dp));
  }

  // The supervised rows picked, normalised, and their gradient twice; and a chunk of logits, on a
  // GPU with its fp32 log-probabilities and gradient.
  double LossBytes() const {
    const double rows = tokens_ * plan_.supervised_share;
    const double vocab = static_cast<double>(spec_.vocab) / tp_;
    const double fit = std::floor(static_cast<double>(kLogitsChunkBytes) / (vocab * bytes_));
    const double chunk_rows = std::min(rows, std::max(static_cast<double>(kMinLogitsRows), fit));
    const double chunk = chunk_rows * vocab * (plan_.gpu ? bytes_ + 2 * kFp32 : bytes_);
    return 4 * rows * static_cast<double>(spec_.hidden) * bytes_ + chunk;
  }

  void Runtime(double moving) {
    int64_t groups = 0;
    for (int64_t size : {layout_.tp, layout_.pp, layout_.cp, layout_.dp, layout_.ep}) {
      groups += size > 1 ? 1 : 0;
    }
    Add("runtime",
        static_cast<double>(kRuntimeBytes + kWorkspaceBytes + groups * kCommunicatorBytes));
    Add("fragmentation", kFragmentation * moving);
  }

  const CostModel& cost_;
  const DecoderSpec& spec_;
  const TrainingPlan& plan_;
  const Layout& layout_;
  const int64_t stage_;
  const int64_t first_, last_;  // its layers
  double tp_ = 1;
  double tokens_ = 0;  // of a micro-batch on one rank
  double bytes_ = 2;   // of a number in the computation
  // Numbers that one rank holds.
  double matrices_ = 0, vectors_ = 0, largest_matrix_ = 0, adapters_ = 0;
  double ends_ = 0;        // of the embedding, the final norm and the head
  double inner_rows_ = 0;  // ranks of all adapters
  MemoryEstimate estimate_;
};

MemoryEstimate CostModel::Memory(const TrainingPlan& plan) const {
  MemoryEstimate fullest;
  // A pipeline of more stages than layers is CheckLayout's to refuse.
  const auto stages = CutLayers(spec_, plan.sequence, plan.supervised_share,
                                std::min(plan.layout.pp, spec_.num_layers()));
  for (int64_t stage = 0; stage < static_cast<int64_t>(stages.size()); ++stage) {
    MemoryEstimate estimate =
        StageMemory(*this, plan, stage, stages[static_cast<size_t>(stage)]).Estimate();
    if (stage == 0 || estimate.total() > fullest.total()) fullest = std::move(estimate);
  }
  return fullest;
}

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

std::string MemoryText(const MemoryEstimate& estimate) {
  std::vector<MemoryComponent> sorted = estimate.components;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return absl::StrCat(Gib(estimate.total()), " GiB: ",
                      absl::StrJoin(sorted, ", ", [](std::string* out, const MemoryComponent& c) {
                        absl::StrAppend(out, c.name, " ", Gib(c.bytes));
                      }));
}

std::string CostModel::MisfitText(const TrainingPlan& plan, const MemoryEstimate& estimate,
                                  int64_t card_bytes) const {
  const auto largest =
      std::max_element(estimate.components.begin(), estimate.components.end(),
                       [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  std::vector<std::string> fixes;
  const auto offer = [&](const TrainingPlan& other, absl::string_view what) {
    const int64_t saved = estimate.total() - Memory(other).total();
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
  if (other.layout.pp <= spec_.num_layers()) {
    offer(other, absl::StrCat("pipeline_parallel_size ", other.layout.pp));
  }
  if (plan.tuning == Tuning::kAllWeights) {
    other = plan;
    other.tuning = Tuning::kLora;
    offer(other, "lora");
  }
  const auto usable = static_cast<int64_t>(kUsableShare * static_cast<double>(card_bytes));
  return absl::StrCat("it needs ", Gib(estimate.total()), " GiB of each card's ", Gib(usable),
                      " usable; most of it is ", largest->name, " (", Gib(largest->bytes), ")",
                      fixes.empty() ? "" : "; what helps: ", absl::StrJoin(fixes, ", "));
}

}  // namespace graft::spec
