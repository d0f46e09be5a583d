// What a job's specification says reaches the trainer, and what does not is refused by name.
#include "scheduler/service/run_json.h"

#include <functional>

#include "base/json.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/service/job_spec.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using ::testing::HasSubstr;

v1::JobSpec Spec() {
  v1::JobSpec spec;
  spec.mutable_model()->set_base("workspaces/default/models/base");
  spec.mutable_dataset()->add_training()->set_fileset("workspaces/default/filesets/rows");
  return spec;
}

v1::JobSpec OnTwoRanks(v1::FinetuningType type) {
  v1::JobSpec spec = Spec();
  spec.mutable_tuning()->set_type(type);
  spec.mutable_parallelism()->set_gpus_per_node(2);
  return spec;
}

Json RunOf(const v1::JobSpec& spec) {
  const SpecCheck check = ResolveSpec(spec, 1);
  EXPECT_TRUE(check.violations.empty()) << ViolationsStatus(check.violations);
  return *Json::Parse(RunJson(check.resolved, LayoutOf(check.resolved)));
}

int64_t ZeroOfRun(const v1::JobSpec& spec) {
  return RunOf(spec).Find("parallelism")->GetInt("zero");
}

TEST(RunJsonTest, StatesAreDividedAsAskedAndWhereItCostsNothing) {
  v1::JobSpec all = OnTwoRanks(v1::FINETUNING_TYPE_ALL_WEIGHTS);
  EXPECT_EQ(ZeroOfRun(all), 1);
  all.mutable_parallelism()->set_shard_optimizer(false);
  EXPECT_EQ(ZeroOfRun(all), 0);
  all.mutable_parallelism()->set_shard_weights(true);
  EXPECT_EQ(ZeroOfRun(all), 3);
  v1::JobSpec lora = OnTwoRanks(v1::FINETUNING_TYPE_LORA);
  EXPECT_EQ(ZeroOfRun(lora), 0);
  lora.mutable_parallelism()->set_shard_optimizer(true);
  EXPECT_EQ(ZeroOfRun(lora), 1);
}

TEST(RunJsonTest, WhatCannotBeDividedIsRefusedByItsField) {
  v1::JobSpec spec = OnTwoRanks(v1::FINETUNING_TYPE_LORA);
  spec.mutable_parallelism()->set_shard_weights(true);
  EXPECT_THAT(ViolationsStatus(ResolveSpec(spec, 1).violations),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("spec.parallelism.shard_weights divides weights")));
  spec = OnTwoRanks(v1::FINETUNING_TYPE_ALL_WEIGHTS);
  spec.mutable_parallelism()->set_shard_optimizer(true);
  spec.mutable_optimizer()->set_kind(v1::OptimizerSection::KIND_ADAFACTOR);
  EXPECT_THAT(ViolationsStatus(ResolveSpec(spec, 1).violations),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("adafactor")));
}

TEST(RunJsonTest, SmoothedLabelsAndNoiseReachTheTrainer) {
  v1::JobSpec spec = Spec();
  EXPECT_EQ(RunOf(spec).Find("sft")->GetDouble("label_smoothing", -1), 0);
  spec.mutable_method()->mutable_sft()->set_label_smoothing(0.1);
  spec.mutable_method()->mutable_sft()->set_neftune_noise_alpha(5);
  EXPECT_EQ(RunOf(spec).Find("sft")->GetDouble("label_smoothing"), 0.1);
  EXPECT_EQ(RunOf(spec).Find("sft")->GetDouble("neftune_noise_alpha"), 5);
}

TEST(RunJsonTest, AStableScheduleHasItsDecay) {
  v1::JobSpec spec = Spec();
  spec.mutable_optimizer()->set_lr_schedule(v1::OptimizerSection::LR_SCHEDULE_WARMUP_STABLE_DECAY);
  EXPECT_EQ(RunOf(spec).Find("schedule")->GetDouble("decay_ratio"), 0.2);
  spec.mutable_compute()->set_offload_activations(true);
  EXPECT_EQ(RunOf(spec).GetString("activation_checkpointing"), "offload");
}

TEST(RunJsonTest, RowsAnsweredWhileItTrainsAreAskedForOnDemand) {
  v1::JobSpec spec = Spec();
  spec.mutable_evaluation()->set_sample_rows(3);
  spec.mutable_evaluation()->set_max_new_tokens(40);
  const Json run = RunOf(spec);
  EXPECT_EQ(run.Find("evaluation")->GetInt("sample_rows"), 3);
  EXPECT_EQ(run.Find("evaluation")->GetInt("sample_tokens"), 40);
}

