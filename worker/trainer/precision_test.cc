#include "worker/trainer/precision.h"

#include "gtest/gtest.h"
#include "worker/trainer/run_plan.h"

namespace graft::trainer {
namespace {

TEST(ChooseComputeTest, AutoIsWhatTheDeviceComputesWith) {
  EXPECT_EQ(ChooseCompute(Precision::kAuto, {.gpu = false, .bf16 = false}).precision,
            Precision::kFp32);
  EXPECT_EQ(ChooseCompute(Precision::kAuto, {.gpu = false, .bf16 = true}).precision,
            Precision::kBf16);
  EXPECT_EQ(ChooseCompute(Precision::kAuto, {.gpu = true, .bf16 = true}).precision,
            Precision::kBf16);
}

TEST(ChooseComputeTest, AutoIsFp32WhereCpusDivideTheModel) {
  constexpr DeviceTypes kCpu = {.gpu = false, .bf16 = true}, kGpu = {.gpu = true, .bf16 = true};
  for (int64_t ParallelismConfig::*axis :
       {&ParallelismConfig::tp, &ParallelismConfig::pp, &ParallelismConfig::cp}) {
    RunConfig config;
    config.parallelism.*axis = 2;
    EXPECT_EQ(ChooseCompute(WantedPrecision(config, kCpu), kCpu).precision, Precision::kFp32);
    EXPECT_EQ(ChooseCompute(WantedPrecision(config, kGpu), kGpu).precision, Precision::kBf16);
    config.precision = Precision::kBf16;
    EXPECT_EQ(WantedPrecision(config, kCpu), Precision::kBf16);
  }
  EXPECT_EQ(WantedPrecision(RunConfig(), kCpu), Precision::kAuto);
}

TEST(CheckSupportedTest, WhatManyRanksCannotDoIsRefusedByName) {
  RunConfig config;
  config.parallelism.zero = 1;
  config.optimizer.kind = OptimizerKind::kAdafactor;
  EXPECT_TRUE(CheckSupported(config).ok()) << "one rank has nothing to divide";
  config.parallelism.world = 2;
  config.parallelism.zero = 0;
  EXPECT_TRUE(CheckSupported(config).ok());
  for (int64_t ParallelismConfig::*axis :
       {&ParallelismConfig::tp, &ParallelismConfig::ep, &ParallelismConfig::zero}) {
    RunConfig divided = config;
    divided.parallelism.*axis = 2;
    EXPECT_EQ(CheckSupported(divided).code(), absl::StatusCode::kUnimplemented);
    divided.optimizer.kind = OptimizerKind::kAdamW8bit;
    EXPECT_TRUE(CheckSupported(divided).ok());
  }
}

TEST(ChooseComputeTest, AGpuWithoutBf16FallsToFp16WithAWarning) {
  for (Precision wanted : {Precision::kAuto, Precision::kBf16}) {
    const ComputeChoice choice = ChooseCompute(wanted, {.gpu = true, .bf16 = false});
    EXPECT_EQ(choice.precision, Precision::kFp16);
    EXPECT_FALSE(choice.warning.empty());
  }
}

TEST(ChooseComputeTest, WhatACpuIsSlowAtIsDoneWithAWarning) {
  const ComputeChoice choice = ChooseCompute(Precision::kBf16, {.gpu = false, .bf16 = false});
  EXPECT_EQ(choice.type(), at::kBFloat16);
  EXPECT_FALSE(choice.warning.empty());
  EXPECT_TRUE(ChooseCompute(Precision::kFp32, {}).warning.empty());
}

TEST(FrozenTypeTest, AMergedModelIsWrittenFromTheBasesOwnNumbers) {
  const ComputeChoice bf16 = {Precision::kBf16, ""};
  spec::ModelFacts facts;
  facts.precision = "F32";
  TuningConfig tuning;
  EXPECT_EQ(FrozenType(bf16, tuning, facts), at::kBFloat16);
  tuning.kind = TuningKind::kLoraMerged;
  EXPECT_EQ(FrozenType(bf16, tuning, facts), at::kFloat);
  facts.precision = "F16";
  EXPECT_EQ(FrozenType(bf16, tuning, facts), at::kHalf);
  EXPECT_EQ(FrozenType({Precision::kFp32, ""}, tuning, facts), at::kFloat);
}

TEST(LossScalerTest, HalvesAtAnOverflowAndDoublesAfterManyGoodSteps) {
  LossScaler scaler(true);
  EXPECT_FALSE(scaler.Accept(false));
  EXPECT_EQ(scaler.scale(), LossScaler::kFirstScale / 2);
  for (int64_t i = 0; i < LossScaler::kGrowAfter - 1; ++i) EXPECT_TRUE(scaler.Accept(true));
  EXPECT_EQ(scaler.scale(), LossScaler::kFirstScale / 2);
  EXPECT_TRUE(scaler.Accept(true));
  EXPECT_EQ(scaler.scale(), LossScaler::kFirstScale);
}

TEST(LossScalerTest, GoesOnAsItWasAtACheckpoint) {
  LossScaler scaler(true);
  scaler.Restore(8, LossScaler::kGrowAfter - 1);
  EXPECT_TRUE(scaler.Accept(true));
  EXPECT_EQ(scaler.scale(), 16);
}

TEST(LossScalerTest, DoesNothingWhereItIsOff) {
  LossScaler scaler(false);
  EXPECT_TRUE(scaler.Accept(false));
  scaler.Restore(8, 1);
  EXPECT_EQ(scaler.scale(), 1);
}

}  // namespace
}  // namespace graft::trainer
