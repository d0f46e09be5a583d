#include "worker/parallel/pipeline_schedule.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/tier.h"

namespace graft::parallel {
namespace {

// Plays the stages' lists against each other: every receive finds its message, every pass is made
// once, and nothing waits for ever. Returns the most passes that a stage held at once.
std::vector<int64_t> Play(const PipelineShape& shape) {
  const auto schedule = MakeSchedule(shape);
  std::vector<size_t> next(schedule.size(), 0);
  std::vector<int64_t> held(schedule.size(), 0), most(schedule.size(), 0);
  std::set<std::tuple<int64_t, int64_t, bool>> sent;  // micro, part it enters, gradient
  std::map<std::tuple<int64_t, int64_t, bool>, int> passes;
  bool moved = true;
  while (moved) {
    moved = false;
    for (int64_t s = 0; s < shape.stages; ++s) {
      while (next[s] < schedule[s].size()) {
        const PipelineOp& op = schedule[s][next[s]];
        const int64_t part = op.chunk * shape.stages + s;
        const bool receive =
            op.kind == OpKind::kReceiveForward || op.kind == OpKind::kReceiveBackward;
        if (receive && sent.count({op.micro, part, op.kind == OpKind::kReceiveBackward}) == 0) {
          break;
        }
        if (op.kind == OpKind::kSendForward) sent.insert({op.micro, part + 1, false});
        if (op.kind == OpKind::kSendBackward) sent.insert({op.micro, part - 1, true});
        if (op.kind == OpKind::kForward) {
          ++passes[{op.micro, part, false}];
          most[s] = std::max(most[s], ++held[s]);
        }
        if (op.kind == OpKind::kBackward) {
          EXPECT_EQ((passes[{op.micro, part, false}]), 1) << "backward before its forward";
          ++passes[{op.micro, part, true}];
          --held[s];
        }
        ++next[s];
        moved = true;
      }
    }
  }
  for (int64_t s = 0; s < shape.stages; ++s) {
    EXPECT_EQ(next[s], schedule[s].size()) << "stage " << s << " waits for ever";
  }
  EXPECT_EQ(passes.size(), static_cast<size_t>(2 * shape.stages * shape.chunks * shape.micros));
  for (const auto& [pass, count] : passes) EXPECT_EQ(count, 1);
  return most;
}

TEST(PipelineScheduleTest, OneForwardOneBackward) {
  const auto schedule = MakeSchedule({.stages = 2, .chunks = 1, .micros = 4});
  EXPECT_EQ(ScheduleText(schedule[0]), "F0 F1 B0 F2 B1 F3 B2 B3");
  EXPECT_EQ(ScheduleText(schedule[1]), "F0 B0 F1 B1 F2 B2 F3 B3");
}

TEST(PipelineScheduleTest, EveryShapeEndsAndHoldsNoMorePassesThanItsDepth) {
  for (int64_t stages = 1; stages <= 8; ++stages) {
    for (int64_t micros = 1; micros <= testing::ByTier(10, 20, 40); ++micros) {
      const std::vector<int64_t> most = Play({.stages = stages, .chunks = 1, .micros = micros});
      for (int64_t s = 0; s < stages; ++s) EXPECT_LE(most[s], std::min(micros, stages - s));
      for (int64_t chunks = 2; chunks <= 3 && stages > 1; ++chunks) {
        Play({.stages = stages, .chunks = chunks, .micros = micros});
      }
    }
  }
}

// The order of messages between each two stages, by whether they are gradients: what a lane of
// device_collectives.h carries.
using Lanes = std::map<std::tuple<int64_t, int64_t, bool>, std::vector<int>>;

struct Ends {
  Lanes sent, received;
  void Add(const PipelineShape& shape, int64_t stage, const std::vector<PipelineOp>& ops) {
    for (const PipelineOp& op : ops) {
      const int64_t part = op.chunk * shape.stages + stage;
      const auto tag = [&](int64_t enters, bool gradient) {
        return MessageTag(shape, op.micro, enters, gradient);
      };
      switch (op.kind) {
        case OpKind::kSendForward:
          sent[{stage, op.peer, false}].push_back(tag(part + 1, false));
          break;
        case OpKind::kSendBackward:
          sent[{stage, op.peer, true}].push_back(tag(part - 1, true));
          break;
        case OpKind::kReceiveForward:
          received[{op.peer, stage, false}].push_back(tag(part, false));
          break;
        case OpKind::kReceiveBackward:
          received[{op.peer, stage, true}].push_back(tag(part, true));
          break;
        default:
          break;
      }
    }
  }
};

TEST(PipelineScheduleTest, MessagesOfALaneAreReceivedInTheOrderInWhichTheyAreSent) {
  for (int64_t stages = 2; stages <= 5; ++stages) {
    for (int64_t chunks = 1; chunks <= 3; ++chunks) {
      for (int64_t micros = 1; micros <= testing::ByTier(12, 20, 40); ++micros) {
        const PipelineShape shape = {stages, chunks, micros};
        const auto schedule = MakeSchedule(shape);
        Ends training, evaluation;
        for (int64_t s = 0; s < stages; ++s) {
          training.Add(shape, s, schedule[static_cast<size_t>(s)]);
          evaluation.Add(shape, s, ForwardSchedule(shape, s));
        }
        EXPECT_EQ(training.sent, training.received) << stages << " " << chunks << " " << micros;
        EXPECT_EQ(evaluation.sent, evaluation.received) << stages << " " << chunks;
        for (const auto& [lane, tags] : training.sent) {
          for (const int tag : tags) EXPECT_EQ(tag % 2 == 1, std::get<2>(lane));
        }
      }
    }
  }
}

TEST(PipelineScheduleTest, InterleavingShrinksTheBubble) {
  const double one = BubbleOf({.stages = 4, .chunks = 1, .micros = 8});
  EXPECT_NEAR(one, 3.0 / 11.0, 1e-9);
  EXPECT_LT(BubbleOf({.stages = 4, .chunks = 2, .micros = 8}), one);
}

}  // namespace
}  // namespace graft::parallel
