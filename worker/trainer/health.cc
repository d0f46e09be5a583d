#include "worker/trainer/health.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/spec/layout.h"

namespace graft::trainer {
namespace {

constexpr double kWorthSaying = 0.2;
// An estimate has to promise this much before somebody is told to change the layout.
constexpr double kWorthChanging = 0.85;

struct Stall {
  const char* what;
  double seconds;
};

// Speeds at which the estimate of this layout takes as long as was measured.
spec::DeviceRates RatesOf(const spec::CostModel& cost, const spec::TrainingPlan& plan,
                          const StepShares& shares) {
  spec::DeviceRates rates;
  const spec::StepTime guess = cost.Step(plan, rates);
  if (shares.busy_seconds > 0) rates.matmul_flops *= guess.compute / shares.busy_seconds;
  double communication = guess.data_parallel, measured = shares.sum_seconds;
  if (guess.tensor_parallel > 0) {
    communication = guess.tensor_parallel;
    measured = shares.tensor_seconds;
  }
  if (communication > 0 && measured > 0) {
    rates.nvlink_bandwidth *= communication / measured;
    rates.network_bandwidth *= communication / measured;
  }
  return rates;
}

}  // namespace

std::optional<std::string> StallVerdict(const spec::CostModel& cost, const spec::TrainingPlan& plan,
                                        const StepShares& shares) {
  const Stall stalls[] = {{"tensor parallelism's sums", shares.tensor_seconds},
                          {"gradient sums", shares.sum_seconds},
                          {"the neighbouring pipeline stages", shares.idle_seconds}};
  const Stall& worst =
      *std::max_element(std::begin(stalls), std::end(stalls),
                        [](const Stall& a, const Stall& b) { return a.seconds < b.seconds; });
  if (shares.seconds <= 0 || worst.seconds < kWorthSaying * shares.seconds) return std::nullopt;
  std::string text = absl::StrCat(std::lround(100 * worst.seconds / shares.seconds),
                                  " % of a step waits for ", worst.what);
  const spec::DeviceRates rates = RatesOf(cost, plan, shares);
  const double now = cost.Step(plan, rates).total();
  spec::TrainingPlan best = plan;
  double best_seconds = now;
  const std::vector<spec::Layout> layouts =
      spec::EnumerateLayouts(cost.spec(), {.gpus = plan.layout.world(),
                                           .micro_batch = plan.micro_batch,
                                           .global_batch = plan.global_batch,
                                           .sequence = plan.sequence});
  for (const spec::Layout& layout : layouts) {
    spec::TrainingPlan other = plan;
    other.layout = layout;
    const double seconds = cost.Step(other, rates).total();
    if (seconds < best_seconds) {
      best = other;
      best_seconds = seconds;
    }
  }
  if (best_seconds < kWorthChanging * now) {
    absl::StrAppend(&text, ": use ", spec::LayoutText(best.layout), ", an estimated ",
                    std::round(10 * now / best_seconds) / 10, " times as fast");
  }
  return text;
}

}  // namespace graft::trainer
