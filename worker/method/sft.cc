#include "worker/method/sft.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/status_macros.h"
#include "worker/model/torch_boundary.h"

namespace graft::method {
namespace {

using SteadyClock = std::chrono::steady_clock;

double Seconds(SteadyClock::time_point from, SteadyClock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// To a GPU through pinned memory, so that the copy does not wait for what runs there.
at::Tensor Indices(const std::vector<int32_t>& values, at::Device device) {
  at::Tensor host = at::tensor(at::ArrayRef<int32_t>(values), at::kInt).to(at::kLong);
  return device.is_cpu() ? host : host.pin_memory().to(device, /*non_blocking=*/true);
}

}  // namespace

model::Batch BatchOf(const data::MicroBatch& micro, int64_t multiple, at::Device device) {
  model::Batch batch;
  std::vector<int32_t> tokens = micro.tokens;
  std::vector<int32_t> positions = micro.positions;
  batch.starts.assign(micro.segment_starts.begin(), micro.segment_starts.end());
  if (const int64_t over = static_cast<int64_t>(tokens.size()) % multiple; over != 0) {
    for (int64_t i = 0; i < multiple - over; ++i) {
      tokens.push_back(micro.tokens.front());
      positions.push_back(static_cast<int32_t>(i));
    }
    batch.starts.push_back(static_cast<int64_t>(tokens.size()));
  }
  batch.tokens = Indices(tokens, device);
  batch.positions = Indices(positions, device);
  return batch;
}

model::LossTargets TargetsOf(const data::MicroBatch& micro, double denominator) {
  model::LossTargets targets;
  targets.denominator = denominator;
  for (size_t i = 0; i < micro.targets.size(); ++i) {
    if (micro.targets[i] == data::kIgnoreTarget) continue;
    targets.rows.push_back(static_cast<int64_t>(i));
    targets.targets.push_back(micro.targets[i]);
  }
  return targets;
}

std::vector<float> NoiseOf(const data::MicroBatch& micro, double alpha, int64_t hidden,
                           int64_t rows) {
  std::vector<float> noise(static_cast<size_t>(rows));
  for (int i = 0; i < micro.segments(); ++i) {
    const int32_t begin = micro.segment_starts[i], end = micro.segment_starts[i + 1];
    const auto numbers = static_cast<double>(end - begin) * static_cast<double>(hidden);
    std::fill(noise.begin() + begin, noise.begin() + end,
              static_cast<float>(alpha / std::sqrt(numbers)));
  }
  return noise;
}

absl::StatusOr<PassResult> SftBackward(model::Decoder& decoder, const data::MicroBatch& micro,
                                       const PassOptions& options) {
  PassResult result;
  model::LossTargets targets = TargetsOf(micro, options.denominator);
  targets.gradient_scale = options.gradient_scale;
  targets.label_smoothing = options.label_smoothing;
  if (targets.rows.empty()) return result;
  GRAFT_RETURN_IF_ERROR(model::TorchCall("a training pass", [&] {
    const auto start = SteadyClock::now();
    model::Batch batch = BatchOf(micro, 1, decoder.device());
    batch.pass = {.training = true, .dropout_seed = options.dropout_seed};
    if (options.noise_alpha > 0) {
      batch.noise =
          NoiseOf(micro, options.noise_alpha, decoder.spec().hidden, batch.tokens.size(0));
    }
    model::RouterBalance balance;
    balance.coefficient = decoder.router_loss_coefficient;
    balance.gradient_scale = options.gradient_scale;
    if (balance.coefficient > 0) batch.pass.balance = &balance;
    at::Tensor hidden = decoder.Hidden(batch);
    at::Tensor loss = model::HeadLoss(decoder.head(), hidden, targets, &result.loss);
    // Added for each micro-batch, as transformers does.
    result.loss += balance.Loss();
    hidden.reset();  // the graph alone keeps it, so the backward can free it
    const auto middle = SteadyClock::now();
    loss.backward();
    result.forward_seconds = Seconds(start, middle);
    result.backward_seconds = Seconds(middle, SteadyClock::now());
  }));
  return result;
}

absl::StatusOr<PassResult> SftLoss(const model::Decoder& decoder, const data::MicroBatch& micro,
                                   double denominator) {
  PassResult result;
  const model::LossTargets targets = TargetsOf(micro, denominator);
  if (targets.rows.empty()) return result;
  GRAFT_RETURN_IF_ERROR(model::TorchCall("an evaluation pass", [&] {
    const at::NoGradGuard no_grad;
    const auto start = SteadyClock::now();
    const at::Tensor hidden = decoder.Hidden(BatchOf(micro, 1, decoder.device()));
    model::HeadLoss(decoder.head(), hidden, targets, &result.loss);
    result.forward_seconds = Seconds(start, SteadyClock::now());
  }));
  return result;
}

}  // namespace graft::method
