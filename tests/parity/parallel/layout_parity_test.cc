// Every layout gives the one-rank run: ten steps of training under tensor, pipeline and data
// parallelism (ranks are threads over real Gloo) against the same steps on one rank, by loss,
// gradient norm and the numbers that are left; and runs that are saved under one layout and go on
// under another.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/parity/parallel/layout_cases.h"
#include "tests/parity/parallel/layout_run.h"
#include "worker/parallel/test_ranks.h"

namespace graft::trainer {
namespace {

class LayoutParityTest : public ::testing::TestWithParam<LayoutCase> {
 protected:
  static void SetUpTestSuite() { at::set_num_threads(1); }
  void SetUp() override {
    char name[] = "/tmp/graft_layout_parity_XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    for (const char* sub : {"one", "many", "half"}) {
      GRAFT_CHECK_OK(MakeDirectories(folder_ + "/" + sub));
    }
  }
  void TearDown() override { RemoveTree(folder_).IgnoreError(); }

  struct Tolerance {
    double loss = 1e-5;
    double norm = 1e-4;
  };
  // But for the order of sums.
  static bool IsExact(const LayoutCase& c) {
    return c.precision == Precision::kFp32 && c.optimizer != OptimizerKind::kAdamW8bit;
  }
  // Within what a number of 8 bits leaves, or of 11; blocks of 8-bit states are each layout's own.
  static Tolerance ToleranceOf(const LayoutCase& c) {
    if (c.precision == Precision::kBf16) return {.loss = 2e-2, .norm = 5e-2};
    if (!IsExact(c)) return {.loss = 5e-3, .norm = 2e-2};
    return {};
  }
  void ExpectAlike(const Curve& got, const Curve& wanted, int first, const Tolerance& tolerance) {
    for (size_t i = 0; i < got.losses.size(); ++i) {
      EXPECT_NEAR(got.losses[i], wanted.losses[i + first], tolerance.loss) << "step " << first + i;
      EXPECT_NEAR(got.norms[i] / wanted.norms[i + first], 1, tolerance.norm)
          << "step " << first + i;
    }
  }

  // The largest difference between two files' tensors, and its tensor.
  std::pair<double, std::string> Difference(const std::string& a, const std::string& b) {
    auto index = ListTensors(a);
    GRAFT_CHECK(index.ok()) << index.status();
    auto other = ListTensors(b);
    GRAFT_CHECK(other.ok()) << other.status();
    EXPECT_EQ(index->size(), other->size());
    std::pair<double, std::string> most;
    for (const auto& [name, info] : *index) {
      at::Tensor x = at::empty(info.shape), y = at::empty(info.shape);
      GRAFT_CHECK_OK(ReadTensors(a, {{name, x}}));
      GRAFT_CHECK_OK(ReadTensors(b, {{name, y}}));
      const double d = (x - y).abs().max().item<double>();
      if (!(d <= most.first)) most = {d, name};
    }
    return most;
  }

