// What stands around libtorch's flash kernels; the kernels themselves need a GPU.
#include "worker/model/attention_flash.h"

#include <ATen/ATen.h>

#include "gtest/gtest.h"

namespace graft::model {
namespace {

constexpr int64_t kHeads = 4, kTokens = 7, kDim = 8;

// Causal attention of one segment by its definition, with autograd; the sinks may be undefined.
struct Reference {
  at::Tensor o;    // [T, H E]
  at::Tensor lse;  // [H, T]
};
Reference Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                 const at::Tensor& sinks) {
  const at::Tensor hidden = at::ones({kTokens, kTokens}, at::kBool).triu(1);
  at::Tensor scores = at::matmul(q, k.transpose(1, 2)).masked_fill(hidden, -1e30);
  if (sinks.defined()) {
    scores = at::cat({scores, sinks.view({kHeads, 1, 1}).expand({kHeads, kTokens, 1})}, 2);
  }
  const at::Tensor p = at::softmax(scores, 2).narrow(2, 0, kTokens);
  return {at::matmul(p, v).transpose(0, 1).reshape({kTokens, kHeads * kDim}),
          at::logsumexp(scores, {2})};
}

class FlashSinksTest : public ::testing::Test {
 protected:
  FlashSinksTest() { at::manual_seed(3); }
  const at::Tensor q_ = at::randn({kHeads, kTokens, kDim}), k_ = at::randn_like(q_),
                   v_ = at::randn_like(q_), sinks_ = at::randn({kHeads});
};

TEST_F(FlashSinksTest, OutputsAndSumsBecomeThoseWithSinks) {
  const Reference want = Attend(q_, k_, v_, sinks_);
  Reference got = Attend(q_, k_, v_, at::Tensor());
  AddSinks(sinks_, got.o, got.lse);
  EXPECT_TRUE(at::allclose(got.o, want.o, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(got.lse, want.lse, 1e-5, 1e-6));
}

TEST_F(FlashSinksTest, TheirGradientsAreThoseOfTheDefinition) {
  const at::Tensor leaf = sinks_.clone().requires_grad_(true);
  const Reference want = Attend(q_, k_, v_, leaf);
  const at::Tensor d_o = at::randn_like(want.o);
  (want.o * d_o).sum().backward();
  const at::Tensor got = SinkGradients(sinks_, want.o.detach(), want.lse.detach(), d_o);
  EXPECT_TRUE(at::allclose(got, leaf.grad(), 1e-4, 1e-5)) << got << leaf.grad();
}

TEST(OnFlashTest, ACpuNeverTakesIt) {
  Attention attention;
  attention.heads = attention.kv_heads = 2;
  attention.head_dim = attention.value_dim = 64;
  EXPECT_FALSE(OnFlash(attention, at::zeros({3, attention.width()}, at::kBFloat16)));
}

}  // namespace
}  // namespace graft::model
