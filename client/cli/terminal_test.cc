#include "client/cli/terminal.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::cli {
namespace {

using ::testing::HasSubstr;

TEST(TerminalTest, WidthCountsColumnsNotBytes) {
  EXPECT_EQ(DisplayWidth("abc"), 3);
  EXPECT_EQ(DisplayWidth("日本"), 4);
  EXPECT_EQ(DisplayWidth("\x1b[31mred\x1b[0m"), 3);
  EXPECT_EQ(DisplayWidth("e\xcc\x81"), 1);
  EXPECT_EQ(CutToWidth("abcdef", 4), "abc…");
  EXPECT_EQ(CutToWidth("日本語", 4), "日…");
}

TEST(TerminalTest, NothingFromElsewhereReachesTheTerminalAsACommand) {
  EXPECT_EQ(Sanitize("a\x1b[2Jb\nc\xe2\x80\xae"), "a?[2Jb?c?");
  EXPECT_EQ(Sanitize("a\nb", /*keep_newlines=*/true), "a\nb");
}

TEST(TerminalTest, ATableAlignsItsColumns) {
  Table table({"NAME", "STEPS"});
  table.AlignRight(1);
  table.Add({"a", "5"});
  table.Add({"longer", "1000"});
  EXPECT_EQ(table.Render(Terminal()), "NAME    STEPS\na           5\nlonger   1000\n");
}

TEST(TerminalTest, NumbersReadWell) {
  EXPECT_EQ(FormatBytes(93'400'000), "93.4 MB");
  EXPECT_EQ(FormatBytes(12), "12 B");
  EXPECT_EQ(FormatCount(134'515'008), "134.5M");
  EXPECT_EQ(HumanDuration(absl::Seconds(65)), "1m 05s");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(1500)), "1.5s");
  EXPECT_EQ(HumanAge(absl::Hours(49)), "2d");
}

TEST(TerminalTest, ACurveShowsItsRange) {
  std::vector<Point> points;
  for (int i = 0; i < 50; ++i) points.push_back({static_cast<double>(i), 3.0 - i * 0.05});
  const std::string curve = RenderCurve(Terminal(), points, 6);
  EXPECT_THAT(curve, HasSubstr("3 │"));
  EXPECT_THAT(curve, HasSubstr("0.55 │"));
  EXPECT_EQ(RenderCurve(Terminal(), {{0, 1}}, 6), "");
}

TEST(TerminalTest, AFullBarIsFullOnlyWhenAllIsDone) {
  EXPECT_THAT(RenderProgress(Terminal(), {.label = "x", .done = 999, .total = 1000}),
              HasSubstr("99 %"));
  EXPECT_THAT(RenderProgress(Terminal(), {.label = "x", .done = 1000, .total = 1000}),
              HasSubstr("100 %"));
}

TEST(WrapToWidthTest, CutsBetweenWordsAndSaysThatSomethingIsLeft) {
  using ::testing::ElementsAre;
  EXPECT_THAT(WrapToWidth("", 10, 3), ::testing::IsEmpty());
  EXPECT_THAT(WrapToWidth("ten columns", 11, 3), ElementsAre("ten columns"));
  EXPECT_THAT(WrapToWidth("one two three", 7, 3), ElementsAre("one two", "three"));
  EXPECT_THAT(WrapToWidth("one two three", 9, 3), ElementsAre("one two", "three"));
  EXPECT_THAT(WrapToWidth("abcdefgh", 3, 9), ElementsAre("abc", "def", "gh"));
  EXPECT_THAT(WrapToWidth("one two three four", 5, 2), ElementsAre("one", "two …"));
  EXPECT_THAT(WrapToWidth("日本語", 4, 9), ElementsAre("日本", "語"));
}

}  // namespace
}  // namespace graft::cli
