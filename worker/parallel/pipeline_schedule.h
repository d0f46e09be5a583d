// What a pipeline stage does and in which order, as data: forward and backward passes of
// micro-batches through the stage's chunks of layers, with the sends and receives between them. One
// forward, one backward; with several chunks a stage, interleaved.
//
// The model is cut into stages x chunks parts in the order of its layers; part p stands on stage
// p % stages as its chunk p / stages. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace graft::parallel {

enum class OpKind {
  kReceiveForward,
  kForward,
  kSendForward,
  kReceiveBackward,
  kBackward,
  kSendBackward
};

struct PipelineOp {
  OpKind kind = OpKind::kForward;
  int64_t micro = 0;
  int64_t chunk = 0;  // of this stage
  int64_t peer = -1;  // of a send or receive: the other stage
  bool operator==(const PipelineOp&) const = default;
};

struct PipelineShape {
  int64_t stages = 1;
  int64_t chunks = 1;  // a stage
  int64_t micros = 1;
};

// Of every stage. Any number of micro-batches, also fewer than stages; a stage never holds the
// activations of more passes than the schedule needs.
std::vector<std::vector<PipelineOp>> MakeSchedule(const PipelineShape& shape);

// Forwards alone, for evaluation: those of one stage.
std::vector<PipelineOp> ForwardSchedule(const PipelineShape& shape, int64_t stage);

// The tag that marks a message of the activations (or gradients) that enter part `part`.
int MessageTag(const PipelineShape& shape, int64_t micro, int64_t part, bool gradient);

// The share of the time that the slowest-ending stage idles if forwards take 1 and backwards 2.
double BubbleOf(const PipelineShape& shape);

std::string ScheduleText(const std::vector<PipelineOp>& ops);  // "F0 F1 B0 ..." without messages

}  // namespace graft::parallel
