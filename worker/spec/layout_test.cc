#include "worker/spec/layout.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::spec {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Llama-3.1-8B's shape.
DecoderSpec Dense() {
  DecoderSpec spec;
  spec.hidden = 4096;
  spec.vocab = 128256;
  spec.attention.heads = 32;
  spec.attention.kv_heads = 8;
  spec.attention.head_dim = spec.attention.value_dim = 128;
  spec.layers.assign(32, LayerSpec{.ffn = 14336});
  return spec;
}

DecoderSpec Experts() {
  DecoderSpec spec = Dense();
  spec.moe.experts = 128;
  spec.moe.experts_per_token = 8;
  spec.moe.expert_ffn = 768;
  for (LayerSpec& layer : spec.layers) layer = LayerSpec{.ffn = 0, .moe = true};
  return spec;
}

std::vector<std::string> Messages(const std::vector<LayoutRemark>& remarks) {
  std::vector<std::string> messages;
  for (const LayoutRemark& r : remarks) messages.push_back(r.message);
  return messages;
}

TEST(LayoutTest, DataParallelIsWhatIsLeft) {
  const LayoutCheck check = CheckLayout(Dense(), {.gpus = 16, .tp = 2, .pp = 2, .cp = 2});
  ASSERT_THAT(check.status(), IsOk());
  EXPECT_EQ(check.layout, (Layout{.tp = 2, .pp = 2, .cp = 2, .dp = 2, .ep = 1}));
  EXPECT_EQ(check.layout.world(), 16);
  EXPECT_EQ(LayoutText(check.layout), "tp 2, pp 2, cp 2, dp 2");
}

TEST(LayoutTest, DataParallelIsNotSetDirectly) {
  const LayoutCheck check = CheckLayout(Dense(), {.gpus = 8, .tp = 2, .dp = 4});
  EXPECT_THAT(check.status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("data_parallel_size is not set directly"),
                             HasSubstr("gpus / (tensor_parallel_size x pipeline_parallel_size x "
                                       "context_parallel_size) = 4"))));
}

// The examples people know from elsewhere: 8 GPUs with tp 2 allow ep 1, 2 and 4 there, and 3
// nowhere. Here tp must be 1 where ep is above 1, so 2 and 4 are refused for tp alone.
TEST(LayoutTest, EightGpusWithTp2AllowEp1) {
  EXPECT_THAT(CheckLayout(Experts(), {.gpus = 8, .tp = 2, .ep = 1}).status(), IsOk());
}
TEST(LayoutTest, EightGpusWithTp2RefuseEp2AndEp4ForTpAlone) {
  for (int64_t ep : {2, 4}) {
    const LayoutCheck check = CheckLayout(Experts(), {.gpus = 8, .tp = 2, .ep = ep});
    EXPECT_THAT(Messages(check.violations),
                ElementsAre(HasSubstr("tensor_parallel_size must be 1 where expert_parallel_size")))
        << ep;
  }
}
TEST(LayoutTest, EightGpusWithTp2RefuseEp3ForTpAndForItself) {
  const LayoutCheck check = CheckLayout(Experts(), {.gpus = 8, .tp = 2, .ep = 3});
  EXPECT_THAT(Messages(check.violations),
              ElementsAre(HasSubstr("tensor_parallel_size must be 1"),
                          AllOf(HasSubstr("expert_parallel_size 3 does not divide "
                                          "data_parallel_size x context_parallel_size = 4 x 1 = 4"),
                                HasSubstr("use 2"))));
}
TEST(LayoutTest, EightGpusWithTp1AllowEp248) {
  for (int64_t ep : {2, 4, 8}) {
    EXPECT_THAT(CheckLayout(Experts(), {.gpus = 8, .ep = ep}).status(), IsOk()) << ep;
  }
}
TEST(LayoutTest, EightGpusHoldTp4Pp2) {
  EXPECT_THAT(CheckLayout(Dense(), {.gpus = 8, .tp = 4, .pp = 2}).status(), IsOk());
}
TEST(LayoutTest, FourGpusDoNotHoldTp4Pp2) {
  const LayoutCheck check = CheckLayout(Dense(), {.gpus = 4, .tp = 4, .pp = 2});
  EXPECT_THAT(Messages(check.violations),
              ElementsAre(AllOf(HasSubstr("4 GPUs are no multiple of"), HasSubstr("= 8"),
                                HasSubstr("use 8 GPUs, or tensor_parallel_size 2"))));
}

TEST(LayoutTest, EpMayUseContextRanks) {
  // dp 2 x cp 4: 8 divides their product, though not dp.
  EXPECT_THAT(CheckLayout(Experts(), {.gpus = 8, .cp = 4, .ep = 8}).status(), IsOk());
}
TEST(LayoutTest, EpMustDivideTheExperts) {
  DecoderSpec spec = Experts();
  spec.moe.experts = 6;
  const LayoutCheck check = CheckLayout(spec, {.gpus = 8, .ep = 4});
  EXPECT_THAT(Messages(check.violations),
              ElementsAre(AllOf(HasSubstr("the 6 experts"), HasSubstr("use 2"))));
}
TEST(LayoutTest, EpOnADenseModelIsIgnoredWithAWarning) {
  const LayoutCheck check = CheckLayout(Dense(), {.gpus = 8, .ep = 3});
  ASSERT_THAT(check.status(), IsOk());
  EXPECT_EQ(check.layout.ep, 1);
  EXPECT_THAT(Messages(check.warnings),
              ElementsAre("expert_parallel_size 3 is ignored: the model has no experts"));
}

