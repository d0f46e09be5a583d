#include "client/cli/chart.h"

#include <zlib.h>

#include <cmath>
#include <cstring>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::cli {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

Chart TwoPanels() {
  return {.title = "a <job>",
          .panels = {{"loss", {{"train", {{1, 3}, {2, 2}, {3, NAN}, {4, 1}}}, {"val", {{4, 1.5}}}}},
                     {"lr, as set", {{"train", {{1, 1e-4}, {4, 0}}}}}}};
}

uint32_t NumberAt(const std::string& bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

TEST(TicksTest, AreRoundAndInside) {
  EXPECT_THAT(Ticks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(Ticks(0.13, 0.32, 2), ElementsAre(DoubleEq(0.2), DoubleEq(0.3)));
}

TEST(ChartTest, SvgEscapesNamesAndSkipsWhatIsNotFinite) {
  const std::string svg = RenderSvg(TwoPanels());
  EXPECT_THAT(svg, StartsWith("<svg "));
  EXPECT_THAT(svg, HasSubstr("a &lt;job&gt;"));
  EXPECT_THAT(svg, HasSubstr(">val</text>"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_EQ(svg, RenderSvg(TwoPanels()));
}

TEST(ChartTest, PngHoldsEveryPixelAndItsSumsAreRight) {
  const std::string png = RenderPng(TwoPanels());
  ASSERT_EQ(png.substr(1, 3), "PNG");
  const uint32_t width = NumberAt(png, 16), height = NumberAt(png, 20);
  const uint32_t packed = NumberAt(png, 33);
  ASSERT_EQ(png.substr(37, 4), "IDAT");
  EXPECT_EQ(NumberAt(png, 41 + packed),
            crc32(0, reinterpret_cast<const Bytef*>(png.data()) + 37, packed + 4));
  std::string raw((width * 3 + 1) * height, '\0');
  uLongf size = raw.size();
  ASSERT_EQ(uncompress(reinterpret_cast<Bytef*>(raw.data()), &size,
                       reinterpret_cast<const Bytef*>(png.data()) + 41, packed),
            Z_OK);
  EXPECT_EQ(size, raw.size());
  // The first curve's colour was used.
  EXPECT_THAT(raw, HasSubstr(std::string("\x00\x72\xb2", 3)));
}

TEST(ChartTest, CsvHasALineAPointAndQuotesCommas) {
  EXPECT_THAT(RenderCsv(TwoPanels()),
              StartsWith("panel,curve,step,value\nloss,train,1,3\nloss,train,2,2\n"));
  EXPECT_THAT(RenderCsv(TwoPanels()), HasSubstr("\n\"lr, as set\",train,4,0\n"));
}

TEST(ChartTest, AnEmptyPanelIsDrawnEmpty) {
  EXPECT_THAT(RenderSvg({.title = "t", .panels = {{"loss", {}}}}), HasSubstr("</svg>"));
}

}  // namespace
}  // namespace graft::cli
