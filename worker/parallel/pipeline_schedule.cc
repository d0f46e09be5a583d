#include "worker/parallel/pipeline_schedule.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace graft::parallel {
namespace {

constexpr double kForwardTime = 1;
constexpr double kBackwardTime = 2;
constexpr double kNever = std::numeric_limits<double>::infinity();

struct Pass {
  int64_t micro;
  int64_t chunk;
};

// The order in which a stage's forwards are made: micro-batches in rounds of `stages`, a round
// through all chunks before the next one. Backwards go through the chunks the other way.
std::vector<Pass> Rounds(const PipelineShape& shape, bool backward) {
  std::vector<Pass> passes;
  for (int64_t first = 0; first < shape.micros; first += shape.stages) {
    const int64_t end = std::min(first + shape.stages, shape.micros);
    for (int64_t c = 0; c < shape.chunks; ++c) {
      for (int64_t m = first; m < end; ++m) {
        passes.push_back({m, backward ? shape.chunks - 1 - c : c});
      }
    }
  }
  return passes;
}

// Plays the pipeline with passes of unit cost: a stage goes backward as soon as it can, and forward
// while it holds fewer passes than its limit.
class Simulation {
 public:
  explicit Simulation(const PipelineShape& shape)
      : shape_(shape),
        forwards_(Rounds(shape, false)),
        backwards_(Rounds(shape, true)),
        parts_(shape.stages * shape.chunks),
        forward_done_(parts_ * shape.micros, kNever),
        backward_done_(parts_ * shape.micros, kNever) {
    for (int64_t s = 0; s < shape.stages; ++s) {
      const int64_t warm = shape.chunks == 1
                               ? shape.stages - s
                               : 2 * (shape.stages - s - 1) + (shape.chunks - 1) * shape.stages + 1;
      stages_.push_back({.limit = std::min<int64_t>(warm, forwards_.size())});
    }
  }

  void Run() {
    const int64_t all = 2 * static_cast<int64_t>(forwards_.size()) * shape_.stages;
    for (int64_t made = 0; made < all;) {
      int64_t best = -1;
      double best_start = kNever;
      bool best_backward = false;
      for (int64_t s = 0; s < shape_.stages; ++s) {
        const auto [start, backward] = Next(s);
        if (start < best_start) {
          best = s;
          best_start = start;
          best_backward = backward;
        }
      }
      if (best < 0) {
        // A last, shorter round may need a deeper fill.
        for (Stage& stage : stages_) ++stage.limit;
        continue;
      }
      Do(best, best_start, best_backward);
      ++made;
    }
  }

  const std::vector<PipelineOp>& ops(int64_t stage) const { return stages_[stage].ops; }
  double end() const {
    double end = 0;
    for (const Stage& stage : stages_) end = std::max(end, stage.time);
    return end;
  }

 private:
  struct Stage {
    int64_t limit = 1;
    size_t forwards = 0;
    size_t backwards = 0;
    double time = 0;
    std::vector<PipelineOp> ops;
  };

  int64_t PartOf(int64_t stage, int64_t chunk) const { return chunk * shape_.stages + stage; }
  double& At(std::vector<double>& done, int64_t part, int64_t micro) {
    return done[part * shape_.micros + micro];
  }

  double ForwardReady(int64_t stage) {
    const Stage& s = stages_[stage];
    if (s.forwards == forwards_.size()) return kNever;
    if (static_cast<int64_t>(s.forwards - s.backwards) >= s.limit) return kNever;
    const Pass& pass = forwards_[s.forwards];
    const int64_t part = PartOf(stage, pass.chunk);
    return part == 0 ? 0 : At(forward_done_, part - 1, pass.micro);
  }

  double BackwardReady(int64_t stage) {
    const Stage& s = stages_[stage];
    if (s.backwards == backwards_.size()) return kNever;
    const Pass& pass = backwards_[s.backwards];
    const int64_t part = PartOf(stage, pass.chunk);
    const double own = At(forward_done_, part, pass.micro);
    return part == parts_ - 1 ? own : std::max(own, At(backward_done_, part + 1, pass.micro));
  }

