// The learning rate of each step, by the names and the numbers of transformers' schedules. Pure.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

enum class ScheduleKind {
  kLinear,
  kCosine,
  kCosineWithRestarts,
  kPolynomial,
  kConstant,
  kConstantWithWarmup,
  kInverseSqrt,
  kReduceOnPlateau,
  kCosineWithMinLr,
  kCosineWarmupWithMinLr,
  kWarmupStableDecay,
};

template <>
struct EnumNames<ScheduleKind> {
  static std::vector<std::pair<ScheduleKind, const char*>> Names() {
    return {{ScheduleKind::kLinear, "linear"},
            {ScheduleKind::kCosine, "cosine"},
            {ScheduleKind::kCosineWithRestarts, "cosine_with_restarts"},
            {ScheduleKind::kPolynomial, "polynomial"},
            {ScheduleKind::kConstant, "constant"},
            {ScheduleKind::kConstantWithWarmup, "constant_with_warmup"},
            {ScheduleKind::kInverseSqrt, "inverse_sqrt"},
            {ScheduleKind::kReduceOnPlateau, "reduce_lr_on_plateau"},
            {ScheduleKind::kCosineWithMinLr, "cosine_with_min_lr"},
            {ScheduleKind::kCosineWarmupWithMinLr, "cosine_warmup_with_min_lr"},
            {ScheduleKind::kWarmupStableDecay, "warmup_stable_decay"}};
  }
};

class Schedule {
 public:
  // INVALID_ARGUMENT for an unknown kind, with the known ones.
  static absl::StatusOr<Schedule> Create(const ScheduleConfig& config, int64_t total_steps);

  // The factor of the learning rate for step `step` (from 0), without the plateau's.
  double Factor(int64_t step) const;
  double LearningRate(int64_t step) const {
    return config_.learning_rate * Factor(step) * plateau_factor_;
  }
  int64_t warmup_steps() const { return warmup_; }

  // reduce_lr_on_plateau alone: told each validation loss, it divides the rate by ten after more
  // than kPlateauPatience evaluations without an improvement of 1e-4 (relative).
  void ObserveValidation(double loss);

  // What a checkpoint keeps of it.
  struct PlateauState {
    double factor = 1;
    double best = 0;
    int64_t bad = 0;
    bool seen = false;
  };
  PlateauState plateau() const { return {plateau_factor_, best_, bad_, seen_}; }
  void set_plateau(const PlateauState& state);

 private:
  Schedule(ScheduleKind kind, const ScheduleConfig& config, int64_t total_steps);
  double Decay(double step) const;

  static constexpr int64_t kPlateauPatience = 10;

  ScheduleKind kind_;
  ScheduleConfig config_;
  int64_t total_;
  int64_t warmup_;
  double plateau_factor_ = 1;
  double best_ = 0;
  int64_t bad_ = 0;
  bool seen_ = false;
};

}  // namespace graft::trainer
