#include "worker/trainer/sharded_state.h"

#include <algorithm>
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

// The numbers [begin, begin + count) of the tensor as it lies here, which stand at `at` of a value.
std::vector<TensorPart::Run> RunsOf(const Trained& t, int64_t begin, int64_t count, int64_t at) {
  std::vector<TensorPart::Run> runs;
  const auto add = [&](int64_t first, int64_t last, int64_t whole) {
    const int64_t from = std::max(first, begin);
    const int64_t to = std::min(last, begin + count);
    if (from < to) runs.push_back({at + from - begin, whole + from - first, to - from});
  };
  const int64_t columns = t.columns();
  if (t.axis == 0) {
    for (const Trained::Piece& p : t.pieces) {
      add(p.begin * columns, (p.begin + p.count) * columns, p.whole_begin * columns);
    }
    return runs;
  }
  const int64_t whole_columns = t.whole.back();
  for (int64_t row = begin / columns; row <= (begin + count - 1) / columns; ++row) {
    for (const Trained::Piece& p : t.pieces) {
      const int64_t first = row * columns + p.begin;
      add(first, first + p.count, row * whole_columns + p.whole_begin);
    }
  }
  return runs;
}

bool Writes(const Trained& t, const Trained::Piece& piece, const model::Decoder& decoder,
            const RankRefs& ranks) {
  if (ranks.world == nullptr) return true;
  return ranks.world->HoldersOf(t, piece, decoder.spec().tied_embeddings).index() == 0;
}

// Parts of `flat`, which lies like the store's values: a part a piece, since pieces may have
// different holders.
void AddParts(const std::string& prefix, const at::Tensor& flat, model::Decoder& decoder,
              const RankRefs& ranks, TensorParts& parts) {
  for (const Trained& t : decoder.store().trained()) {
    for (size_t p = 0; p < (t.axis == 0 ? t.pieces.size() : 1); ++p) {
      const Trained::Piece& piece = t.pieces[p];
      const int64_t begin = t.axis == 0 ? piece.begin * t.columns() : 0;
      const int64_t count = t.axis == 0 ? piece.count * t.columns() : t.elements();
      TensorPart part;
      part.name = prefix + t.name;
      part.whole = t.whole;
      part.value = flat.narrow(0, t.offset + begin, count);
      part.runs = RunsOf(t, begin, count, 0);
      part.writes = Writes(t, piece, decoder, ranks);
      parts.push_back(std::move(part));
    }
  }
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

// The same of `flat`, which lies like the values of this rank's shares.
void AddShares(const std::string& prefix, const at::Tensor& flat, const RankRefs& ranks,
               TensorParts& parts) {
  for (const parallel::Reducer::OwnedPart& owned : ranks.reducer->parts()) {
    TensorPart part;
    part.name = prefix + owned.of->name;
    part.whole = owned.of->whole;
    part.value = flat.narrow(0, owned.own->offset, owned.count);
    part.runs = RunsOf(*owned.of, owned.begin, owned.count, 0);
    parts.push_back(std::move(part));
  }
}

}  // namespace

TensorParts TrainedParts(model::Decoder& decoder, const RankRefs& ranks) {
  TensorParts parts;
  if (ranks.reducer != nullptr && ranks.reducer->weights_come_and_go()) {
    AddShares("", ranks.reducer->owned().values(), ranks, parts);
    return parts;
  }
  AddParts("", decoder.store().values(), decoder, ranks, parts);
  return parts;
}

TensorParts OptimizerParts(Optimizer& optimizer, model::Decoder& decoder, const RankRefs& ranks) {
  TensorParts parts;
  const bool sharded = ranks.reducer != nullptr && !ranks.reducer->parts().empty();
  const at::Tensor& values = sharded ? ranks.reducer->owned().values() : decoder.store().values();
  for (const auto& [name, state] : optimizer.states()) {
    const std::string prefix = name + ".";
    if (state.sizes() != values.sizes()) {
      parts.push_back(WholePart(name, state));
      parts.back().writes = ranks.world == nullptr || ranks.world->rank() == 0;
    } else if (!sharded) {
      AddParts(prefix, state, decoder, ranks, parts);
    } else {
      AddShares(prefix, state, ranks, parts);
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
