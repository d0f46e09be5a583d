// How the layers of a model are dealt to the stages of a pipeline. The trainer cuts by this and the
// estimates count by it. Pure functions.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "worker/spec/decoder_spec.h"

namespace graft::spec {

// How layers are dealt to `stages` so that the slowest stage is as fast as can be: `costs` of the
// layers in order, `first` of the embedding's side, `last` of the head's. Every stage gets at least
// one layer. Ranges [first, second), in order.
std::vector<std::pair<int64_t, int64_t>> BalanceLayers(const std::vector<double>& costs,
                                                       double first, double last, int64_t stages);

// Relative cost of each layer and of the head for one token: the numbers that it is multiplied
// with, and its attention over `sequence` tokens.
struct LayerCosts {
  std::vector<double> layers;
  double head = 0;
};
LayerCosts CostsOf(const DecoderSpec& spec, int64_t sequence, double supervised_share);

// The cut of a run: every part of stages x chunks parts, in order. INVALID where there are fewer
// layers than parts, which CheckLayout refuses.
std::vector<std::pair<int64_t, int64_t>> CutLayers(const DecoderSpec& spec, int64_t sequence,
                                                   double supervised_share, int64_t parts);

}  // namespace graft::spec
