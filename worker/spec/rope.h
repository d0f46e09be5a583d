// The frequencies of rotary position embeddings, computed as transformers computes them (in fp32).
#pragma once

#include <cstdint>
#include <vector>

#include "worker/spec/decoder_spec.h"

namespace graft::spec {

// rotary_dim / 2 angles per position. `sequence_length` matters for kDynamic (beyond max_context)
// and kLongRope (beyond original_context, where the long factors apply) alone.
std::vector<float> RopeInverseFrequencies(const RopeSpec& rope, int64_t sequence_length);

// Whether the frequencies depend on the length of the sequence.
bool RopeDependsOnLength(const RopeSpec& rope);

}  // namespace graft::spec
