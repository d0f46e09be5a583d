#include "client/graft/job_file.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::client {
namespace {

using ::testing::HasSubstr;

constexpr absl::string_view kJob = R"(
name: tickets-v1
description: "answers support tickets"
model: smollm2
dataset:
  training: tickets
  loss_on: answers
method: sft
tuning:
  type: lora
  lora: {rank: 8, alpha: 16, target_modules: [q_proj, v_proj]}
schedule:
  epochs: 3
  val_check_interval: 0.25
  checkpoint_interval: 100
  early_stopping: {patience: 5}
optimizer:
  learning_rate: 2e-4
  lr_schedule: cosine
resources:
  time_limit: 1h30m
)";

TEST(JobFileTest, ReadsAJobWithItsShortForms) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const JobFile file, ParseJobFile(kJob, "job.yaml"));
  EXPECT_EQ(file.job_id, "tickets-v1");
  const v1::JobSpec& spec = file.job.spec();
  EXPECT_EQ(spec.model().base(), "smollm2");
  EXPECT_EQ(spec.dataset().training(0).fileset(), "tickets");
  EXPECT_EQ(spec.dataset().loss_on(), v1::DatasetSection::LOSS_ON_ANSWERS);
  EXPECT_TRUE(spec.method().has_sft());
  EXPECT_EQ(spec.tuning().type(), v1::FINETUNING_TYPE_LORA);
  EXPECT_EQ(spec.tuning().lora().rank(), 8);
  EXPECT_EQ(spec.tuning().lora().target_modules_size(), 2);
  EXPECT_EQ(spec.schedule().val_check_interval().epochs(), 0.25);
  EXPECT_EQ(spec.schedule().checkpoint_interval().steps(), 100);
  EXPECT_EQ(spec.optimizer().learning_rate(), 2e-4);
  EXPECT_EQ(spec.resources().time_limit().seconds(), 5400);
}

TEST(JobFileTest, JsonIsReadByTheSameRules) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const JobFile file,
      ParseJobFile(R"({"model": {"base": "m"}, "schedule": {"max_steps": 5}})", "job.json"));
  EXPECT_EQ(file.job.spec().schedule().max_steps(), 5);
}

struct BadCase {
  const char* text;
  const char* message;
};

class BadJobFileTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadJobFileTest, SaysWhereAndWhatWasMeant) {
  EXPECT_THAT(ParseJobFile(GetParam().text, "job.yaml"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadJobFileTest,
    ::testing::Values(
        BadCase{"model: m\noptimiser: {}\n",
                "job.yaml:2:1: unknown key \"optimiser\"; did you mean \"optimizer\"?"},
        BadCase{"tuning:\n  lora:\n    rnak: 8\n",
                "job.yaml:3:5: tuning.lora: unknown key \"rnak\"; did you mean \"rank\"?"},
        BadCase{"tuning: {type: lorra}\n",
                "tuning.type: unknown value \"lorra\"; did you mean \"lora\"?"},
        BadCase{"schedule: {max_steps: many}\n",
                "schedule.max_steps: expected a whole number, not \"many\""},
        BadCase{"batch: {sequence_packing: perhaps}\n", "expected true or false"},
        BadCase{"method: {sft: {}, dpo: {}}\n", "only one of the alternatives"},
        BadCase{"method: sfft\n", "did you mean \"sft\"?"},
        BadCase{"model: a\nmodel: b\n", "stands here twice"},
        BadCase{"resources: {time_limit: soon}\n", "expected a duration"},
        BadCase{"model: [\n", "job.yaml:"}, BadCase{"- a\n", "a job file is a map"}));

TEST(SetFieldTest, SetsByPathAndTeaches) {
  v1::JobSpec spec;
  EXPECT_THAT(SetField("optimizer.learning_rate", "1e-4", spec), IsOk());
  EXPECT_EQ(spec.optimizer().learning_rate(), 1e-4);
  EXPECT_THAT(SetField("tuning.lora.target_modules", "[a, b]", spec), IsOk());
  EXPECT_THAT(SetField("tuning.lora.target_modules", "[c]", spec), IsOk());
  EXPECT_EQ(spec.tuning().lora().target_modules_size(), 1);
  EXPECT_THAT(
      SetField("optimizer.learningrate", "1", spec),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("did you mean \"learning_rate\"?")));
}

}  // namespace
}  // namespace graft::client
