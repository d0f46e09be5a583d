#include "worker/trainer/schedule.h"

#include <algorithm>
#include <cmath>

#include "base/status_macros.h"

namespace graft::trainer {
namespace {

constexpr double kPolynomialEnd = 1e-7;  // the learning rate at the end

double Floored(double factor, double least) { return std::max(0.0, factor * (1 - least) + least); }

}  // namespace

absl::StatusOr<Schedule> Schedule::Create(const ScheduleConfig& config, int64_t total_steps) {
  ScheduleKind kind;
  GRAFT_RETURN_IF_ERROR(internal::ReadEnum(Json(config.kind), "schedule.kind", kind));
  return Schedule(kind, config, total_steps);
}

Schedule::Schedule(ScheduleKind kind, const ScheduleConfig& config, int64_t total_steps)
    : kind_(kind), config_(config), total_(total_steps) {
  warmup_ = config.warmup_steps;
  if (config.warmup_ratio > 0) {
    warmup_ =
        static_cast<int64_t>(std::ceil(config.warmup_ratio * static_cast<double>(total_steps)));
  }
  if (config.decay_ratio > 0) {
    config_.decay_steps =
        static_cast<int64_t>(std::ceil(config.decay_ratio * static_cast<double>(total_steps)));
  }
}

double Schedule::Factor(int64_t step) const {
  const double s = static_cast<double>(step);
  const double warmup = static_cast<double>(warmup_);
  switch (kind_) {
    case ScheduleKind::kConstant:
    case ScheduleKind::kReduceOnPlateau:
      return 1;
    case ScheduleKind::kCosineWarmupWithMinLr:
      if (step < warmup_) return (s + 1) / std::max(1.0, warmup);
      return Decay(s);
    case ScheduleKind::kWarmupStableDecay:
      if (step < warmup_) return Floored(s / std::max(1.0, warmup), config_.min_lr_rate);
      return Decay(s);
    default:
      if (step < warmup_) return s / std::max(1.0, warmup);
      return Decay(s);
  }
}

// After the warm-up.
double Schedule::Decay(double step) const {
  const double warmup = static_cast<double>(warmup_);
  const double total = static_cast<double>(total_);
  const double span = std::max(1.0, total - warmup);
  const double progress = (step - warmup) / span;
  const auto cosine = [&](double at) {
    return 0.5 * (1 + std::cos(M_PI * config_.num_cycles * 2 * at));
  };
  switch (kind_) {
    case ScheduleKind::kLinear:
      return std::max(0.0, (total - step) / span);
    case ScheduleKind::kCosine:
      return std::max(0.0, cosine(progress));
    case ScheduleKind::kCosineWithRestarts: {
      if (progress >= 1) return 0;
      // The default of num_cycles is the cosine's half wave; here it means one whole descent.
      const double cycles = config_.num_cycles == 0.5 ? 1.0 : config_.num_cycles;
      return std::max(0.0, 0.5 * (1 + std::cos(M_PI * std::fmod(cycles * progress, 1.0))));
    }
    case ScheduleKind::kPolynomial: {
      const double end = kPolynomialEnd / config_.learning_rate;
      if (step > total) return end;
      return (1 - end) * std::pow(1 - progress, config_.power) + end;
    }
    case ScheduleKind::kInverseSqrt: {
      // A warm-up of none is given a timescale of 10,000 steps, as transformers does.
      const double timescale = warmup_ > 0 ? warmup : 10000;
      return 1 / std::sqrt((step + timescale - warmup) / timescale);
    }
    case ScheduleKind::kCosineWithMinLr:
      return Floored(cosine(progress), config_.min_lr_rate);
    case ScheduleKind::kCosineWarmupWithMinLr:
      return Floored(cosine((step - warmup + 1) / span), config_.min_lr_rate);
    case ScheduleKind::kWarmupStableDecay: {
      const double decay = static_cast<double>(config_.decay_steps);
      const double stable = total - warmup - decay;
      if (step < warmup + stable) return 1;
      if (step >= total) return config_.min_lr_rate;
      return Floored(cosine((step - warmup - stable) / std::max(1.0, decay)), config_.min_lr_rate);
    }
    default:
      return 1;
  }
}

void Schedule::ObserveValidation(double loss) {
  if (kind_ != ScheduleKind::kReduceOnPlateau) return;
  if (!seen_ || loss < best_ * (1 - 1e-4)) {
    best_ = loss;
    bad_ = 0;
    seen_ = true;
  } else if (++bad_ > kPlateauPatience) {
    plateau_factor_ *= 0.1;
    bad_ = 0;
  }
}

void Schedule::set_plateau(const PlateauState& state) {
  plateau_factor_ = state.factor;
  best_ = state.best;
  bad_ = state.bad;
  seen_ = state.seen;
}

}  // namespace graft::trainer
