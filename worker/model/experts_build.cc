#include "worker/model/experts_build.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace graft::model {

Trained* ViewOfExpert(MoeBlock& moe, const Trained* stack, int64_t expert) {
  if (stack == nullptr) return nullptr;
  Trained& view = moe.views.emplace_back();
  view.name = absl::StrCat(stack->name, "[", expert, "]");
  view.shape.assign(stack->shape.begin() + 1, stack->shape.end());
  view.decay = stack->decay;
  view.offset = stack->offset + expert * view.elements();
  view.value = stack->value.select(0, expert);
  view.grad = stack->grad.select(0, expert);
  return &view;
}

// The experts of this rank.
Cut ExpertsBuilder::Own() const {
  const ExpertExchange* ranks = placer_.division().experts;
  if (ranks == nullptr) return {0, 0, placer_.spec().moe.experts, 1};
  return EvenCut(placer_.spec().moe.experts, ranks->size(), ranks->rank());
}

// The sizes of each expert's groups and what they hold.
void ExpertsBuilder::Shape(const std::string& prefix, const std::vector<std::string>& inner,
                           MoeBlock& moe) {
  const int64_t ffn = moe.spec->expert_ffn / placer_.division().tp;
  const int64_t hidden = placer_.spec().hidden;
  const uint64_t number = placer_.NumberGroups(2);
  moe.gate_up.resize(static_cast<size_t>(Own().count));
  moe.down.resize(moe.gate_up.size());
  for (size_t e = 0; e < moe.gate_up.size(); ++e) {
    LinearGroup& up = moe.gate_up[e];
    LinearGroup& down = moe.down[e];
    for (size_t i = 0; i < inner.size(); ++i) {
      up.parts.push_back({inner[i], static_cast<int64_t>(i) * ffn, ffn});
    }
    down.parts.push_back({prefix + "down", 0, hidden});
    up.in = up.whole_in = down.out = hidden;
    up.out = ffn * static_cast<int64_t>(inner.size());
    down.in = ffn;
    down.whole_in = moe.spec->expert_ffn;
    down.in_begin = placer_.division().tp_rank * ffn;
    up.layer = number + ((e + static_cast<uint64_t>(Own().begin) + 1) << 32);
    down.layer = up.layer + 1;
  }
}

void ExpertsBuilder::Describe(const std::string& prefix, const std::vector<std::string>& inner,
                              MoeBlock& moe) {
  Shape(prefix, inner, moe);
  const auto experts = static_cast<int64_t>(moe.gate_up.size());
  const int64_t hidden = placer_.spec().hidden;
  const int64_t ffn = moe.spec->expert_ffn / placer_.division().tp;
  const int64_t inside = ffn * static_cast<int64_t>(inner.size());
  Trained* w1 =
      Place(inner, ".weight", {experts, inside, hidden}, Divided::kRows, moe.gate_up_weight);
  Trained* b1 = Place(inner, ".bias", {experts, inside}, Divided::kRows, moe.gate_up_bias);
  Trained* w2 = Place({prefix + "down"}, ".weight", {experts, hidden, ffn}, Divided::kColumns,
                      moe.down_weight);
  moe.down_bias_grad =
      Place({prefix + "down"}, ".bias", {experts, hidden}, Divided::kWhole, moe.down_bias);
  if (placer_.division().tp_rank > 0) {
    // What is summed over the tensor-parallel ranks gets its bias once.
    placer_.Later([&moe] {
      moe.down_bias.reset();
      return absl::OkStatus();
    });
  }
  placer_.Later([&moe, w1, b1, w2] {
    for (size_t e = 0; e < moe.gate_up.size(); ++e) {
      const auto at = static_cast<int64_t>(e);
      LinearGroup& up = moe.gate_up[e];
      LinearGroup& down = moe.down[e];
      up.weight = moe.gate_up_weight.select(0, at);
      down.weight = moe.down_weight.select(0, at);
      if (moe.gate_up_bias.defined()) up.bias = moe.gate_up_bias.select(0, at);
      up.weight_grad = ViewOfExpert(moe, w1, at);
      up.bias_grad = ViewOfExpert(moe, b1, at);
      down.weight_grad = ViewOfExpert(moe, w2, at);
    }
    return absl::OkStatus();
  });
}

