// Puts the adapters that AdapterTargets names onto a described decoder: declares A, B and DoRA's
// magnitudes, and starts them as peft does once the store has its memory.
#pragma once

#include <string>
#include <vector>

#include "worker/model/adapter_targets.h"
#include "worker/model/experts_build.h"
#include "worker/model/group_build.h"
#include "worker/model/parameter_placer.h"

namespace graft::model {

class AdapterBuilder {
 public:
  // All must outlive it, and it the placer's Fill.
  AdapterBuilder(ParameterPlacer& placer, const GroupBuilder& groups, const ExpertsBuilder& experts)
      : placer_(placer), groups_(groups), experts_(experts), lora_(placer.options().lora) {}

  // After everything else of the decoder was described.
  void Attach();

 private:
  void AttachToEmbedding();
  void AttachToHead();
  void AttachToExperts(int64_t layer, MoeBlock& moe);
  void AttachStack(ExpertsAdapter adapter, int64_t layer, MoeBlock& moe);
  void AttachTo(LinearGroup& group, const std::vector<const spec::HubLinear*>& linears);
  void DeclareOutputs(const LinearGroup& group, const spec::HubLinear& linear, Adapter& adapter);
  double Scale() const;
  void DrawA(const std::string& module, const Trained& a) const;
  void DrawNormal(const std::string& module, double deviation, const Trained& to) const;
  void Start(LinearGroup& group);
  void StartMagnitude(const LinearGroup& group, Adapter& adapter);

  ParameterPlacer& placer_;
  const GroupBuilder& groups_;
  const ExpertsBuilder& experts_;
  const LoraOptions& lora_;
};

}  // namespace graft::model
