#include "client/cli/step_times.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace graft::cli {
namespace {

// Shares of a step from which on a part is worth a change.
constexpr double kMuchCommunication = 0.20;
constexpr double kMuchIdle = 0.15;
constexpr double kMuchData = 0.10;
constexpr double kSlowRank = 1.15;  // times the median rank's work
// Each micro-batch more shortens a pipeline's wait; this many a stage leave an eighth of a step.
constexpr int kMicroBatchesPerStage = 8;

double MeanShare(const std::vector<StepTimes>& ranks, double StepTimes::*part) {
  double part_seconds = 0, seconds = 0;
  for (const StepTimes& rank : ranks) {
    part_seconds += rank.*part;
    seconds += rank.step;
  }
  return seconds > 0 ? part_seconds / seconds : 0;
}

// How a layout spends less on talk.
std::string LessCommunication(const StepLayout& layout) {
  if (layout.tensor > 1) {
    return absl::StrCat("halve tensor_parallel_size to ", layout.tensor / 2,
                        layout.pipeline > 1 ? "" : " and let pipeline_parallel_size take the rest");
  }
  if (layout.data > 1) {
    return "a larger batch.global_batch_size makes fewer exchanges for the same tokens";
  }
  return "the links between the nodes are the limit";
}

}  // namespace

std::string Verdict(const std::vector<StepTimes>& ranks, const StepLayout& layout) {
  std::vector<StepTimes> by_work = ranks;
  std::sort(by_work.begin(), by_work.end(),
            [](const StepTimes& a, const StepTimes& b) { return a.busy() < b.busy(); });
  const StepTimes& slowest = by_work.back();
  const double median = by_work[(by_work.size() - 1) / 2].busy();
  if (ranks.size() > 1 && median > 0 && slowest.busy() > kSlowRank * median) {
    return absl::StrFormat(
        "rank %d works %.2f times as long as the median rank: look at its node, or balance the "
        "stages",
        slowest.rank, slowest.busy() / median);
  }
  const double communication = MeanShare(ranks, &StepTimes::communication);
  const double idle = MeanShare(ranks, &StepTimes::idle);
  const double data = MeanShare(ranks, &StepTimes::data);
  if (communication >= kMuchCommunication && communication >= idle && communication >= data) {
    return absl::StrFormat("%.0f %% of a step is communication: %s", 100 * communication,
                           LessCommunication(layout));
  }
  if (idle >= kMuchIdle && idle >= data) {
    return absl::StrFormat(
        "%.0f %% of a step is waiting in the pipeline: %d micro-batches a step for %d stages, %d "
        "would do better",
        100 * idle, layout.micro_batches, layout.pipeline,
        std::max(layout.micro_batches + 1, kMicroBatchesPerStage * layout.pipeline));
  }
  if (data >= kMuchData) {
    return absl::StrFormat(
        "%.0f %% of a step is waiting for rows: sequence packing, or a faster disk for the cache",
        100 * data);
  }
  double busy = 0, seconds = 0;
  for (const StepTimes& rank : ranks) {
    busy += rank.busy();
    seconds += rank.step;
  }
  return absl::StrFormat("%.0f %% of a step is arithmetic; nothing stands out",
                         seconds > 0 ? 100 * busy / seconds : 0);
}

}  // namespace graft::cli
