// Every *.txt of this folder is a test.
#include <fstream>
#include <sstream>

#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "tests/scenarios/driver.h"

namespace graft::scheduler {
namespace {

std::vector<std::string> Names() {
  std::vector<std::string> names;
  std::stringstream list(GRAFT_SCENARIOS);
  for (std::string name; std::getline(list, name, ',');) names.push_back(name);
  return names;
}

class ScenariosTest : public ::testing::TestWithParam<std::string> {};

TEST_P(ScenariosTest, GoesAsTold) {
  std::ifstream file(std::string(GRAFT_SCENARIO_FOLDER) + "/" + GetParam() + ".txt");
  std::stringstream text;
  text << file.rdbuf();
  ASSERT_FALSE(text.str().empty());
  const std::vector<std::string> wrong = Scenario().Play(text.str());
  EXPECT_TRUE(wrong.empty()) << GetParam() << ".txt\n" << absl::StrJoin(wrong, "\n");
}

INSTANTIATE_TEST_SUITE_P(All, ScenariosTest, ::testing::ValuesIn(Names()),
                         [](const auto& info) { return info.param; });

TEST(ScenarioDriverTest, WhatDoesNotGoAsToldIsSaidWithItsLine) {
  const std::vector<std::string> wrong =
      Scenario().Play("node n0 devices=1\njob w/a\nexpect w/a QUEUED\nfly away\n");
  ASSERT_EQ(wrong.size(), 2u);
  EXPECT_EQ(wrong[0].substr(0, 7), "line 3:");
  EXPECT_EQ(wrong[1], "line 4: no verb fly");
}

}  // namespace
}  // namespace graft::scheduler
