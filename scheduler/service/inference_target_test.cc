#include "scheduler/service/inference_target.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class InferenceTargetTest : public ::testing::Test {
 protected:
  InferenceTargetTest() {
    target_.name = "workspaces/w/models/m/adapters/a";
    target_.model.mutable_spec()->set_chat_template("{{ messages }}");
    target_.adapter.emplace();
  }
  v1::ChatRequest Question() {
    v1::ChatRequest request;
    v1::ChatMessage& message = *request.add_messages();
    message.set_role("user");
    message.set_content("hello");
    return request;
  }

  SeededRandom random_{1};
  InferenceTarget target_;
};

TEST_F(InferenceTargetTest, WhatIsNotAskedComesFromTheAdapterThenTheModelThenTheContract) {
  target_.adapter->mutable_prompt()->set_temperature(0.25);
  target_.model.mutable_prompt()->set_temperature(0.5);
  target_.model.mutable_prompt()->set_top_k(7);
  target_.model.mutable_prompt()->add_stop("END");
  v1::GenerationConfig asked;
  asked.set_max_tokens(9);
  GRAFT_ASSERT_OK_AND_ASSIGN(const v1::GenerationConfig config,
                             ResolveConfig(asked, target_, random_));
  EXPECT_EQ(config.max_tokens(), 9);
  EXPECT_EQ(config.temperature(), 0.25);
  EXPECT_EQ(config.top_k(), 7);
  EXPECT_EQ(config.top_p(), 1);
  EXPECT_THAT(config.stop(), ElementsAre("END"));
  EXPECT_TRUE(config.has_seed());
}

TEST_F(InferenceTargetTest, ValuesOutOfBoundsAreNamed) {
  v1::GenerationConfig asked;
  asked.set_temperature(3);
  EXPECT_THAT(ResolveConfig(asked, target_, random_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("config.temperature is 3")));
  asked.clear_temperature();
  asked.set_logprobs(2);
  EXPECT_THAT(ResolveConfig(asked, target_, random_),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("config.logprobs")));
}

TEST_F(InferenceTargetTest, TheDefaultSystemPromptIsPutFirstUnlessThereIsOne) {
  target_.model.mutable_prompt()->set_system_prompt("of the model");
  target_.adapter->mutable_prompt()->set_system_prompt("of the adapter");
  v1::ChatRequest request = Question();
  GRAFT_ASSERT_OK_AND_ASSIGN(v1::ChatRequest resolved, ResolveChat(request, target_, random_));
  ASSERT_EQ(resolved.messages_size(), 2);
  EXPECT_EQ(resolved.messages(0).content(), "of the adapter");
  EXPECT_EQ(resolved.messages(1).content(), "hello");
  request.add_messages()->set_role("system");
  GRAFT_ASSERT_OK_AND_ASSIGN(resolved, ResolveChat(request, target_, random_));
  EXPECT_EQ(resolved.messages_size(), 2);
}

TEST_F(InferenceTargetTest, AModelWithoutATemplateNamesTheCommandThatAsksIt) {
  target_.model.mutable_spec()->clear_chat_template();
  EXPECT_THAT(ResolveChat(Question(), target_, random_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("graft complete")));
}

TEST_F(InferenceTargetTest, AnUnknownRoleIsNamed) {
  v1::ChatRequest request = Question();
  request.mutable_messages(0)->set_role("boss");
  EXPECT_THAT(ResolveChat(request, target_, random_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("messages[0].role")));
}

TEST_F(InferenceTargetTest, AnAdapterOfOtherRowsWarnsAndNamesTheOtherCommand) {
  target_.adapter->set_row_format(v1::DatasetSection::FORMAT_PROMPT_COMPLETION);
  const auto warnings = WarningsFor(target_, true);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_THAT(warnings[0].message(), HasSubstr("graft complete m+a"));
  EXPECT_THAT(WarningsFor(target_, false), IsEmpty());
  target_.adapter->set_row_format(v1::DatasetSection::FORMAT_CHAT);
  EXPECT_THAT(WarningsFor(target_, true), IsEmpty());
  ASSERT_EQ(WarningsFor(target_, false).size(), 1u);
  EXPECT_THAT(WarningsFor(target_, false)[0].message(), HasSubstr("graft chat m+a"));
}

}  // namespace
}  // namespace graft::scheduler
