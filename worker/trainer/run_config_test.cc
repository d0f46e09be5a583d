#include "worker/trainer/run_config.h"

#include <cstdlib>

#include "base/file.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/trainer/events.h"
#include "worker/trainer/generate_protocol.h"

namespace graft::trainer {
namespace {

using ::testing::HasSubstr;

RunConfig Small() {
  RunConfig config;
  config.model.path = "model";
  config.dataset.training = {"train.jsonl"};
  return config;
}

TEST(RunConfigTest, WhatIsWrittenReadsBack) {
  RunConfig config = Small();
  config.tuning.kind = TuningKind::kLoraMerged;
  config.tuning.init_seed = 17;
  config.schedule.learning_rate = 3e-4;
  config.evaluation.sample_prompts = {"a \"quoted\" one"};
  const std::string text = FormatRunConfig(config);
  GRAFT_ASSERT_OK_AND_ASSIGN(RunConfig read, ParseRunConfig(text));
  EXPECT_EQ(FormatRunConfig(read), text);
  EXPECT_EQ(read.tuning.kind, TuningKind::kLoraMerged);
  EXPECT_EQ(read.tuning.init_seed, 17);
}

// Every object of the schema lists exactly the fields that the struct has.
void CompareWithSchema(const Json& schema, const Json& fields, const std::string& path) {
  const Json* properties = schema.Find("properties");
  ASSERT_NE(properties, nullptr) << path;
  EXPECT_FALSE(schema.GetBool("additionalProperties", true)) << path;
  EXPECT_EQ(properties->as_object().size(), fields.as_object().size()) << path;
  for (const auto& [key, value] : fields.as_object()) {
    const Json* property = properties->Find(key);
    ASSERT_NE(property, nullptr) << path << "." << key << " is missing in run_schema.json";
    if (value.is_object()) {
      CompareWithSchema(*property, value, path + "." + key);
    } else if (const Json* fallback = property->Find("default"); fallback != nullptr) {
      EXPECT_EQ(fallback->Dump(), value.Dump()) << path << "." << key;
    }
  }
}

TEST(RunConfigTest, TheSchemaListsTheFieldsAndTheirDefaults) {
  const char* source = std::getenv("GRAFT_SOURCE_DIR");
  ASSERT_NE(source, nullptr);
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string text,
                             ReadFile(std::string(source) + "/worker/trainer/run_schema.json"));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json schema, Json::Parse(text));
  CompareWithSchema(schema, WriteConfig(RunConfig()), "run.json");
}

TEST(RunConfigTest, NamesThePathOfWhatIsWrong) {
  const std::string model = R"("model": {"path": "m"}, "dataset": {"training": ["t"]})";
  EXPECT_THAT(
      ParseRunConfig("{" + model + R"(, "tuning": {"rnak": 3}})"),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tuning: unknown key \"rnak\"")));
  EXPECT_THAT(ParseRunConfig("{" + model + R"(, "tuning": {"kind": "qlora"}})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lora_merged")));
  EXPECT_THAT(ParseRunConfig("{" + model + R"(, "batch": {"global": "8"}})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("batch.global")));
  EXPECT_THAT(ParseRunConfig("{" + model + R"(, "batch": {"global": 0}})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("batch.global is 0")));
}

TEST(RunConfigTest, WeightsAndLimitsAreGivenForEachSourceOrNone) {
  RunConfig config = Small();
  config.dataset.training = {"a", "b"};
  config.dataset.weights = {1};
  EXPECT_THAT(ValidateRunConfig(config),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dataset.weights has 1")));
  config.dataset.weights = {1, 0};
  EXPECT_THAT(ValidateRunConfig(config),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dataset.weights[1] is 0")));
  config.dataset.weights = {1, 0.1};
  config.dataset.limits = {0, -1};
  EXPECT_THAT(ValidateRunConfig(config),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dataset.limits[1]")));
  config.dataset.limits = {0, 5};
  EXPECT_THAT(ValidateRunConfig(config), IsOk());
}

TEST(RunConfigTest, RefusesAnotherVersion) {
  EXPECT_THAT(ParseRunConfig(R"({"version": 2})"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("version 2")));
}

TEST(RunConfigTest, WarmupIsGivenOnce) {
  RunConfig config = Small();
  config.schedule.warmup_steps = 5;
  config.schedule.warmup_ratio = 0.1;
  EXPECT_THAT(ValidateRunConfig(config),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("warmup")));
}

TEST(EventsTest, WhatIsWrittenReadsBack) {
  StepEvent step;
  step.step = 3;
  step.loss = 1.25;
  step.mfu = 0.5;
  GRAFT_ASSERT_OK_AND_ASSIGN(Event read, ParseEvent(FormatEvent(step, 12.5)));
  ASSERT_TRUE(std::holds_alternative<StepEvent>(read));
  EXPECT_EQ(std::get<StepEvent>(read).step, 3);
  EXPECT_EQ(std::get<StepEvent>(read).loss, 1.25);
  EXPECT_EQ(std::get<StepEvent>(read).mfu, 0.5);
}

TEST(EventsTest, UnknownFieldsAreIgnoredAndUnknownKindsToldApart) {
  EXPECT_THAT(ParseEvent(R"({"event":"done","step":4,"new_field":[1]})"), IsOk());
  EXPECT_THAT(ParseEvent(R"({"event":"telemetry"})"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(ParseEvent(R"({"event":"run","version":9})"),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(ParseEvent("loss 3"), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(GenerateProtocolTest, ARequestHasMessagesOrAPrompt) {
  EXPECT_THAT(ParseGenerateInput(R"({"id":"1","prompt":"x"})"), IsOk());
  EXPECT_THAT(ParseGenerateInput(R"({"id":"1","messages":[{"role":"user","content":"x"}]})"),
              IsOk());
  EXPECT_THAT(ParseGenerateInput(R"({"id":"1"})"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ParseGenerateInput(R"({"id":"1","prompt":"x","top_p":0})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("top_p")));
  GRAFT_ASSERT_OK_AND_ASSIGN(GenerateInput cancel, ParseGenerateInput(R"({"cancel":"7"})"));
  EXPECT_EQ(std::get<CancelRequest>(cancel).cancel, "7");
}

TEST(GenerateProtocolTest, RepliesReadBack) {
  GRAFT_ASSERT_OK_AND_ASSIGN(GenerateReply reply,
                             ParseGenerateReply(FormatGenerateReply(TokenReply{"1", "Par\"is"})));
  EXPECT_EQ(std::get<TokenReply>(reply).text, "Par\"is");
}

}  // namespace
}  // namespace graft::trainer
