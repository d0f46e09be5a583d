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

TEST(TrainerLinesTest, AWarningTellsItsStep) {
  EXPECT_EQ(WarningOf({.code = "STEP_SKIPPED", .message = "m", .step = 7}).message(), "step 7: m");
  EXPECT_EQ(WarningOf({.code = "PRECISION", .message = "m"}).message(), "m");
}

TEST(TrainerLinesTest, LinesOfARanksOwnLogBecomeWordsWithASeverity) {
  using Entry = graft::v1::LogEntry;
  const Printed printed =
      ReadPrinted(R"({"time":"2026-01-01T00:00:00Z","level":"warning","program":"graft-trainer",)"
                  R"("message":"the ranks' store does not answer","why":"Broken pipe"})");
  EXPECT_EQ(printed.severity, Entry::SEVERITY_WARNING);
  EXPECT_EQ(printed.text, "the ranks' store does not answer  why=Broken pipe");
  for (const std::string line : {"{\"a\":1}", "{", "", "Killed", "[1]"}) {
    EXPECT_EQ(ReadPrinted(line).severity, Entry::SEVERITY_INFO);
    EXPECT_EQ(ReadPrinted(line).text, line);
  }
}

}  // namespace
}  // namespace graft::agent
