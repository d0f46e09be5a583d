// Makes the linear groups of a decoder from the model's parameters: several linears over one input,
// their weights one behind the other, in the frozen type, in the store or in the file's blocks.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/linear.h"
#include "worker/model/parameter_placer.h"

namespace graft::model {

class GroupBuilder {
 public:
  explicit GroupBuilder(ParameterPlacer& placer) : placer_(placer) {}

  // With tensor parallelism either the outputs are cut (and the input is gathered) or the input is
  // (and the sum scattered). Not so with `inside`: between such linears, where tokens are all there
  // and sums still partial. Filled by the placer's Fill.
  void Describe(const std::vector<std::string>& names, LinearGroup& group, bool inside = false);

  // Of what was described, by the canonical name of a part: its group (nullptr: another rank's),
  // and this rank's cut of the weight.
  LinearGroup* GroupOf(const std::string& part) const;
  const Cut& CutOfPart(const std::string& part) const { return cuts_.at(part); }

 private:
  bool TrainsBias(LinearGroup& group);
  bool CanKeepBlocks(const LinearGroup& group) const;
  absl::Status KeepBlocks(LinearGroup& group);
  absl::Status Fill(LinearGroup& group, bool bias);

  ParameterPlacer& placer_;
  std::map<std::string, LinearGroup*> group_of_;
  std::map<std::string, Cut> cuts_;
};

}  // namespace graft::model