TEST(LayoutTest, SmolLm2AllowsTp3Only) {
  DecoderSpec spec = Dense();
  spec.attention.heads = 9;
  spec.attention.kv_heads = 3;
  for (LayerSpec& layer : spec.layers) layer.ffn = 1536;
  for (int64_t tp = 2; tp <= 16; ++tp) EXPECT_EQ(TensorParallelDivides(spec, tp), tp == 3) << tp;
  const LayoutCheck check = CheckLayout(spec, {.gpus = 6, .tp = 2, .global_batch = 6});
  EXPECT_THAT(Messages(check.violations),
              ElementsAre(AllOf(HasSubstr("the 9 attention heads"), HasSubstr("use 1"))));
}
TEST(LayoutTest, KvHeadsMayBeReplicated) {
  EXPECT_THAT(CheckLayout(Dense(), {.gpus = 16, .tp = 16}).status(), IsOk());
}

TEST(LayoutTest, TpBeyondTheNvlinkDomainNamesTheBetterChoice) {
  LayoutRequest request{.gpus = 16, .tp = 16, .gpus_per_nvlink_domain = 8};
  EXPECT_THAT(CheckLayout(Dense(), request).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("NVLink domain of 8"),
                             HasSubstr("tensor_parallel_size 8 with pipeline_parallel_size 2"),
                             HasSubstr("allow_tp_across_nodes"))));
  request.allow_tp_across_nodes = true;
  const LayoutCheck allowed = CheckLayout(Dense(), request);
  EXPECT_THAT(allowed.status(), IsOk());
  EXPECT_THAT(Messages(allowed.warnings), ElementsAre(HasSubstr("will be slow")));
}

TEST(LayoutTest, MoreStagesThanLayersAreRefused) {
  DecoderSpec spec = Dense();
  spec.layers.resize(3);
  EXPECT_THAT(Messages(CheckLayout(spec, {.gpus = 4, .pp = 4}).violations),
              ElementsAre(AllOf(HasSubstr("the model's 3 layers"), HasSubstr("use 2"))));
}
TEST(LayoutTest, ASequenceMustDivideByTwicePieces) {
  EXPECT_THAT(Messages(CheckLayout(Dense(), {.gpus = 4, .cp = 4, .sequence = 2044}).violations),
              ElementsAre(AllOf(HasSubstr("use 2048"), HasSubstr("context_parallel_size 2"))));
}
TEST(LayoutTest, TheGlobalBatchMustDivideByMicroTimesDp) {
  EXPECT_THAT(
      Messages(CheckLayout(Dense(), {.gpus = 4, .micro_batch = 2, .global_batch = 20}).violations),
      ElementsAre(
          AllOf(HasSubstr("micro_batch_size 2 x data_parallel_size 4"), HasSubstr("use 16"))));
  EXPECT_THAT(Messages(CheckLayout(Dense(), {.gpus = 8, .global_batch = 3}).violations),
              ElementsAre(HasSubstr("use 8")));
}
TEST(LayoutTest, FewMicroBatchesAreWarnedOfWithTheIdleShare) {
  const LayoutCheck check = CheckLayout(Dense(), {.gpus = 4, .pp = 4, .global_batch = 2});
  EXPECT_THAT(check.status(), IsOk());
  EXPECT_THAT(Messages(check.warnings), ElementsAre(AllOf(HasSubstr("2 micro-batches for 4"),
                                                          HasSubstr("60 %"), HasSubstr("of 16"))));
}
TEST(LayoutTest, SaysEveryViolation) {
  EXPECT_THAT(
      CheckLayout(Dense(), {.gpus = 24, .tp = 3, .cp = 8, .dp = 2, .sequence = 1000}).violations,
      SizeIs(3));
}
TEST(LayoutTest, NonsenseIsRefused) {
  EXPECT_FALSE(CheckLayout(Dense(), {.gpus = 0}).ok());
  EXPECT_FALSE(CheckLayout(Dense(), {.gpus = 8, .tp = -2}).ok());
  EXPECT_FALSE(CheckLayout(Dense(), {.gpus = 8, .tp = 1 << 24, .pp = 1 << 24}).ok());
}

TEST(LayoutTest, EnumeratesValidLayoutsOnly) {
  const std::vector<Layout> dense = EnumerateLayouts(Dense(), {.gpus = 8});
  // tp x pp x cp x dp = 8 as ordered triples of exponents: 4 * 5 * 6 / 6.
  EXPECT_THAT(dense, SizeIs(20));
  for (const Layout& layout : dense) EXPECT_EQ(layout.world(), 8);
  for (const Layout& layout : EnumerateLayouts(Experts(), {.gpus = 8})) {
    EXPECT_TRUE(layout.ep == 1 || layout.tp == 1) << LayoutText(layout);
    EXPECT_EQ(layout.dp * layout.cp % layout.ep, 0);
  }
  EXPECT_THAT(EnumerateLayouts(Dense(), {.gpus = 0}), IsEmpty());
}

}  // namespace
}  // namespace graft::spec