  // When the stage's next pass can begin, and whether it is a backward.
  std::pair<double, bool> Next(int64_t stage) {
    const double time = stages_[stage].time;
    const double backward = std::max(time, BackwardReady(stage));
    const double forward = std::max(time, ForwardReady(stage));
    return backward <= forward ? std::make_pair(backward, true) : std::make_pair(forward, false);
  }

  void Do(int64_t stage, double start, bool backward) {
    Stage& s = stages_[stage];
    const Pass pass = backward ? backwards_[s.backwards++] : forwards_[s.forwards++];
    const int64_t part = PartOf(stage, pass.chunk);
    s.time = start + (backward ? kBackwardTime : kForwardTime);
    At(backward ? backward_done_ : forward_done_, part, pass.micro) = s.time;
    const int64_t before = (stage + shape_.stages - 1) % shape_.stages;
    const int64_t after = (stage + 1) % shape_.stages;
    const auto add = [&](OpKind kind, int64_t peer) {
      s.ops.push_back({kind, pass.micro, pass.chunk, peer});
    };
    if (backward) {
      if (part < parts_ - 1) add(OpKind::kReceiveBackward, after);
      add(OpKind::kBackward, -1);
      if (part > 0) add(OpKind::kSendBackward, before);
    } else {
      if (part > 0) add(OpKind::kReceiveForward, before);
      add(OpKind::kForward, -1);
      if (part < parts_ - 1) add(OpKind::kSendForward, after);
    }
  }

  const PipelineShape shape_;
  const std::vector<Pass> forwards_, backwards_;
  const int64_t parts_;
  std::vector<double> forward_done_, backward_done_;  // by part and micro-batch
  std::vector<Stage> stages_;
};

}  // namespace

std::vector<std::vector<PipelineOp>> MakeSchedule(const PipelineShape& shape) {
  Simulation simulation(shape);
  simulation.Run();
  std::vector<std::vector<PipelineOp>> schedule;
  for (int64_t s = 0; s < shape.stages; ++s) schedule.push_back(simulation.ops(s));
  return schedule;
}

std::vector<PipelineOp> ForwardSchedule(const PipelineShape& shape, int64_t stage) {
  std::vector<PipelineOp> ops;
  const int64_t parts = shape.stages * shape.chunks;
  for (const Pass& pass : Rounds(shape, false)) {
    const int64_t part = pass.chunk * shape.stages + stage;
    if (part > 0) {
      ops.push_back({OpKind::kReceiveForward, pass.micro, pass.chunk,
                     (stage + shape.stages - 1) % shape.stages});
    }
    ops.push_back({OpKind::kForward, pass.micro, pass.chunk, -1});
    if (part < parts - 1) {
      ops.push_back({OpKind::kSendForward, pass.micro, pass.chunk, (stage + 1) % shape.stages});
    }
  }
  return ops;
}

int MessageTag(const PipelineShape& shape, int64_t micro, int64_t part, bool gradient) {
  return static_cast<int>(((micro * shape.stages * shape.chunks) + part) * 2 + (gradient ? 1 : 0));
}

double BubbleOf(const PipelineShape& shape) {
  Simulation simulation(shape);
  simulation.Run();
  const double busy =
      static_cast<double>(shape.micros * shape.chunks) * (kForwardTime + kBackwardTime);
  return 1 - busy / simulation.end();
}

std::string ScheduleText(const std::vector<PipelineOp>& ops) {
  std::string text;
  for (const PipelineOp& op : ops) {
    if (op.kind != OpKind::kForward && op.kind != OpKind::kBackward) continue;
    absl::StrAppend(&text, text.empty() ? "" : " ", op.kind == OpKind::kForward ? "F" : "B",
                    op.micro, op.chunk > 0 ? absl::StrCat(".", op.chunk) : "");
  }
  return text;
}

}  // namespace graft::parallel
