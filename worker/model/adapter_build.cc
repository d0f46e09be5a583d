#include "worker/model/adapter_build.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/random.h"
#include "worker/model/experts_build.h"

namespace graft::model {
namespace {

uint64_t HashName(absl::string_view name) {  // FNV-1a: adapters start alike whatever their order
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  return hash;
}

}  // namespace

void AdapterBuilder::Attach() {
  std::vector<std::pair<LinearGroup*, std::vector<const spec::HubLinear*>>> by_group;
  for (const spec::HubLinear& linear : placer_.targets().linears()) {
    LinearGroup* group = groups_.GroupOf(linear.parts.front().name);
    if (group == nullptr) continue;  // another rank's layer
    const auto found = std::find_if(by_group.begin(), by_group.end(),
                                    [&](const auto& entry) { return entry.first == group; });
    if (found == by_group.end()) {
      by_group.push_back({group, {&linear}});
    } else {
      found->second.push_back(&linear);
    }
  }
  for (auto& [group, linears] : by_group) AttachTo(*group, linears);
  for (const auto& layer : placer_.decoder().layers()) {
    if (layer->moe != nullptr) AttachToExperts(layer->index, *layer->moe);
  }
  if (placer_.targets().AdaptsEmbedding()) AttachToEmbedding();
  if (placer_.targets().AdaptsHead()) AttachToHead();
}

double AdapterBuilder::Scale() const {
  const double rank = static_cast<double>(lora_.rank);
  return lora_.alpha / (lora_.rslora ? std::sqrt(rank) : rank);
}

// As peft starts them: an embedding's A is 0 and its B normal.
void AdapterBuilder::AttachToEmbedding() {
  Adapter& adapter = placer_.decoder().embed_adapter;
  const int64_t rank = lora_.rank;
  adapter.module = ModuleOf(*placer_.Find("embed.weight"));
  adapter.rank = rank;
  adapter.scale = Scale();
  ParameterStore& store = placer_.store();
  adapter.a =
      store.Declare(adapter.module + ".lora_embedding_A", {rank, placer_.spec().vocab}, true, -1);
  adapter.b =
      store.Declare(adapter.module + ".lora_embedding_B", {placer_.spec().hidden, rank}, true, -1);
  placer_.Later([this, &adapter] {
    SeededRandom random(lora_.seed ^ HashName(adapter.module));
    FillOnHost(adapter.b->value, [&](at::Tensor& into) {
      float* b = into.mutable_data_ptr<float>();
      for (int64_t i = 0; i < into.numel(); ++i) {
        const double radius = std::sqrt(-2 * std::log(1 - random.UniformDouble()));
        b[i] = static_cast<float>(radius * std::cos(2 * M_PI * random.UniformDouble()));
      }
    });
    return absl::OkStatus();
  });
}

void AdapterBuilder::AttachToHead() {
  Adapter& adapter = placer_.decoder().head().adapter;
  const int64_t rank = lora_.rank, layer = placer_.spec().num_layers();
  adapter.module = placer_.targets().HeadModule();
  adapter.rank = rank;
  adapter.scale = Scale();
  adapter.rows = {{0, 0, placer_.spec().vocab}};
  ParameterStore& store = placer_.store();
  adapter.a =
      store.Declare(adapter.module + ".lora_A.weight", {rank, placer_.spec().hidden}, true, layer);
  adapter.b =
      store.Declare(adapter.module + ".lora_B.weight", {placer_.spec().vocab, rank}, true, layer);
  placer_.Later([this, &adapter] {
    DrawUniform(adapter.module, placer_.spec().hidden, adapter.a->value);
    return absl::OkStatus();
  });
}

void AdapterBuilder::AttachToExperts(int64_t layer, MoeBlock& moe) {
  const ExpertsTargets to = placer_.targets().Experts(layer);
  // peft wraps the module once for each parameter; the first one is the innermost.
  if (to.gate_up) {
    AttachStack({to.down ? to.module + ".base_layer" : to.module, true, to.interleaved}, layer,
                moe);
  }
  if (to.down) AttachStack({to.module, false, false}, layer, moe);
}

void AdapterBuilder::AttachStack(ExpertsAdapter adapter, int64_t layer, MoeBlock& moe) {
  std::deque<LinearGroup>& groups = adapter.gate_up ? moe.gate_up : moe.down;
  const int64_t experts = static_cast<int64_t>(groups.size()), rank = lora_.rank;
  const int64_t in = groups.front().in, out = groups.front().out;
  ParameterStore& store = placer_.store();
  adapter.scale = Scale();
  adapter.a = store.Declare(adapter.module + ".lora_A.weight", {experts, rank, in}, true, layer);
  adapter.b = store.Declare(adapter.module + ".lora_B.weight", {experts, out, rank}, true, layer);
  placer_.decoder().experts_adapters.push_back(adapter);
  placer_.Later([this, adapter, &moe, &groups, rank] {
    DrawUniform(adapter.module, groups.front().in, adapter.a->value);
    for (size_t e = 0; e < groups.size(); ++e) {
      Adapter& own = groups[e].adapters.emplace_back();
      own.rank = rank;
      own.scale = adapter.scale;
      own.a = ViewOfExpert(moe, adapter.a, static_cast<int64_t>(e));
      own.b = ViewOfExpert(moe, adapter.b, static_cast<int64_t>(e));
      own.rows = {{0, 0, groups[e].out}};
      groups[e].joined_a = own.a->value;
      groups[e].joined_a_grad = own.a->grad;
    }
    return absl::OkStatus();
  });
}

// Kaiming uniform with a = sqrt(5), as a linear of `in` inputs is started.
void AdapterBuilder::DrawUniform(const std::string& module, int64_t in, at::Tensor into) const {
  SeededRandom random(lora_.seed ^ HashName(module));
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  FillOnHost(std::move(into), [&](at::Tensor& host) {
    float* numbers = host.mutable_data_ptr<float>();
    for (int64_t i = 0; i < host.numel(); ++i) {
      numbers[i] = static_cast<float>((2 * random.UniformDouble() - 1) * bound);
    }
  });
}

void AdapterBuilder::AttachTo(LinearGroup& group,
                              const std::vector<const spec::HubLinear*>& linears) {
  ParameterStore& store = placer_.store();
  group.dropout = lora_.dropout;
  const int64_t layer = static_cast<int64_t>(group.layer) / kGroupsOfLayer;
  const Cut& input = groups_.CutOfPart(group.parts.front().name);
  for (const spec::HubLinear* linear : linears) {
    Adapter& adapter = group.adapters.emplace_back();
    adapter.module = linear->module;
    adapter.rank = lora_.rank;
    adapter.scale = Scale();
    adapter.a = store.Declare(linear->module + ".lora_A.weight", {lora_.rank, group.in}, true,
                              layer, placer_.division().tp);
    if (input.axis == 1) {
      SetPieces(adapter.a, {lora_.rank, group.whole_in}, 1, {{0, input.begin, input.count, 1}});
    }
  }
  for (size_t i = 0; i < linears.size(); ++i) DeclareOutputs(group, *linears[i], group.adapters[i]);
  placer_.Later([this, &group] {
    Start(group);
    return absl::OkStatus();
  });
}

// B and the magnitude: the rows of the linear's parts that this rank computes.
void AdapterBuilder::DeclareOutputs(const LinearGroup& group, const spec::HubLinear& linear,
                                    Adapter& adapter) {
  const int64_t layer = adapter.a->layer;
  std::vector<Trained::Piece> pieces;
  int64_t out = 0;
  for (const spec::HubLinear::Part& part : linear.parts) {
    const Cut& cut = groups_.CutOfPart(part.name);
    for (const LinearGroup::Part& rows : group.parts) {
      if (rows.name != part.name) continue;
      adapter.rows.push_back({rows.begin, out, rows.rows});
      if (cut.axis == 0) {
        pieces.push_back({out, part.rows.begin + cut.begin, rows.rows, cut.copies});
      } else {
        pieces.push_back({out, part.rows.begin, rows.rows, placer_.division().tp});
      }
      out += rows.rows;
    }
  }
  ParameterStore& store = placer_.store();
  adapter.b = store.Declare(linear.module + ".lora_B.weight", {out, adapter.rank}, true, layer);
  SetPieces(adapter.b, {linear.out, adapter.rank}, 0, pieces);
  if (!lora_.dora) return;
  adapter.magnitude = store.Declare(linear.module + ".lora_magnitude_vector", {out}, true, layer);
  SetPieces(adapter.magnitude, {linear.out}, 0, pieces);
}

// Every rank draws the whole of A and keeps its columns.
void AdapterBuilder::DrawA(const LinearGroup& group, const Adapter& adapter) const {
  SeededRandom random(lora_.seed ^ HashName(adapter.module));
  const double bound = 1.0 / std::sqrt(static_cast<double>(group.whole_in));
  const int64_t first = adapter.a->axis == 1 ? adapter.a->pieces.front().whole_begin : 0;
  FillOnHost(adapter.a->value, [&](at::Tensor& into) {
    float* a = into.mutable_data_ptr<float>();
    for (int64_t row = 0; row < adapter.rank; ++row) {
      for (int64_t column = 0; column < group.whole_in; ++column) {
        const float drawn = static_cast<float>((2 * random.UniformDouble() - 1) * bound);
        if (column >= first && column < first + group.in) *a++ = drawn;
      }
    }
  });
}

void AdapterBuilder::Start(LinearGroup& group) {
  int64_t rank = 0;
  bool joined = true;
  const int64_t first = group.adapters.front().a->offset;
  for (Adapter& adapter : group.adapters) {
    joined = joined && adapter.a->offset == first + rank * group.in;
    rank += adapter.rank;
    DrawA(group, adapter);
    if (adapter.magnitude != nullptr && !placer_.options().without_frozen) {
      StartMagnitude(group, adapter);
    }
  }
  if (!joined) return;
  ParameterStore& store = placer_.store();
  const auto all = [&](const at::Tensor& flat) {
    return flat.narrow(0, first, rank * group.in).view({rank, group.in});
  };
  group.joined_a = all(store.values());
  group.joined_a_grad = all(store.grads());
}

// The norms of the frozen weight's rows.
void AdapterBuilder::StartMagnitude(const LinearGroup& group, Adapter& adapter) {
  at::Tensor& magnitude = adapter.magnitude->value;
  const at::Tensor weight = WideWeight(group, at::kFloat);
  for (const Adapter::Rows& r : adapter.rows) {
    const at::Tensor rows = weight.narrow(0, r.group_begin, r.count);
    magnitude.narrow(0, r.b_begin, r.count).copy_(rows.square().sum(1));
  }
  if (group.scatter != nullptr) group.scatter->Sum(magnitude, "DoRA's first norms");
  magnitude.sqrt_();
}

}  // namespace graft::model
