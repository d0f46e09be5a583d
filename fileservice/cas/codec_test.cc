#include "fileservice/cas/codec.h"

#include <cmath>
#include <cstring>

#include "base/digest.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

// bf16 weights of a normal distribution, and the same after steps of training.
struct Drift {
  std::string before;
  std::string after;
};
Drift MakeDrift(size_t count, float step) {
  SeededRandom random(5);
  const auto normal = [&random] {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += random.UniformDouble();
    return static_cast<float>(sum - 6);
  };
  const auto append = [](float value, std::string& out) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    out.push_back(static_cast<char>(bits));
    out.push_back(static_cast<char>(bits >> 8));
  };
  Drift drift;
  for (size_t i = 0; i < count; ++i) {
    const float weight = normal() * 0.02F;
    append(weight, drift.before);
    append(weight + normal() * step, drift.after);
  }
  return drift;
}

TEST(CodecTest, ADeltaGivesItsBytesAgainWhateverWidthAndLength) {
  SeededRandom random(1);
  for (const size_t size : {1, 2, 7, 4096, 70'001}) {
    const std::string base = random.Bytes(size);
    std::string raw = base;
    for (size_t i = 0; i < size; i += 40) raw[i] = static_cast<char>(raw[i] + 1);
    for (const int width : {1, 2, 4, 8}) {
      for (const size_t base_size : {size, size / 2}) {
        const absl::string_view used = absl::string_view(base).substr(0, base_size);
        const std::string packed = EncodeDelta(raw, used, width);
        if (packed.empty()) continue;
        std::string out(size, '\0');
        ASSERT_THAT(DecodeDelta(packed, used, size, out.data()), IsOk());
        EXPECT_EQ(out, raw) << size << " " << width;
      }
    }
  }
}

TEST(CodecTest, TrainingStepsTakeAThirdOfTheBytes) {
  const Drift drift = MakeDrift(1 << 20, 1.4e-4F);  // 200 Adam steps at 1e-5
  const std::string packed = EncodeDelta(drift.after, drift.before, 2);
  EXPECT_LT(static_cast<double>(packed.size()), 0.28 * static_cast<double>(drift.after.size()));
  EXPECT_GT(packed.size(), 0u);
}

TEST(CodecTest, WhatDoesNotGetSmallerIsNotADelta) {
  SeededRandom random(2);
  EXPECT_EQ(EncodeDelta(random.Bytes(50'000), random.Bytes(50'000), 2), "");
}

TEST(CodecTest, DamagedDeltasAreRefused) {
  const Drift drift = MakeDrift(1000, 1e-5F);
  const std::string packed = EncodeDelta(drift.after, drift.before, 2);
  std::string out(drift.after.size(), '\0');
  const auto decode = [&](const std::string& stored) {
    return DecodeDelta(stored, drift.before, out.size(), out.data());
  };
  EXPECT_THAT(decode(""), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(decode(packed.substr(0, packed.size() - 1)), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(decode('\3' + packed.substr(1)), StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(DecodeDelta(packed, drift.before, out.size() - 2, out.data()),
              StatusIs(absl::StatusCode::kDataLoss));
}

// Written in packs: the bytes may never change.
TEST(CodecTest, TheDeltaOfFourNumbersIsFixed) {
  const std::string base("\x10\x00\x20\x00\x00\x80\xff\x7f", 8);
  const std::string raw("\x11\x00\x1f\x00\x00\x80\x00\x80", 8);
  // Differences 1, -1, 0, 1: folded 2, 1, 0, 2; the high plane is zero.
  const std::string planes("\0\0\0\0\2\1\0\2", 8);
  std::string long_base, long_raw;
  for (int i = 0; i < 64; ++i) {
    long_base += base;
    long_raw += raw;
  }
  const std::string packed = EncodeDelta(long_raw, long_base, 2);
  ASSERT_FALSE(packed.empty());
  EXPECT_EQ(packed[0], 2);
  std::string out(long_raw.size(), '\0');
  ASSERT_THAT(Decompress(absl::string_view(packed).substr(1), out.size(), out.data()), IsOk());
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(out.substr(static_cast<size_t>(i) * 4, 4), planes.substr(0, 4));
    EXPECT_EQ(out.substr(256 + static_cast<size_t>(i) * 4, 4), planes.substr(4));
  }
}

}  // namespace
}  // namespace graft::fileservice
