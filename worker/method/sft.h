// Supervised fine-tuning: the mean cross entropy of the supervised tokens of an optimizer step. One
// call is one micro-batch; its part of the loss is divided by the tokens of the whole step, so how
// the step is cut up does not show.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/data/dataset/batches.h"
#include "worker/model/decoder.h"

namespace graft::method {

struct PassResult {
  double loss = 0;  // sum of cross entropies / denominator
  double forward_seconds = 0;
  double backward_seconds = 0;
};

// The micro-batch as the model takes it. Its tokens are filled up to a multiple of `multiple` by
// one more segment with nothing to learn.
model::Batch BatchOf(const data::MicroBatch& micro, int64_t multiple = 1,
                     at::Device device = at::kCPU);
model::LossTargets TargetsOf(const data::MicroBatch& micro, double denominator);
// NEFTune: alpha / sqrt(tokens of the segment x numbers of an embedding), for each of `rows`
// tokens; 0 for those that fill up.
std::vector<float> NoiseOf(const data::MicroBatch& micro, double alpha, int64_t hidden,
                           int64_t rows);

struct PassOptions {
  double denominator = 1;  // of the loss and the gradients: the step's supervised tokens
  uint64_t dropout_seed = 0;
  double gradient_scale = 1;   // of the gradients alone
  double label_smoothing = 0;  // of the loss as well; SftLoss knows neither this
  double noise_alpha = 0;      // nor this: NEFTune's noise on the embeddings
};

// Adds the gradients of the micro-batch to the decoder's store. RESOURCE_EXHAUSTED when memory did
// not suffice; the gradients are then partly added and must be zeroed.
absl::StatusOr<PassResult> SftBackward(model::Decoder& decoder, const data::MicroBatch& micro,
                                       const PassOptions& options);

// The loss alone.
absl::StatusOr<PassResult> SftLoss(const model::Decoder& decoder, const data::MicroBatch& micro,
                                   double denominator);

}  // namespace graft::method
