// The head's loss and its hand-made gradients against ATen's own over plain operations.
#include "worker/model/cross_entropy.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "gtest/gtest.h"

namespace graft::model {
namespace {

constexpr int64_t kTokens = 20;
constexpr int64_t kHidden = 16;
constexpr int64_t kVocab = 37;

struct Case {
  double smoothing = 0;
  double softcap = 0;
  double scale = 1;
};

class HeadLossTest : public ::testing::TestWithParam<Case> {};

TEST_P(HeadLossTest, IsAtensWithItsGradients) {
  const Case& c = GetParam();
  at::manual_seed(5);
  Head head;
  head.weight = at::randn({kVocab, kHidden});
  head.logit_scale = c.scale;
  head.logit_softcap = c.softcap;
  const at::Tensor x = at::randn({kTokens, kHidden});
  LossTargets targets{.rows = {1, 2, 5, 11, 19}, .denominator = 7, .label_smoothing = c.smoothing};
  for (const int64_t row : targets.rows) targets.targets.push_back((row * 5) % kVocab);

  at::Tensor ours = x.clone().requires_grad_();
  double loss = 0;
  HeadLoss(head, ours, targets, &loss).backward();

  at::Tensor plain = x.clone().requires_grad_();
  at::Tensor logits = at::mm(plain.index_select(0, at::tensor(targets.rows)), head.weight.t());
  logits = logits * c.scale;
  if (c.softcap > 0) logits = at::tanh(logits / c.softcap) * c.softcap;
  const at::Tensor expected =
      at::cross_entropy_loss(logits, at::tensor(targets.targets), at::Tensor(), at::Reduction::Sum,
                             /*ignore_index=*/-100, c.smoothing) /
      targets.denominator;
  expected.backward();
  EXPECT_NEAR(loss, expected.item<double>(), 1e-5);
  EXPECT_TRUE(at::allclose(ours.grad(), plain.grad(), 1e-5, 1e-6))
      << (ours.grad() - plain.grad()).abs().max().item<double>();
}

INSTANTIATE_TEST_SUITE_P(Heads, HeadLossTest,
                         ::testing::Values(Case{}, Case{.smoothing = 0.1}, Case{.softcap = 4},
                                           Case{.smoothing = 0.3, .softcap = 4, .scale = 0.5},
                                           Case{.smoothing = 1, .scale = 2}));

}  // namespace
}  // namespace graft::model
