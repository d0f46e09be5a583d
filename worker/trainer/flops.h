// The arithmetic that a step needs, by which its speed is judged: 4 operations for each weight of a
// frozen linear and each token (forward, and the gradient of the input), 6 for a trained one, and
// attention over what a query sees. The head counts for supervised tokens alone.
#pragma once

#include "worker/data/dataset/batches.h"
#include "worker/model/decoder.h"

namespace graft::trainer {

double StepFlops(const spec::DecoderSpec& spec, model::Decoder& decoder,
                 const data::StepBatch& batch);

}  // namespace graft::trainer
