#include "worker/trainer/sharded_state.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "worker/trainer/tensor_files.h"

namespace graft::trainer {
namespace {

using model::Trained;

constexpr char kGathered[] = ".gathered";

// The numbers [begin, begin + count) of the tensor as it lies here; `writes` is of each piece.
std::vector<TensorPart::Run> RunsOf(const Trained& t, int64_t begin, int64_t count,
                                    const std::vector<bool>& writes) {
  std::vector<TensorPart::Run> runs;
  const auto add = [&](int64_t first, int64_t last, int64_t whole, size_t piece) {
    const int64_t from = std::max(first, begin);
    const int64_t to = std::min(last, begin + count);
    if (from < to) {
      runs.push_back({from - begin, whole + from - first, to - from, writes[piece]});
    }
  };
  const int64_t columns = t.columns();
  if (t.axis == 0) {
    for (size_t i = 0; i < t.pieces.size(); ++i) {
      const Trained::Piece& p = t.pieces[i];
      add(p.begin * columns, (p.begin + p.count) * columns, p.whole_begin * columns, i);
    }
    return runs;
  }
  const int64_t whole_columns = t.whole.back();
  for (int64_t row = begin / columns; row <= (begin + count - 1) / columns; ++row) {
    for (size_t i = 0; i < t.pieces.size(); ++i) {
      const Trained::Piece& p = t.pieces[i];
      const int64_t first = row * columns + p.begin;
      add(first, first + p.count, row * whole_columns + p.whole_begin, i);
    }
  }
  return runs;
}

// Of a piece that several ranks hold, the first of them.
std::vector<bool> Writes(const Trained& t, const RankRefs& ranks) {
  std::vector<bool> writes;
  for (const Trained::Piece& piece : t.pieces) {
    writes.push_back(ranks.world == nullptr || ranks.world->HoldersOf(t, piece).index() == 0);
  }
  return writes;
}

// The numbers of a trained tensor, or what an optimizer keeps of each of them.
TensorPart PartOf(const std::string& prefix, const Trained& t, CodedNumbers numbers,
                  const RankRefs& ranks) {
  return {prefix + t.name, t.whole, std::move(numbers),
          RunsOf(t, 0, t.elements(), Writes(t, ranks))};
}

// The same of a rank's share.
TensorPart PartOf(const std::string& prefix, const parallel::Reducer::OwnedPart& share,
                  CodedNumbers numbers) {
  const Trained& t = *share.of;
  return {prefix + t.name, t.whole, std::move(numbers),
          RunsOf(t, share.begin, share.count, std::vector<bool>(t.pieces.size(), true))};
}

// Fills the tensors of a decoder without anything trained from those that were: a name may stand
// for several linears, row after row ("layers.0.attn.q+layers.0.attn.k.weight"), those of experts
// within each expert.
absl::Status FillWhole(const std::string& path, model::Decoder& whole) {
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorIndex index, ListTensors(path));
  for (const auto& [name, info] : index) {
    at::Tensor value = at::empty(info.shape, at::kFloat);
    GRAFT_RETURN_IF_ERROR(ReadTensors(path, {{name, value}}));
    const size_t dot = name.rfind('.');
    const int64_t dim = absl::StrContains(name, ".experts.") ? 1 : 0;
    int64_t row = 0;
    for (const absl::string_view linear : absl::StrSplit(name.substr(0, dot), '+')) {
      at::Tensor into = whole.parameters.at(absl::StrCat(linear, name.substr(dot)));
      into.copy_(value.narrow(dim, row, into.size(dim)));
      row += into.size(dim);
    }
  }
  return absl::OkStatus();
}

}  // namespace

TensorParts TrainedParts(model::Decoder& decoder, const RankRefs& ranks, const at::Tensor& others) {
  const auto numbers = [&others](const Trained& t) -> CodedNumbers {
    return {others.defined() ? others.narrow(0, t.offset, t.elements()) : t.value.view({-1})};
  };
  TensorParts parts;
  if (ranks.reducer != nullptr && ranks.reducer->weights_come_and_go()) {
    for (const parallel::Reducer::OwnedPart& share : ranks.reducer->parts()) {
      parts.push_back(PartOf("", share, numbers(*share.own)));
    }
    return parts;
  }
  for (const Trained& t : decoder.store().trained()) {
    parts.push_back(PartOf("", t, numbers(t), ranks));
  }
  return parts;
}

TensorParts OptimizerParts(Optimizer& optimizer, model::Decoder& decoder, const RankRefs& ranks) {
  TensorParts parts;
  const bool sharded = ranks.reducer != nullptr && !ranks.reducer->parts().empty();
  model::ParameterStore& store = sharded ? ranks.reducer->owned() : decoder.store();
  std::map<const Trained*, const parallel::Reducer::OwnedPart*> shares;
  if (sharded) {
    for (const auto& share : ranks.reducer->parts()) shares[share.own] = &share;
  }
  const auto add = [&](const std::string& name, const Trained& t, CodedNumbers numbers) {
    const std::string prefix = name + ".";
    parts.push_back(sharded ? PartOf(prefix, *shares.at(&t), std::move(numbers))
                            : PartOf(prefix, t, std::move(numbers), ranks));
  };
  for (const OptimizerState& state : optimizer.states()) {
    const at::Tensor& numbers = state.numbers.codes;
    if (state.own_shape) {
      parts.push_back(WholePart(state.name, numbers, Writes(*state.of, ranks).front()));
    } else if (state.of != nullptr) {
      add(state.name, *state.of, state.numbers);
    } else {
      for (const Trained& t : store.trained()) {
        add(state.name, t, {numbers.narrow(0, t.offset, t.elements())});
      }
    }
  }
  return parts;
}

absl::StatusOr<std::unique_ptr<model::Decoder>> GatherDecoder(
    const ModelSource& model, model::BuildOptions options, model::Decoder& decoder,
    const RankRefs& ranks, const FileGang& gang, const std::string& folder, bool with_frozen) {
  const bool first = gang.rank == 0;
  if (first) GRAFT_RETURN_IF_ERROR(MakeDirectories(folder));
  GRAFT_RETURN_IF_ERROR(
      WriteTogether(gang, "output", folder, kGathered, TrainedParts(decoder, ranks)));
  if (!first) return std::unique_ptr<model::Decoder>();
  const std::string path = TensorFile(folder, kGathered);
  options.division = {};
  options.without_frozen = !with_frozen;
  const bool all_weights = options.train == model::Train::kAllWeights;
  if (all_weights) options.train = model::Train::kNothing;
  GRAFT_ASSIGN_OR_RETURN(auto whole,
                         model::BuildDecoder(model.description, *model.reader, options));
  if (all_weights) {
    GRAFT_RETURN_IF_ERROR(FillWhole(path, *whole));
  } else {
    NamedTensors tensors;
    for (const Trained& t : whole->store().trained()) tensors.emplace_back(t.name, t.value);
    GRAFT_RETURN_IF_ERROR(ReadTensors(path, tensors));
  }
  GRAFT_RETURN_IF_ERROR(RemoveTree(path));
  return whole;
}

}  // namespace graft::trainer
