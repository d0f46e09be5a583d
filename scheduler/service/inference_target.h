// What a question is put to, and how: the model or adapter that it names, their prompt defaults,
// and what the asker should know.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/random.h"
#include "graft/v1/inference.pb.h"
#include "graft/v1/model.pb.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

struct InferenceTarget {
  std::string name;  // as it was asked for
  std::string workspace;
  graft::v1::Model model;
  std::optional<graft::v1::Adapter> adapter;

  // The fileset versions that answer: the model's, then the adapter's.
  std::vector<std::string> Versions() const;
};

// `name` is a model or an adapter. NOT_FOUND; FAILED_PRECONDITION when the model is not ready or
// the adapter is disabled.
absl::StatusOr<InferenceTarget> FindTarget(const Store& store, const std::string& name);

// Every field set: by the asker, else by the adapter, the model, the contract's default; the seed
// is drawn. INVALID_ARGUMENT for values out of bounds, UNIMPLEMENTED for what this build cannot do.
absl::StatusOr<graft::v1::GenerationConfig> ResolveConfig(const graft::v1::GenerationConfig& asked,
                                                          const InferenceTarget& target,
                                                          Random& random);

// The question as the trainer gets it: the config resolved, the default system prompt put first.
// INVALID_ARGUMENT where the model has no chat template or a message no known role.
absl::StatusOr<graft::v1::ChatRequest> ResolveChat(const graft::v1::ChatRequest& asked,
                                                   const InferenceTarget& target, Random& random);
absl::StatusOr<graft::v1::CompleteRequest> ResolveComplete(const graft::v1::CompleteRequest& asked,
                                                           const InferenceTarget& target,
                                                           Random& random);

// An adapter that learnt from rows of the other kind answers, but not as it was trained to.
std::vector<graft::v1::Warning> WarningsFor(const InferenceTarget& target, bool chat);

}  // namespace graft::scheduler
