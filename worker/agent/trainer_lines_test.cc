#include "worker/agent/trainer_lines.h"

#include "gtest/gtest.h"

namespace graft::agent {
namespace {

TEST(TrainerLinesTest, ASampleIsOneLineWithItsAnswerWhole) {
  EXPECT_EQ(SampleText({.step = 50, .row = 12, .prompt = "user: why\n\nis it?", .text = "so\n"}),
            "sample, step 50, validation row 12: \"user: why is it?\" → \"so\"");
  const std::string answer(1000, 'a');
  EXPECT_EQ(SampleText({.step = 1, .prompt = "p", .text = answer, .wanted = "w"}),
            "sample, step 1: \"p\" → \"" + answer + "\", wanted \"w\"");
}

TEST(TrainerLinesTest, ALongQuestionIsCutBetweenCharacters) {
  std::string prompt = "x";
  for (int i = 0; i < 200; ++i) prompt += "é";
  std::string shown = "x";
  for (int i = 0; i < 99; ++i) shown += "é";
  EXPECT_EQ(SampleText({.step = 1, .prompt = prompt, .text = "t"}),
            "sample, step 1: \"" + shown + "…\" → \"t\"");
}

}  // namespace
}  // namespace graft::agent
