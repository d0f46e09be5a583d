#include "worker/model/adapter_build.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/random.h"

namespace graft::model {
namespace {

uint64_t HashName(absl::string_view name) {  // FNV-1a: adapters start alike whatever their order
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  return hash;
}

// Every rank draws the whole tensor, number by number, and keeps its piece.
void Draw(const Trained& own, const std::function<double()>& next) {
  const Trained::Piece& piece = own.pieces.front();
  const int64_t columns = own.whole.back();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < own.whole.size(); ++i) rows *= own.whole[i];
  FillOnHost(own.value, [&](at::Tensor& into) {
    float* numbers = into.mutable_data_ptr<float>();
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        const auto drawn = static_cast<float>(next());
        const int64_t at = (own.axis == 0 ? row : column) - piece.whole_begin;
        if (at >= 0 && at < piece.count) *numbers++ = drawn;
      }
    }
  });
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
  const Division& division = placer_.division();
  if (division.embedding && placer_.targets().AdaptsEmbedding()) AttachToEmbedding();
  if (division.head && placer_.targets().AdaptsHead()) AttachToHead();
}

double AdapterBuilder::Scale() const {
  const double rank = static_cast<double>(lora_.rank);
  return lora_.alpha / (lora_.rslora ? std::sqrt(rank) : rank);
}

// As peft starts them: an embedding's A is 0 and its B normal.
void AdapterBuilder::AttachToEmbedding() {
  Adapter& adapter = placer_.decoder().embed_adapter;
  const spec::Parameter& table = *placer_.Find("embed.weight");
  const Cut vocab = placer_.Own(table);
  const int64_t rank = lora_.rank, hidden = placer_.spec().hidden;
  adapter.module = ModuleOf(table);
  adapter.rank = rank;
  adapter.scale = Scale();
  ParameterStore& store = placer_.store();
  adapter.a = store.Declare(adapter.module + ".lora_embedding_A", {rank, vocab.count}, true, -1);
  SetPieces(adapter.a, {rank, placer_.spec().vocab}, 1,
            {{0, vocab.begin, vocab.count, vocab.copies}});
  adapter.b = store.Declare(adapter.module + ".lora_embedding_B", {hidden, rank}, true, -1,
                            placer_.division().tp);
  placer_.Later([this, &adapter] {
    DrawNormal(adapter.module, 1, *adapter.b);
    return absl::OkStatus();
  });
}

void AdapterBuilder::AttachToHead() {
  Adapter& adapter = placer_.decoder().head().adapter;
  const int64_t rank = lora_.rank, layer = placer_.spec().num_layers();
  const Cut vocab =
      CutOf(placer_.spec(), placer_.division(), "head.weight", {placer_.spec().vocab});
  adapter.module = placer_.targets().HeadModule();
  adapter.rank = rank;
  adapter.scale = Scale();
  adapter.rows = {{0, 0, vocab.count}};
  ParameterStore& store = placer_.store();
  adapter.a = store.Declare(adapter.module + ".lora_A.weight", {rank, placer_.spec().hidden}, true,
                            layer, placer_.division().tp);
  adapter.b = store.Declare(adapter.module + ".lora_B.weight", {vocab.count, rank}, true, layer);
  SetPieces(adapter.b, {placer_.spec().vocab, rank}, 0,
            {{0, vocab.begin, vocab.count, vocab.copies}});
  placer_.Later([this, &adapter] {
    DrawA(adapter.module, *adapter.a);
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
  using Divided = ExpertsBuilder::Divided;
  std::deque<LinearGroup>& groups = adapter.gate_up ? moe.gate_up : moe.down;
  const int64_t experts = static_cast<int64_t>(groups.size()), rank = lora_.rank;
  const LinearGroup& first = groups.front();
  const auto parts = static_cast<int64_t>(first.parts.size());
  adapter.scale = Scale();
  adapter.a = experts_.Declare(adapter.module + ".lora_A.weight", {experts, rank, first.in}, 1,
                               adapter.gate_up ? Divided::kWhole : Divided::kColumns, layer);
  adapter.b = experts_.Declare(adapter.module + ".lora_B.weight", {experts, first.out, rank}, parts,
                               adapter.gate_up ? Divided::kRows : Divided::kWhole, layer);
  placer_.decoder().experts_adapters.push_back(adapter);
  placer_.Later([this, adapter, &moe, &groups, rank] {
    DrawA(adapter.module, *adapter.a);
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

// Kaiming uniform with a = sqrt(5), as a linear is started; or normal.
void AdapterBuilder::DrawA(const std::string& module, const Trained& a) const {
  if (lora_.init == LoraInit::kGaussian) {
    return DrawNormal(module, 1.0 / static_cast<double>(lora_.rank), a);
  }
  SeededRandom random(lora_.seed ^ HashName(module));
  const double bound = 1.0 / std::sqrt(static_cast<double>(a.whole.back()));
  Draw(a, [&] { return (2 * random.UniformDouble() - 1) * bound; });
}

void AdapterBuilder::DrawNormal(const std::string& module, double deviation,
                                const Trained& to) const {
  SeededRandom random(lora_.seed ^ HashName(module));
  Draw(to, [&] {
    const double radius = std::sqrt(-2 * std::log(1 - random.UniformDouble()));
    return deviation * radius * std::cos(2 * M_PI * random.UniformDouble());
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

void AdapterBuilder::Start(LinearGroup& group) {
  int64_t rank = 0;
  bool joined = true;
  const int64_t first = group.adapters.front().a->offset;
  for (Adapter& adapter : group.adapters) {
    joined = joined && adapter.a->offset == first + rank * group.in;
    rank += adapter.rank;
    DrawA(adapter.module, *adapter.a);
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
