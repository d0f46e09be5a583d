// The decoder against transformers: tiny random models of every family it computes, made by
// make_goldens.py.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/decoder_build.h"
#include "worker/trainer/model_export.h"
#include "worker/trainer/optimizer.h"
#include "worker/trainer/tensor_files.h"

namespace graft::trainer {
namespace {

std::string GoldensFolder() {
  return std::string(std::getenv("GRAFT_SOURCE_DIR")) + "/tests/parity/trainer/goldens";
}

std::vector<std::string> Families() {
  const char* source = std::getenv("GRAFT_SOURCE_DIR");
  if (source == nullptr) return {};
  auto names = ListDirectory(GoldensFolder());
  return names.ok() ? *names : std::vector<std::string>();
}

struct Golden {
  std::unique_ptr<spec::ModelFiles> files;
  spec::ModelDescription description;
  std::unique_ptr<spec::ParameterReader> reader;
  std::unique_ptr<model::Decoder> decoder;
  std::string path;

  at::Tensor Read(const std::string& name, std::vector<int64_t> shape) {
    at::Tensor tensor = at::empty(shape);
    GRAFT_CHECK_OK(ReadTensors(path, {{name, tensor}}));
    return tensor;
  }
};

absl::StatusOr<std::unique_ptr<Golden>> Open(const std::string& family, model::Train train,
                                             at::ScalarType compute = at::kFloat) {
  at::set_num_threads(1);  // the models are tiny, and other tests run beside this one
  auto golden = std::make_unique<Golden>();
  const std::string folder = JoinPath(GoldensFolder(), family);
  golden->path = JoinPath(folder, "golden.safetensors");
  // The golden's own file is no shard of the model.
  std::vector<std::pair<std::string, std::string>> files;
  for (const char* name : {"config.json", "model.safetensors"}) {
    GRAFT_ASSIGN_OR_RETURN(std::string bytes, ReadFile(JoinPath(folder, name)));
    files.emplace_back(name, std::move(bytes));
  }
  golden->files = spec::FilesInMemory(std::move(files));
  GRAFT_ASSIGN_OR_RETURN(golden->description, spec::ReadModel(*golden->files));
  GRAFT_ASSIGN_OR_RETURN(golden->reader,
                         spec::ParameterReader::Open(*golden->files, golden->description));
  model::BuildOptions options;
  options.train = train;
  options.compute_type = compute;
  GRAFT_ASSIGN_OR_RETURN(golden->decoder,
                         model::BuildDecoder(golden->description, *golden->reader, options));
  return golden;
}

constexpr int64_t kRows = 2;
constexpr int64_t kLength = 16;

// Both sequences as one pack, which transformers saw as a batch.
struct Pack {
  model::Batch batch;
  model::LossTargets targets;
};

Pack PackOf(const at::Tensor& tokens) {
  Pack pack;
  pack.batch.tokens = tokens.reshape({-1}).to(at::kLong);
  pack.batch.positions = at::arange(kLength, at::kLong).repeat({kRows});
  pack.batch.starts = {0, kLength, kRows * kLength};
  const int64_t* ids = pack.batch.tokens.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < kRows * kLength; ++i) {
    if ((i + 1) % kLength == 0) continue;
    pack.targets.rows.push_back(i);
    pack.targets.targets.push_back(ids[i + 1]);
  }
  pack.targets.denominator = static_cast<double>(pack.targets.rows.size());
  return pack;
}

double Backward(model::Decoder& decoder, const Pack& pack) {
  double loss = 0;
  decoder.store().ZeroGradients();
  model::HeadLoss(decoder.head(), decoder.Hidden(pack.batch), pack.targets, &loss).backward();
  return loss;
}

at::Tensor LogitsOf(const model::Decoder& decoder, const Pack& pack) {
  const at::NoGradGuard no_grad;
  return model::HeadLogits(decoder.head(), decoder.Hidden(pack.batch))
      .view({kRows, kLength, decoder.spec().vocab});
}

// 1 where both are 0: an expert that no token chose.
double Cosine(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  const double norms = (x.norm() * y.norm()).item<double>();
  if (norms == 0) return x.norm().item<double>() == y.norm().item<double>() ? 1 : 0;
  return (x * y).sum().item<double>() / norms;
}

class DecoderParityTest : public ::testing::TestWithParam<std::string> {};

TEST_P(DecoderParityTest, LogitsLossAndGradientsAreThoseOfTransformers) {
  GRAFT_ASSERT_OK_AND_ASSIGN(auto golden, Open(GetParam(), model::Train::kAllWeights));
  model::Decoder& decoder = *golden->decoder;
  const Pack pack = PackOf(golden->Read("tokens", {kRows, kLength}));
  const at::Tensor logits = golden->Read("logits", {kRows, kLength, decoder.spec().vocab});
  EXPECT_LE((LogitsOf(decoder, pack) - logits).abs().max().item<double>(), 2e-5);
  EXPECT_NEAR(Backward(decoder, pack), golden->Read("loss", {1}).item<double>(), 1e-5);
  int compared = 0;
  GRAFT_ASSERT_OK_AND_ASSIGN(const spec::TensorIndex names, ListTensors(golden->path));
  for (const spec::HubTensor& tensor : spec::HubTensors(golden->description)) {
    if (names.count("grad." + tensor.name) == 0) continue;  // a tied head
    GRAFT_ASSERT_OK_AND_ASSIGN(
        const at::Tensor got,
        AssembleHubTensor(golden->description, tensor,
                          [&](const std::string& name) { return GradientOf(decoder, name); }));
    const at::Tensor want = golden->Read("grad." + tensor.name, tensor.shape);
    EXPECT_GE(Cosine(got, want), 1 - 1e-6) << tensor.name;
    EXPECT_NEAR(got.norm().item<double>(), want.norm().item<double>(),
                1e-4 * want.norm().item<double>() + 1e-7)
        << tensor.name;
    ++compared;
  }
  EXPECT_GE(compared, 2 + 7);
}

// What a GPU computes with, where no kernel of ours or of flash attention takes a tensor: fp64 on a
// CPU goes the same way.
TEST_P(DecoderParityTest, AtensOwnOperationsGiveWhatTheKernelsDo) {
  GRAFT_ASSERT_OK_AND_ASSIGN(auto golden, Open(GetParam(), model::Train::kAllWeights));
  GRAFT_ASSERT_OK_AND_ASSIGN(auto other, Open(GetParam(), model::Train::kAllWeights, at::kDouble));
  const Pack pack = PackOf(golden->Read("tokens", {kRows, kLength}));
  const at::Tensor want = golden->Read("logits", {kRows, kLength, golden->decoder->spec().vocab});
  EXPECT_LE((LogitsOf(*other->decoder, pack) - want).abs().max().item<double>(), 2e-5);
  EXPECT_NEAR(Backward(*other->decoder, pack), Backward(*golden->decoder, pack), 1e-5);
  EXPECT_GE(Cosine(other->decoder->store().grads(), golden->decoder->store().grads()), 1 - 1e-8);
}

// How far rounding to the type's 8 or 11 bits may lead on these models, which are of random
// numbers: of the logits' norm, of the loss, and of the gradients' direction.
struct Rounding {
  at::ScalarType type;
  double logits, loss, direction;
};
class RoundedParityTest : public ::testing::TestWithParam<std::tuple<std::string, Rounding>> {};

TEST_P(RoundedParityTest, SixteenBitsStayNearFp32) {
  const auto& [family, allowed] = GetParam();
  GRAFT_ASSERT_OK_AND_ASSIGN(auto golden, Open(family, model::Train::kAllWeights));
  GRAFT_ASSERT_OK_AND_ASSIGN(auto rounded, Open(family, model::Train::kAllWeights, allowed.type));
  Pack pack = PackOf(golden->Read("tokens", {kRows, kLength}));
  const at::Tensor want = LogitsOf(*golden->decoder, pack);
  EXPECT_LE((LogitsOf(*rounded->decoder, pack) - want).norm().item<double>(),
            allowed.logits * want.norm().item<double>());
  const double loss = Backward(*golden->decoder, pack);
  pack.targets.gradient_scale = 256;
  EXPECT_NEAR(Backward(*rounded->decoder, pack), loss, allowed.loss);
  const at::Tensor& gradients = rounded->decoder->store().grads();
  EXPECT_GE(Cosine(gradients, golden->decoder->store().grads()), allowed.direction);
  EXPECT_NEAR((gradients.norm() / golden->decoder->store().grads().norm()).item<double>(), 256,
              256 * allowed.logits);
}

INSTANTIATE_TEST_SUITE_P(
    Families, RoundedParityTest,
    ::testing::Combine(::testing::Values("llama", "gemma2", "gpt2", "cohere2", "phi3", "olmo3"),
                       ::testing::Values(Rounding{at::kBFloat16, 2e-2, 2e-2, 0.995},
                                         Rounding{at::kHalf, 3e-3, 2e-3, 0.9999})),
    [](const auto& info) {
      return std::get<0>(info.param) +
             (std::get<1>(info.param).type == at::kHalf ? "_fp16" : "_bf16");
    });

TEST_P(DecoderParityTest, TwentyAdamWStepsFollowTorchs) {
  GRAFT_ASSERT_OK_AND_ASSIGN(auto golden, Open(GetParam(), model::Train::kAllWeights));
  model::Decoder& decoder = *golden->decoder;
  const Pack pack = PackOf(golden->Read("tokens", {kRows, kLength}));
  const at::Tensor want = golden->Read("trajectory", {20});
  OptimizerConfig config;
  config.weight_decay = 0;
  GRAFT_ASSERT_OK_AND_ASSIGN(auto optimizer, MakeOptimizer(config, decoder.store()));
  for (int64_t step = 0; step < 20; ++step) {
    EXPECT_NEAR(Backward(decoder, pack), want[step].item<double>(), 2e-4) << "step " << step;
    optimizer->Step(1e-3, 1.0);
  }
}

TEST_P(DecoderParityTest, RecomputedLayersGiveTheSameGradients) {
  GRAFT_ASSERT_OK_AND_ASSIGN(auto golden, Open(GetParam(), model::Train::kAllWeights));
  model::Decoder& decoder = *golden->decoder;
  const Pack pack = PackOf(golden->Read("tokens", {kRows, kLength}));
  Backward(decoder, pack);
  const at::Tensor kept = decoder.store().grads().clone();
  decoder.set_recompute(model::Recompute::kLayers);
  Backward(decoder, pack);
  EXPECT_TRUE(at::allclose(decoder.store().grads(), kept, 1e-6, 1e-7));
  decoder.set_recompute(model::Recompute::kLayersFromHost);
  Backward(decoder, pack);
  EXPECT_TRUE(at::allclose(decoder.store().grads(), kept, 1e-6, 1e-7));
}

// What the routers' balance adds to loss and gradients, where the reference says so.
class RouterBalanceTest : public ::testing::TestWithParam<bool> {};

TEST_P(RouterBalanceTest, AddsWhatTransformersAdds) {
  GRAFT_ASSERT_OK_AND_ASSIGN(auto golden, Open("mixtral", model::Train::kAllWeights));
  model::Decoder& decoder = *golden->decoder;
  if (GetParam()) decoder.set_recompute(model::Recompute::kLayers);
  Pack pack = PackOf(golden->Read("tokens", {kRows, kLength}));
  model::RouterBalance balance;
  balance.coefficient = decoder.spec().moe.aux_loss_coefficient;
  pack.batch.pass.balance = &balance;
  const double loss = Backward(decoder, pack) + balance.Loss();
  EXPECT_NEAR(loss, golden->Read("balanced.loss", {1}).item<double>(), 1e-5);
  EXPECT_GT(balance.Loss(), 1e-3);
  for (int64_t layer = 0; layer < 2; ++layer) {
    const std::string name = absl::StrCat("layers.", layer, ".moe.router.weight");
    const at::Tensor got = GradientOf(decoder, name);
    const at::Tensor want = golden->Read(absl::StrCat("balanced.grad.", layer), got.sizes().vec());
    EXPECT_GE(Cosine(got, want), 1 - 1e-6) << name;
    EXPECT_NEAR((got.norm() / want.norm()).item<double>(), 1, 1e-4) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Layers, RouterBalanceTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "MadeAgain" : "Kept"; });

TEST_P(DecoderParityTest, TheCacheGivesTheLogitsOfTheWhole) {
  GRAFT_ASSERT_OK_AND_ASSIGN(auto golden, Open(GetParam(), model::Train::kNothing));
  const at::Tensor tokens = golden->Read("tokens", {kRows, kLength});
  const at::Tensor want = golden->Read("logits", {kRows, kLength, golden->decoder->spec().vocab});
  model::KvCache cache = golden->decoder->MakeCache(kLength);
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < 9; ++i) prompt.push_back(tokens[0][i].item<int32_t>());
  at::Tensor logits = golden->decoder->Extend(prompt, cache);
  for (int64_t i = 9; i <= kLength; ++i) {
    EXPECT_LE((logits - want[0][i - 1]).abs().max().item<double>(), 5e-5) << "token " << i;
    if (i < kLength) logits = golden->decoder->Extend({tokens[0][i].item<int32_t>()}, cache);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, DecoderParityTest, ::testing::ValuesIn(Families()),
                         [](const auto& info) { return info.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DecoderParityTest);

TEST(DecoderGoldensTest, AreThere) { EXPECT_GE(Families().size(), 10u); }

}  // namespace
}  // namespace graft::trainer
