// Makes the experts of a layer: one stacked tensor of all of them for [gate, up] and one for down,
// of which each expert's groups are views. Expert parallelism divides the experts, tensor
// parallelism the inside of each.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/moe.h"
#include "worker/model/parameter_placer.h"

namespace graft::model {

// One expert's part of a trained stack, kept in `moe.views`; nullptr of nullptr.
Trained* ViewOfExpert(MoeBlock& moe, const Trained* stack, int64_t expert);

class ExpertsBuilder {
 public:
  explicit ExpertsBuilder(ParameterPlacer& placer) : placer_(placer) {}

  // The experts whose parameters are called `prefix` + one of `inner`, and `prefix` + "down".
  // Filled by the placer's Fill.
  void Describe(const std::string& prefix, const std::vector<std::string>& inner, MoeBlock& moe);

  // What tensor parallelism divides of each expert's matrix (or vector, whose numbers are rows).
  enum class Divided { kWhole, kRows, kColumns };
  // A trained stack of this rank's experts, of `shape`. The rows of `parts` linears stand one
  // behind the other in each expert.
  Trained* Declare(const std::string& name, const std::vector<int64_t>& shape, int64_t parts,
                   Divided divided, int64_t layer) const;

 private:
  Cut Own() const;
  void Shape(const std::string& prefix, const std::vector<std::string>& inner, MoeBlock& moe);
  Trained* Place(const std::vector<std::string>& names, const std::string& suffix,
                 std::vector<int64_t> shape, Divided divided, at::Tensor& into);
  absl::Status Read(const spec::Parameter& parameter, int64_t expert, Divided divided,
                    at::Tensor into) const;

  ParameterPlacer& placer_;
};

}  // namespace graft::model
