#include "worker/trainer/starting_weights.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "worker/trainer/adapter_files.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/rank_files.h"

namespace graft::trainer {
namespace {

// What scales an adapter's numbers and does not show in their shapes.
absl::Status CheckScale(const std::string& folder, const TuningConfig& tuning) {
  GRAFT_ASSIGN_OR_RETURN(const model::LoraOptions options, ReadAdapterOptions(folder));
  const auto differs = [&](const char* field, auto theirs, auto ours) {
    return absl::InvalidArgumentError(absl::StrCat(folder, " has tuning.", field, " ", theirs,
                                                   ", this run ", ours, "; they must be the same"));
  };
  if (options.rank != tuning.rank) return differs("rank", options.rank, tuning.rank);
  if (options.alpha != tuning.alpha) return differs("alpha", options.alpha, tuning.alpha);
  if (options.rslora != tuning.rslora) return differs("rslora", options.rslora, tuning.rslora);
  if (options.dora != tuning.dora) return differs("dora", options.dora, tuning.dora);
  return absl::OkStatus();
}

absl::Status ReadTrained(const std::string& path, model::Decoder& whole) {
  NamedTensors tensors;
  std::set<std::string> trained;
  for (const model::Trained& t : whole.store().trained()) {
    tensors.emplace_back(t.name, t.value);
    trained.insert(t.name);
  }
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorIndex index, ListTensors(path));
  for (const auto& [name, info] : index) {
    if (trained.count(name) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", name, " is not trained by this run"));
    }
  }
  return ReadTensors(path, tensors);
}

}  // namespace

absl::StatusOr<StartingWeights> StartingWeights::Open(const RunConfig& config,
                                                      const ModelSource& model,
                                                      model::BuildOptions options) {
  const std::string& folder = config.start_from;
  const bool adapter = FileExists(JoinPath(folder, "adapter_config.json"));
  StartingWeights start;
  if (config.tuning.kind == TuningKind::kAllWeights) {
    if (adapter) {
      return absl::InvalidArgumentError(absl::StrCat(
          folder,
          " is an adapter, which tuning.kind all_weights cannot go on from; merge it into "
          "its base first"));
    }
    GRAFT_ASSIGN_OR_RETURN(const std::string found, FindCheckpoint(folder));
    start.checkpoint_ = TensorFile(found, kTrainedStem);
    return start;
  }
  options.division = {};
  options.without_frozen = true;
  options.device = at::kCPU;
  GRAFT_ASSIGN_OR_RETURN(start.adapted_,
                         model::BuildDecoder(model.description, *model.reader, options));
  if (adapter) {
    GRAFT_RETURN_IF_ERROR(CheckScale(folder, config.tuning));
    GRAFT_RETURN_IF_ERROR(ReadAdapter(folder, model.description, *start.adapted_));
  } else {
    GRAFT_ASSIGN_OR_RETURN(const std::string found, FindCheckpoint(folder));
    GRAFT_RETURN_IF_ERROR(ReadTrained(TensorFile(found, kTrainedStem), *start.adapted_));
  }
  return start;
}

absl::Status StartingWeights::Check(const TensorParts& parts) const {
  return adapted_ == nullptr ? CheckParts(checkpoint_, parts) : absl::OkStatus();
}

absl::Status StartingWeights::Fill(const TensorParts& parts) const {
  if (adapted_ == nullptr) return ReadParts(checkpoint_, parts);
  std::map<std::string, at::Tensor> whole;
  for (const model::Trained& t : adapted_->store().trained()) whole[t.name] = t.value.view({-1});
  for (TensorPart part : parts) {
    const auto from = whole.find(part.name);
    if (from == whole.end()) {
      return absl::InternalError(absl::StrCat(part.name, " is trained here and not as a whole"));
    }
    at::Tensor value = part.numbers.Wide();
    at::Tensor flat = value.view({-1});
    for (const TensorPart::Run& run : part.runs) {
      flat.narrow(0, run.begin, run.count)
          .copy_(from->second.narrow(0, run.whole_begin, run.count));
    }
    part.numbers.Narrow(value);
  }
  return absl::OkStatus();
}

}  // namespace graft::trainer
