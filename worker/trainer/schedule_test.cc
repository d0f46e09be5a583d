#include "worker/trainer/schedule.h"

#include <algorithm>

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/trainer/sampler.h"

namespace graft::trainer {
namespace {

using ::testing::HasSubstr;

double FactorAt(const std::string& kind, int64_t step, ScheduleConfig config = {}) {
  config.kind = kind;
  config.warmup_steps = 10;
  auto schedule = Schedule::Create(config, 100);
  return schedule.ok() ? schedule->Factor(step) : -1;
}

TEST(ScheduleTest, NumbersAreThoseOfTransformers) {
  EXPECT_DOUBLE_EQ(FactorAt("linear", 5), 0.5);
  EXPECT_DOUBLE_EQ(FactorAt("linear", 55), 0.5);
  EXPECT_DOUBLE_EQ(FactorAt("linear", 100), 0);
  EXPECT_NEAR(FactorAt("cosine", 55), 0.5, 1e-12);
  EXPECT_NEAR(FactorAt("cosine", 100), 0, 1e-12);
  EXPECT_DOUBLE_EQ(FactorAt("constant", 0), 1);
  EXPECT_DOUBLE_EQ(FactorAt("constant_with_warmup", 3), 0.3);
  EXPECT_DOUBLE_EQ(FactorAt("inverse_sqrt", 40), 0.5);
  EXPECT_NEAR(FactorAt("cosine_with_restarts", 55), 0.5, 1e-12);
  EXPECT_NEAR(FactorAt("polynomial", 55), 0.5 + 0.5 * 1e-7 / 2e-4, 1e-9);
  ScheduleConfig least;
  least.min_lr_rate = 0.1;
  least.decay_steps = 30;
  EXPECT_NEAR(FactorAt("cosine_with_min_lr", 100, least), 0.1, 1e-12);
  EXPECT_NEAR(FactorAt("cosine_warmup_with_min_lr", 4, least), 0.5, 1e-12);
  EXPECT_DOUBLE_EQ(FactorAt("warmup_stable_decay", 69, least), 1);
  EXPECT_NEAR(FactorAt("warmup_stable_decay", 85, least), 0.55, 1e-12);
  EXPECT_DOUBLE_EQ(FactorAt("warmup_stable_decay", 100, least), 0.1);
  least.decay_steps = 0;
  least.decay_ratio = 0.3;
  EXPECT_NEAR(FactorAt("warmup_stable_decay", 85, least), 0.55, 1e-12);
}

TEST(ScheduleTest, AnUnknownNameIsRefusedWithTheKnownOnes) {
  ScheduleConfig config;
  config.kind = "triangle";
  EXPECT_THAT(Schedule::Create(config, 10),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("warmup_stable_decay")));
}

TEST(ScheduleTest, APlateauDividesTheRateByTen) {
  ScheduleConfig config;
  config.kind = "reduce_lr_on_plateau";
  GRAFT_ASSERT_OK_AND_ASSIGN(Schedule schedule, Schedule::Create(config, 10));
  schedule.ObserveValidation(1.0);
  for (int i = 0; i < 10; ++i) schedule.ObserveValidation(1.0);
  EXPECT_DOUBLE_EQ(schedule.LearningRate(0), 2e-4);
  schedule.ObserveValidation(1.0);
  EXPECT_DOUBLE_EQ(schedule.LearningRate(0), 2e-5);
}

TEST(SamplerTest, GreedyTakesTheLargestAndTopPTheShortestHead) {
  const float logits[] = {0.0f, 3.0f, 1.0f, 2.9f};
  EXPECT_EQ(Sampler({}, 1).Choose(logits, 4), 1);
  Sampler narrow({.temperature = 1, .top_p = 0.4}, 1);
  Sampler two({.temperature = 1, .top_k = 2}, 1);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(narrow.Choose(logits, 4), 1);
    const int32_t chosen = two.Choose(logits, 4);
    EXPECT_TRUE(chosen == 1 || chosen == 3);
  }
}

}  // namespace
}  // namespace graft::trainer
