#include "worker/spec/dtype.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::spec {
namespace {

using ::testing::HasSubstr;

// From gguf-py; see tests/parity/spec/make_quants.py.
TEST(DTypeTest, WidensBlocksAsGgufPyDoes) {
  const char* root = std::getenv("GRAFT_SOURCE_DIR");
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const std::string text,
      ReadFile(absl::StrCat(root == nullptr ? "." : root, "/tests/parity/spec/quants.json")));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json cases, Json::Parse(text));
  int types = 0;
  for (int t = 0; t <= static_cast<int>(DType::kMxfp4); ++t) {
    const DType type = static_cast<DType>(t);
    for (const Json& c : cases.as_array()) {
      if (c.GetString("type") != DTypeName(type)) continue;
      ++types;
      const std::string bytes = absl::HexStringToBytes(c.GetString("bytes"));
      const Json::Array& want = c.Find("values")->as_array();
      const int64_t n = static_cast<int64_t>(want.size());
      ASSERT_EQ(BytesOf(type, n), static_cast<int64_t>(bytes.size())) << DTypeName(type);
      std::vector<float> got(want.size());
      ToFloat(type, bytes.data(), n, got.data());
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_NEAR(got[i], want[i].as_double(), 1e-6 * std::fabs(want[i].as_double()) + 1e-9)
            << DTypeName(type) << " " << i;
      }
    }
  }
  EXPECT_EQ(types, 9);
}

TEST(DTypeTest, EveryHalfSurvivesTheWayThereAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float wide = HalfToFloat(half);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(wide))));
      continue;
    }
    ASSERT_EQ(FloatToHalf(wide), half) << bits;
  }
}

TEST(DTypeTest, RoundsToNearestEven) {
  EXPECT_EQ(FloatToHalf(1.0f + 1.0f / 2048), FloatToHalf(1.0f));  // half way: to even
  EXPECT_EQ(FloatToHalf(1.0f + 3.0f / 2048), FloatToHalf(1.0f + 4.0f / 2048));
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(std::ldexp(1.0f, -25)), 0);  // half way to the smallest
  EXPECT_EQ(FloatToHalf(std::ldexp(1.5f, -25)), 1);
  EXPECT_EQ(FloatToBfloat16(1.0f + 1.0f / 256), FloatToBfloat16(1.0f));
  EXPECT_EQ(FloatToBfloat16(1.0f + 3.0f / 256), FloatToBfloat16(1.0f + 4.0f / 256));
  EXPECT_TRUE(std::isnan(Bfloat16ToFloat(FloatToBfloat16(std::nanf("")))));
  EXPECT_EQ(Bfloat16ToFloat(FloatToBfloat16(-std::numeric_limits<float>::infinity())),
            -std::numeric_limits<float>::infinity());
}

TEST(DTypeTest, WidensFloat8) {
  const unsigned char e4m3[] = {0x00, 0x01, 0x38, 0x7e, 0xb8};
  float got[5];
  ToFloat(DType::kF8E4M3, reinterpret_cast<const char*>(e4m3), 5, got);
  EXPECT_EQ(got[0], 0);
  EXPECT_EQ(got[1], std::ldexp(1.0f, -9));
  EXPECT_EQ(got[2], 1);
  EXPECT_EQ(got[3], 448);
  EXPECT_EQ(got[4], -1);
  const unsigned char e5m2[] = {0x3c, 0x7b};
  ToFloat(DType::kF8E5M2, reinterpret_cast<const char*>(e5m2), 2, got);
  EXPECT_EQ(got[0], 1);
  EXPECT_EQ(got[1], 57344);
}

TEST(DTypeTest, KnowsTheNamesOfSafetensors) {
  EXPECT_EQ(*DTypeFromSafetensors("BF16"), DType::kBF16);
  EXPECT_EQ(*DTypeFromSafetensors("F8_E4M3"), DType::kF8E4M3);
  EXPECT_THAT(DTypeFromSafetensors("Q4_0"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"Q4_0\"")));
}

}  // namespace
}  // namespace graft::spec
