// bitsandbytes' AdamW8bit: the rule of AdamW over states of 8 bits in blocks (blockwise.h). A
// tensor of fewer than kLeast8bit numbers keeps states of 32 bits, as there.
//
// On a CPU a block at a time is widened, stepped and narrowed; on another device the same is done
// by lookups, kChunkBlocks blocks at a time. Paged states live in the host's pinned memory and come
// to the device by the chunk, so that they take none of its memory: 2 bytes a number each way.
#pragma once

#include <vector>

#include "worker/trainer/optimizer.h"

namespace graft::trainer {

struct AdamW8bitRule {
  float beta1, beta2;
  float step;  // the learning rate with both corrections, negative
  float epsilon;
  float keep;  // of a number, by weight decay
  float grad_scale;

  void Apply(const float* grad, int64_t count, float* value, float* m, float* v) const;
};

// One step of a tensor, [N] like its gradient. By block all is in the CPU's memory; by lookup on
// one device with the tables of the codes, where coded states may be elsewhere.
void StepByBlock(const AdamW8bitRule& rule, at::Tensor value, const at::Tensor& grad,
                 CodedNumbers& m, CodedNumbers& v);
struct AdamW8bitTables {
  BlockwiseCode::Tables m, v;
};
void StepByLookup(const AdamW8bitRule& rule, const AdamW8bitTables& tables, at::Tensor value,
                  const at::Tensor& grad, CodedNumbers& m, CodedNumbers& v);

class AdamW8bit final : public Optimizer {
 public:
  // Paged where `config.kind` says so.
  AdamW8bit(const OptimizerConfig& config, model::ParameterStore& store);
  void Step(double learning_rate, double grad_scale) override;
  std::vector<OptimizerState> states() override;

 private:
  struct State {
    CodedNumbers m, v;
  };

  const OptimizerConfig config_;
  model::ParameterStore& store_;
  const at::Device device_;
  const bool paged_;  // on a CPU there is nothing to page
  const AdamW8bitTables tables_;
  std::vector<State> states_;  // in the store's order
};

}  // namespace graft::trainer