Trained* ExpertsBuilder::Declare(const std::string& name, const std::vector<int64_t>& shape,
                                 int64_t parts, Divided divided, int64_t layer) const {
  const bool decay = shape.size() > 2;  // no biases
  Trained* trained = placer_.store().Declare(name, shape, decay, layer);
  const int64_t tp = placer_.division().tp, tp_rank = placer_.division().tp_rank;
  const Cut experts = Own();
  const bool over_ranks = placer_.division().experts != nullptr;
  std::vector<int64_t> whole = shape;
  whole[0] = placer_.spec().moe.experts;
  if (divided == Divided::kRows) whole[1] *= tp;
  if (divided == Divided::kColumns) whole[2] *= tp;
  std::vector<Trained::Piece> pieces;
  const int64_t rows = shape[1] / parts;  // of a part
  if (divided == Divided::kColumns && tp > 1) {
    SetPieces(trained, whole, 1, {{0, tp_rank * shape[2], shape[2], 1, over_ranks}});
    return trained;
  }
  if (divided == Divided::kRows && tp > 1) {
    const bool vectors = shape.size() == 2;  // the parts stand in the columns of a row
    for (int64_t e = 0; e < (vectors ? 1 : shape[0]); ++e) {
      for (int64_t i = 0; i < parts; ++i) {
        pieces.push_back({e * shape[1] + i * rows, e * whole[1] + (i * tp + tp_rank) * rows, rows,
                          1, over_ranks});
      }
    }
    SetPieces(trained, whole, vectors ? 1 : 0, pieces);
    return trained;
  }
  const int64_t each = trained->rows() / shape[0];  // rows of an expert
  SetPieces(trained, whole, 0,
            {{0, experts.begin * each, experts.count * each, over_ranks ? 1 : tp, over_ranks}});
  return trained;
}

// The parameters `names`, each [experts, rows...], one behind the other within each expert's part
// of a tensor of `shape`. nullptr where nothing of it is trained; `into` stays undefined where
// the model has none of them.
Trained* ExpertsBuilder::Place(const std::vector<std::string>& names, const std::string& suffix,
                               std::vector<int64_t> shape, Divided divided, at::Tensor& into) {
  if (placer_.Find(names.front() + suffix) == nullptr) return nullptr;
  Trained* trained = nullptr;
  if (placer_.trains_all()) {
    trained = Declare(absl::StrJoin(names, "+") + suffix, shape, static_cast<int64_t>(names.size()),
                      divided, placer_.layer());
  }
  placer_.Later([this, names, suffix, shape, divided, trained, &into]() -> absl::Status {
    // Biases are added in the computation's type.
    const at::ScalarType kept = suffix == ".bias" ? at::kFloat : placer_.options().frozen_type;
    into = trained != nullptr ? trained->value : placer_.Empty(shape, kept);
    const int64_t rows = shape[1] / static_cast<int64_t>(names.size());
    const int64_t first = Own().begin;
    for (size_t i = 0; i < names.size(); ++i) {
      const spec::Parameter* p = placer_.Find(names[i] + suffix);
      at::Tensor part = into.narrow(1, static_cast<int64_t>(i) * rows, rows);
      for (int64_t e = 0; e < shape[0]; ++e) {
        if (trained == nullptr && placer_.options().without_frozen) break;
        GRAFT_RETURN_IF_ERROR(Read(*p, first + e, divided, part.select(0, e)));
      }
      placer_.decoder().parameters[p->name] = part;
    }
    return absl::OkStatus();
  });
  return trained;
}

absl::Status ExpertsBuilder::Read(const spec::Parameter& parameter, int64_t expert, Divided divided,
                                  at::Tensor into) const {
  spec::ParameterBlock block{.expert = expert};
  const int64_t tp_rank = placer_.division().tp_rank;
  const bool vectors = parameter.shape.size() == 2;  // a matrix with a row for each expert
  if (vectors) block = {.row_begin = expert, .row_end = expert + 1};
  if (divided == Divided::kColumns || (vectors && divided == Divided::kRows)) {
    block.column_begin = tp_rank * into.size(-1);
    block.column_end = block.column_begin + into.size(-1);
  } else if (divided == Divided::kRows) {
    block.row_begin = tp_rank * into.size(0);
    block.row_end = block.row_begin + into.size(0);
  }
  return placer_.ReadBlock(parameter, block, std::move(into));
}

}  // namespace graft::model
