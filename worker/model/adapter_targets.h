// What a run of LoRA trains: which linears get adapters, whether embedding, head and experts do,
// which modules are trained whole beside them, and which biases. Decided once, from names alone,
// before anything is declared.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/build_options.h"
#include "worker/spec/load.h"
#include "worker/spec/tensor_names.h"

namespace graft::model {

// What the Hub layout calls a head that is tied to its embedding and so has no tensor.
inline constexpr char kTiedHead[] = "lm_head";

// The module of the Hub layout that a parameter belongs to.
std::string ModuleOf(const spec::Parameter& parameter);

// How the experts of a layer are adapted; not at all where neither projection is.
struct ExpertsTargets {
  std::string module;        // peft's name of what holds the stacked parameters
  bool interleaved = false;  // the stacked parameter's outputs are gate and up in turn
  bool gate_up = false;
  bool down = false;
};

class AdapterTargets {
 public:
  // INVALID_ARGUMENT: patterns that match nothing, with the known names. UNIMPLEMENTED: targets
  // that do not go with each other. Both arguments must outlive the result.
  static absl::StatusOr<AdapterTargets> Choose(const spec::ModelDescription& description,
                                               const BuildOptions& options);

  // The linears with an adapter each, in the order of computation. The rest of the questions are
  // answered by names: a canonical one of a linear's part, or a module's of the Hub layout.
  const std::vector<spec::HubLinear>& linears() const { return linears_; }
  bool AdaptsPart(const std::string& part) const { return adapted_.count(part) > 0; }
  bool AdaptsEmbedding() const;
  bool AdaptsHead() const;
  ExpertsTargets Experts(int64_t layer) const;
  std::string HeadModule() const;

  // Whether a module is trained whole. Its name ends so, as peft matches: "norm" means every norm.
  bool Saves(const std::string& module) const;
  // Whether an embedding and a head that are one tensor in the Hub layout become two, because one
  // is trained without the other: whole (each then has a table of its own), or by an adapter as
  // well.
  bool SavesTiedEnd() const;
  bool PartsTiedEnds() const;
  bool TrainsAllBiases() const;
  // Of the linear with that part.
  bool TrainsBias(const std::string& part) const;

 private:
  AdapterTargets(const spec::ModelDescription& description, const BuildOptions& options)
      : description_(&description), options_(&options) {}
  absl::Status ChooseLinears();
  absl::Status CheckSpecialTargets() const;
  absl::Status CheckSaved() const;
  bool Names(const std::string& module) const;
  // By exclude_modules or layers_to_transform.
  bool LeftOut(const std::string& module) const;
  bool AdaptsSomeExperts() const;
  bool HasSpecialTargets() const;
  bool adapts() const { return options_->train == Train::kLora; }

  const spec::ModelDescription* description_;
  const BuildOptions* options_;
  std::vector<spec::HubLinear> linears_;
  std::set<std::string> adapted_;  // canonical names of their parts
};

}  // namespace graft::model
