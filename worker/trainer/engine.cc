#include "worker/trainer/engine.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/method/sft.h"
#include "worker/trainer/elapsed.h"

namespace graft::trainer {
namespace {

// A step's loss joins the usual one with this weight; a spike is judged after so many steps.
constexpr double kUsualWeight = 0.05;
constexpr int64_t kSpikeWarmup = 20;

// The segments [first, last) of `micro`.
data::MicroBatch Segments(const data::MicroBatch& micro, int first, int last) {
  data::MicroBatch part;
  const int32_t begin = micro.segment_starts[first];
  const int32_t end = micro.segment_starts[last];
  const auto cut = [&](const std::vector<int32_t>& from) {
    return std::vector<int32_t>(from.begin() + begin, from.begin() + end);
  };
  part.tokens = cut(micro.tokens);
  part.positions = cut(micro.positions);
  part.targets = cut(micro.targets);
  for (int i = first; i <= last; ++i) {
    part.segment_starts.push_back(micro.segment_starts[i] - begin);
  }
  part.sequences.assign(micro.sequences.begin() + first, micro.sequences.begin() + last);
  part.datasets.assign(micro.datasets.begin() + first, micro.datasets.begin() + last);
  for (int32_t target : part.targets) part.supervised_tokens += target != data::kIgnoreTarget;
  for (int i = 0; i < part.segments(); ++i) {
    part.max_segment =
        std::max(part.max_segment, part.segment_starts[i + 1] - part.segment_starts[i]);
  }
  part.filler = micro.filler;
  return part;
}

}  // namespace

std::vector<data::MicroBatch> Halve(const data::MicroBatch& micro) {
  if (micro.segments() < 2) return {micro};
  const int32_t half = micro.segment_starts.back() / 2;
  int best = 1;
  for (int i = 1; i < micro.segments(); ++i) {
    if (std::abs(micro.segment_starts[i] - half) < std::abs(micro.segment_starts[best] - half)) {
      best = i;
    }
  }
  return {Segments(micro, 0, best), Segments(micro, best, micro.segments())};
}

absl::StatusOr<StepResult> LocalEngine::Passes(const data::StepBatch& batch) {
  StepResult result;
  decoder_.store().ZeroGradients();
  const double denominator = static_cast<double>(std::max<int64_t>(batch.supervised_tokens, 1));
  uint64_t pass = 0;
  for (const data::MicroBatch& whole : batch.micro_batches) {
    for (const data::MicroBatch& micro :
         halve_ ? Halve(whole) : std::vector<data::MicroBatch>{whole}) {
      // Dropout's masks are a function of seed, step and pass: nothing to keep in a checkpoint.
      const uint64_t seed = static_cast<uint64_t>(config_.seed) * 0x9E3779B97F4A7C15ULL ^
                            (static_cast<uint64_t>(batch.step) << 20 | pass++);
      GRAFT_ASSIGN_OR_RETURN(const method::PassResult one,
                             method::SftBackward(decoder_, micro,
                                                 {.denominator = denominator,
                                                  .dropout_seed = seed,
                                                  .gradient_scale = scaler_.scale(),
                                                  .label_smoothing = config_.sft.label_smoothing,
                                                  .noise_alpha = config_.sft.neftune_noise_alpha}));
      result.loss += one.loss;
      result.forward_seconds += one.forward_seconds;
      result.backward_seconds += one.backward_seconds;
    }
  }
  return result;
}

void StepGuard::Check(StepResult& result) {
  const double scale = scaler_.scale();
  if (!scaler_.Accept(std::isfinite(result.grad_norm))) {
    result.overflowed = result.skipped = true;
    result.skip_reason = absl::StrCat("gradients overflow fp16 at a loss scale of ", scale);
    return;
  }
  if (config_.skip_nonfinite && !(std::isfinite(result.loss) && std::isfinite(result.grad_norm))) {
    result.skipped = true;
    absl::StrAppend(&result.skip_reason, result.skip_reason.empty() ? "" : "; ", "loss ",
                    result.loss, ", gradient norm ", result.grad_norm);
    return;
  }
  const double factor = config_.spike_factor;
  if (factor > 0 && losses_seen_ >= kSpikeWarmup && result.loss > factor * usual_loss_) {
    result.skipped = true;
    result.skip_reason = absl::StrCat("loss ", result.loss, " where ", usual_loss_, " is usual");
    return;
  }
  usual_loss_ =
      losses_seen_ == 0 ? result.loss : usual_loss_ + kUsualWeight * (result.loss - usual_loss_);
  ++losses_seen_;
}

// As torch.nn.utils.clip_grad_norm_: its small number below the line included.
double ClipScale(double grad_norm, double clip_norm) {
  return clip_norm > 0 ? std::min(1.0, clip_norm / (grad_norm + 1e-6)) : 1.0;
}

absl::StatusOr<StepResult> LocalEngine::Step(const data::StepBatch& batch, double learning_rate) {
  absl::StatusOr<StepResult> result = Passes(batch);
  bool split = false;
  if (absl::IsResourceExhausted(result.status()) && !halve_) {
    halve_ = split = true;
    result = Passes(batch);
  }
  if (!result.ok()) return result.status();
  result->split = split;
  const auto start = SteadyClock::now();
  const double scale = scaler_.scale();
  result->grad_norm = GradientNorm(decoder_.store()) / scale;
  guard_.Check(*result);
  if (!result->skipped) {
    optimizer_.Step(learning_rate,
                    ClipScale(result->grad_norm, config_.optimizer.clip_norm) / scale);
  }
  result->optimizer_seconds = SecondsSince(start);
  return result;
}

absl::StatusOr<EvalResult> LocalEngine::Evaluate(const data::BatchPlan& plan) {
  EvalResult result;
  const auto start = SteadyClock::now();
  double sum = 0;
  for (int64_t step = 0; step < plan.steps(); ++step) {
    for (const data::MicroBatch& micro : plan.Step(step, 0).micro_batches) {
      GRAFT_ASSIGN_OR_RETURN(const method::PassResult one, method::SftLoss(decoder_, micro, 1.0));
      sum += one.loss;
      result.supervised_tokens += micro.supervised_tokens;
    }
  }
  result.loss = sum / static_cast<double>(std::max<int64_t>(result.supervised_tokens, 1));
  result.seconds = SecondsSince(start);
  return result;
}

}  // namespace graft::trainer