  std::string folder_;
};

TEST_P(LayoutParityTest, TenStepsAreThoseOfOneRank) {
  const LayoutCase& c = GetParam();
  const LayoutModel model = RandomModel(c);
  LayoutCase alone = c;
  alone.layout = {};
  alone.zero = 0;
  alone.chunks = 1;
  const Curve wanted = Train(model, alone, {.save_to = folder_ + "/one"});
  const Curve got = Train(model, c, {.save_to = folder_ + "/many"});
  ASSERT_EQ(got.losses.size(), static_cast<size_t>(kSteps));
  EXPECT_NE(wanted.losses[0], wanted.losses[2]) << "the same rows, and nothing was learnt";
  ExpectAlike(got, wanted, 0, ToleranceOf(c));
  if (!IsExact(c)) return;
  const auto trained =
      Difference(folder_ + "/one/trained.safetensors", folder_ + "/many/trained.safetensors");
  EXPECT_LE(trained.first, 1e-6) << trained.second;
}

INSTANTIATE_TEST_SUITE_P(Layouts, LayoutParityTest, ::testing::ValuesIn(LayoutCases()),
                         [](const auto& info) { return info.param.Name(); });

class LayoutChangeTest : public LayoutParityTest {};

TEST_P(LayoutChangeTest, ARunSavedUnderOneLayoutGoesOnUnderOthers) {
  LayoutCase c = GetParam();
  const LayoutModel model = RandomModel(c);
  LayoutCase alone = c;
  alone.layout = {};
  alone.zero = 0;
  const Curve wanted = Train(model, alone, {.save_to = folder_ + "/one"});
  const Curve whole = Train(model, c, {.save_to = folder_ + "/many"});
  Train(model, c, {.last = kSteps / 2, .save_to = folder_ + "/half"});
  const Curve same = Train(model, c, {.first = kSteps / 2, .resume_from = folder_ + "/half"});
  for (int step = kSteps / 2; step < kSteps; ++step) {
    EXPECT_EQ(same.losses[step - kSteps / 2], whole.losses[step]) << "of the same layout";
  }
  for (const spec::Layout& layout : {spec::Layout{.dp = 4}, spec::Layout{}}) {
    LayoutCase other = c;
    other.layout = layout;
    const bool shares = layout.dp > 1 && c.optimizer != OptimizerKind::kAdafactor;
    other.zero = shares ? std::max<int64_t>(c.zero, 1) : 0;
    const Curve rest = Train(
        model, other,
        {.first = kSteps / 2, .resume_from = folder_ + "/half", .save_to = folder_ + "/many"});
    ExpectAlike(rest, wanted, kSteps / 2, ToleranceOf(c));
    if (!IsExact(c)) continue;
    const auto trained =
        Difference(folder_ + "/one/trained.safetensors", folder_ + "/many/trained.safetensors");
    EXPECT_LE(trained.first, 1e-6) << trained.second;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, LayoutChangeTest,
    ::testing::Values(LayoutCase{"llama", {.tp = 2, .pp = 2}, TuningKind::kAllWeights},
                      LayoutCase{"llama", {.dp = 2}, TuningKind::kAllWeights, 3},
                      LayoutCase{.family = "llama",
                                 .layout = {.dp = 2},
                                 .tuning = TuningKind::kAllWeights,
                                 .zero = 1,
                                 .optimizer = OptimizerKind::kAdamW8bit},
                      LayoutCase{.family = "llama",
                                 .layout = {.pp = 2, .dp = 2},
                                 .tuning = TuningKind::kAllWeights,
                                 .optimizer = OptimizerKind::kAdafactor},
                      LayoutCase{"gemma3_text", {.tp = 2, .pp = 2}, TuningKind::kLora}),
    [](const auto& info) { return info.param.Name(); });

// A rank whose memory is not what it was.
TEST(CorruptionTest, ACopyThatComesApartEndsTheRunByName) {
  const LayoutCase c = {"llama", {.dp = 3}, TuningKind::kAllWeights};
  const LayoutModel model = RandomModel(c);
  parallel::RunWorlds(c.layout, 2, [&](parallel::World& world) {
    RankRun run(model, c, world);
    GRAFT_CHECK_OK(run.Step(0).status());
    // As a corrupted gradient leaves it behind its update.
    if (world.rank() == 1) run.decoder().store().values()[77] += 1e-3f;
    EXPECT_THAT(run.Step(1).status(),
                StatusIs(absl::StatusCode::kDataLoss,
                         ::testing::AllOf(::testing::HasSubstr("rank 1 has come apart"),
                                          ::testing::HasSubstr("step summary"))));
  });
}

TEST(CorruptionTest, AGradientThatIsNotFiniteIsHeldBackAndItsRankNamed) {
  const LayoutCase c = {"llama", {.dp = 3}};
  const LayoutModel model = RandomModel(c);
  parallel::RunWorlds(c.layout, 2, [&](parallel::World& world) {
    RankRun run(model, c, world);
    GRAFT_CHECK_OK(run.Step(0).status());
    const at::Tensor before = run.decoder().store().values().clone();
    // In a frozen weight, so that nothing but this rank's gradients shows it.
    if (world.rank() == 2) run.decoder().layers()[0]->qkv.weight.fill_(std::nanf(""));
    const auto result = run.Step(1);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->skipped);
    EXPECT_THAT(result->skip_reason, ::testing::HasSubstr("rank 2 are not finite"));
    EXPECT_TRUE(run.decoder().store().values().equal(before));
  });
}

}  // namespace
}  // namespace graft::trainer