TEST(RunJsonTest, IntervalsAreStepsEpochsOrTime) {
  v1::JobSpec spec = Spec();
  Json run = RunOf(spec);
  EXPECT_EQ(run.Find("checkpoint")->GetDouble("interval_seconds"), 600);
  EXPECT_EQ(run.Find("checkpoint")->GetDouble("interval_epochs"), 1);
  auto& checkpoints = *spec.mutable_schedule()->mutable_checkpoint_interval();
  auto& validation = *spec.mutable_schedule()->mutable_val_check_interval();
  checkpoints.mutable_time()->set_seconds(90);
  validation.set_epochs(0.25);
  run = RunOf(spec);
  EXPECT_EQ(run.Find("checkpoint")->GetDouble("interval_seconds"), 90);
  EXPECT_EQ(run.Find("checkpoint")->GetDouble("interval_epochs"), 0);
  EXPECT_EQ(run.Find("evaluation")->GetDouble("interval_epochs"), 0.25);
  checkpoints.set_steps(7);
  run = RunOf(spec);
  EXPECT_EQ(run.Find("checkpoint")->GetInt("interval"), 7);
  EXPECT_EQ(run.Find("checkpoint")->GetDouble("interval_seconds"), 0);

  validation.mutable_time()->set_seconds(5);
  EXPECT_THAT(ViolationsStatus(ResolveSpec(spec, 1).violations),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("spec.schedule.val_check_interval is steps or epochs")));
  validation.set_epochs(1);
  checkpoints.set_steps(0);
  EXPECT_THAT(ViolationsStatus(ResolveSpec(spec, 1).violations),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("spec.schedule.checkpoint_interval is not above 0")));
}

TEST(RunJsonTest, WhatThisBuildLacksIsRefusedByName) {
  const std::pair<const char*, std::function<void(v1::JobSpec&)>> asked[] = {
      {"spec.schedule.early_stopping.metric",
       [](v1::JobSpec& spec) {
         spec.mutable_schedule()->mutable_early_stopping()->set_metric("-exact_match");
       }},
      {"spec.tuning.lora.init",
       [](v1::JobSpec& spec) {
         spec.mutable_tuning()->mutable_lora()->set_init(v1::Lora::INIT_PISSA);
       }},
      {"spec.evaluation.evaluations",
       [](v1::JobSpec& spec) {
         spec.mutable_evaluation()->add_evaluations("workspaces/default/evaluations/e1");
       }},
      {"spec.parallelism.sequence_parallel",
       [](v1::JobSpec& spec) { spec.mutable_parallelism()->set_sequence_parallel(false); }}};
  for (const auto& [field, ask] : asked) {
    v1::JobSpec spec = Spec();
    ask(spec);
    const SpecCheck check = ResolveSpec(spec, 1);
    ASSERT_FALSE(check.violations.empty()) << field;
    EXPECT_THAT(ViolationsStatus(check.violations),
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(field)));
  }
}

TEST(RunJsonTest, WhatIsLeftOutOfAdaptersPacksAndPatienceReachesTheTrainer) {
  v1::JobSpec spec = Spec();
  v1::Lora& lora = *spec.mutable_tuning()->mutable_lora();
  lora.add_exclude_modules("down_proj");
  lora.add_layers_to_transform(3);
  lora.set_init(v1::Lora::INIT_GAUSSIAN);
  spec.mutable_batch()->set_packing_max_samples(2);
  v1::EarlyStopping& early = *spec.mutable_schedule()->mutable_early_stopping();
  early.set_patience(2);
  early.set_patience_unit(v1::EarlyStopping::PATIENCE_UNIT_EPOCHS);
  const Json run = RunOf(spec);
  const Json& tuning = *run.Find("tuning");
  EXPECT_EQ(tuning.Find("exclude_modules")->Dump(), R"(["down_proj"])");
  EXPECT_EQ(tuning.Find("layers_to_transform")->Dump(), "[3]");
  EXPECT_EQ(tuning.GetString("init"), "gaussian");
  EXPECT_EQ(run.Find("dataset")->GetInt("packing_max_samples"), 2);
  EXPECT_EQ(run.Find("evaluation")->GetInt("patience_epochs"), 2);
  EXPECT_EQ(run.Find("evaluation")->Find("patience"), nullptr);
}

}  // namespace
}  // namespace graft::scheduler
