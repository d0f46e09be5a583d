// What a collective of tensor parallelism costs: the tokens of a micro-batch of bench-135m gathered
// and sum-scattered between two ranks (threads of this process), over either transport, beside the
// bare copy of as many bytes. Prints one JSON line a figure.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "worker/parallel/test_ranks.h"

namespace graft::parallel {
namespace {

constexpr int kCalls = 300;  // of a training step
constexpr int64_t kRows = 512;
constexpr int64_t kHidden = 576;

double Microseconds(const std::function<void()>& call) {
  call();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < kCalls; ++i) call();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
             .count() /
         kCalls;
}

void Report(const std::string& metric, double microseconds, int64_t bytes) {
  std::printf(
      "{\"bench\":\"parallel\",\"metric\":\"%s\",\"value\":%.1f,\"unit\":\"us\",\"gb_per_s\":%.2f}"
      "\n",
      metric.c_str(), microseconds, static_cast<double>(bytes) / microseconds * 1e-3);
  std::fflush(stdout);
}

void Measure(bool over_memory) {
  const std::string name = over_memory ? ", shared memory" : ", gloo";
  constexpr int64_t kBytes = kRows / 2 * kHidden * 4;  // that leave a rank
  RunWorlds(
      {.tp = 2}, 0,
      [&](World& world) {
        Group& group = world.tensor();
        const at::Tensor own = at::ones({kRows / 2, kHidden}), whole = at::ones({kRows, kHidden});
        const double gather = Microseconds([&] { group.Gather(own, "gather"); });
        const double scatter = Microseconds([&] { group.SumScatter(whole, "scatter"); });
        at::Tensor gradients = at::ones({4 << 20});
        const double sum = Microseconds([&] { group.StartSum(gradients, "sum").Wait(); });
        if (world.rank() != 0) return;
        Report("gather of half the tokens" + name, gather, kBytes);
        Report("sum-scatter of the tokens" + name, scatter, kBytes);
        Report("sum of 16 MiB" + name, sum, 16 << 20);
      },
      [&](WorldOptions& options) { options.shared_memory = over_memory; });
}

}  // namespace
}  // namespace graft::parallel

int main() {
  at::set_num_threads(1);
  std::vector<char> from(graft::parallel::kRows / 2 * graft::parallel::kHidden * 4, 1);
  std::vector<char> to(from.size());
  graft::parallel::Report("bare copy of half the tokens", graft::parallel::Microseconds([&] {
                            std::memcpy(to.data(), from.data(), from.size());
                          }),
                          static_cast<int64_t>(from.size()));
  graft::parallel::Measure(true);
  graft::parallel::Measure(false);
  return 0;
}
