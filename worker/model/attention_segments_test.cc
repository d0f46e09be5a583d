// Attention by ATen's operations against the kernel for CPUs, which the parity tests hold to
// transformers.
#include "worker/model/attention_segments.h"

#include <ATen/ATen.h>

#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "worker/model/attention_prepare.h"

namespace graft::model {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

struct Case {
  const char* name;
  int64_t window;
  double softcap;
  int64_t value_dim;
  std::vector<AttentionSegment> segments;
  int64_t rows;
};

class SegmentsTest : public ::testing::TestWithParam<Case> {
 protected:
  SegmentsTest() {
    at::manual_seed(5);
    a_.heads = 4;
    a_.kv_heads = 2;
    a_.head_dim = 8;
    a_.value_dim = GetParam().value_dim;
    a_.scale = 0.4;
    a_.softcap = GetParam().softcap;
    a_.window = GetParam().window;
    qkv_ = at::randn({GetParam().rows, a_.width()});
    o_ = at::zeros({GetParam().rows, a_.out_width()});
    lse_ = at::full({a_.heads, GetParam().rows}, kNothing, at::kFloat);
  }
  AttentionInputs Inputs() const {
    const auto* data = qkv_.const_data_ptr<float>();
    return {PartRows(a_, data, Part::kQ), PartRows(a_, data, Part::kK),
            PartRows(a_, data, Part::kV)};
  }

  Attention a_;
  at::Tensor qkv_, o_, lse_;
};

TEST_P(SegmentsTest, ForwardAndBackwardAreTheKernels) {
  const auto& segments = GetParam().segments;
  AttentionForward(ShapeOf(a_), segments, Inputs(), {o_.mutable_data_ptr<float>(), a_.out_width()},
                   lse_.mutable_data_ptr<float>(), GetParam().rows);
  at::Tensor o = at::zeros_like(o_), lse = at::full_like(lse_, kNothing);
  SegmentsForward(a_, segments, SegmentRowsOf(a_, qkv_), o, lse);
  EXPECT_TRUE(at::allclose(o, o_, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(lse, lse_, 1e-5, 1e-5));

  const at::Tensor d_o = at::randn_like(o_);
  at::Tensor want = at::zeros_like(qkv_);
  auto* to = want.mutable_data_ptr<float>();
  AttentionBackward(ShapeOf(a_), segments, Inputs(), {o_.const_data_ptr<float>(), a_.out_width()},
                    {d_o.const_data_ptr<float>(), a_.out_width()}, lse_.const_data_ptr<float>(),
                    GetParam().rows,
                    {PartRows(a_, to, Part::kQ), PartRows(a_, to, Part::kK),
                     PartRows(a_, to, Part::kV), nullptr});
  at::Tensor d = at::zeros_like(qkv_);
  SegmentsBackward(a_, segments, SegmentRowsOf(a_, qkv_), o, lse, d_o, SegmentRowsOf(a_, d));
  EXPECT_TRUE(at::allclose(d, want, 1e-4, 1e-4)) << (d - want).abs().max();

  // In 16 bits, as on a device, within their rounding.
  const at::Tensor half = qkv_.to(at::kBFloat16);
  at::Tensor half_o = at::zeros(o_.sizes(), at::kBFloat16);
  SegmentsForward(a_, segments, SegmentRowsOf(a_, half), half_o, lse);
  EXPECT_LT((half_o.to(at::kFloat) - o_).abs().max().item<float>(), 0.1);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, SegmentsTest,
    ::testing::Values(
        Case{"Packed", 0, 0, 8, {{0, 5, 0, 5, 0}, {5, 9, 5, 9, 0}}, 14},
        Case{"Window", 4, 0, 8, {{0, 3, 0, 3, 0}, {3, 20, 3, 20, 0}}, 23},
        Case{"SoftcapAndNarrowValues", 0, 2, 6, {{0, 11, 0, 11, 0}}, 11},
        // Keys of another rank: all behind, some of them out of the window, some not reached.
        Case{"KeysBefore", 0, 0, 8, {{0, 6, 6, 7, 9}, {6, 7, 0, 6, 0}}, 13},
        Case{"KeysBeforeInAWindow", 5, 0, 8, {{0, 6, 6, 7, 9}, {8, 5, 0, 8, 3}}, 13},
        Case{"KeysThatNoQueryReaches", 0, 0, 8, {{0, 4, 4, 9, 2}}, 13},
        Case{"MoreThanABlock", 0, 0, 8, {{0, 3000, 0, 3000, 0}}, 3000}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace graft::model
