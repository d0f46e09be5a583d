#include "worker/trainer/health.h"

#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/spec/load.h"

namespace graft::trainer {
namespace {

using ::testing::HasSubstr;

spec::ModelDescription Llama() {
  Json config = Json::MakeObject();
  config.Set("architectures", Json(Json::Array{Json("LlamaForCausalLM")}));
  config.Set("model_type", "llama").Set("hidden_act", "silu").Set("hidden_size", 2048);
  config.Set("intermediate_size", 8192).Set("num_hidden_layers", 16);
  config.Set("num_attention_heads", 32).Set("num_key_value_heads", 8).Set("vocab_size", 32000);
  config.Set("max_position_embeddings", 2048).Set("rms_norm_eps", 1e-5);
  auto described = spec::DescribeConfig(config);
  EXPECT_TRUE(described.ok()) << described.status();
  return *std::move(described);
}

TEST(StallVerdictTest, NamesTheStallAndABetterLayout) {
  const spec::ModelDescription model = Llama();
  const spec::CostModel cost(model);
  spec::TrainingPlan plan;
  plan.layout = {.tp = 8};
  plan.global_batch = 64;
  const auto verdict = StallVerdict(
      cost, plan, {.seconds = 10, .busy_seconds = 5.5, .tensor_seconds = 4.1, .sum_seconds = 0.1});
  ASSERT_TRUE(verdict.has_value());
  EXPECT_THAT(*verdict, HasSubstr("41 % of a step waits for tensor parallelism's sums: use "));
  EXPECT_THAT(*verdict, HasSubstr("times as fast"));
}

TEST(StallVerdictTest, SaysNothingOfAHealthyRun) {
  const spec::ModelDescription model = Llama();
  const spec::CostModel cost(model);
  spec::TrainingPlan plan;
  plan.layout = {.dp = 8};
  plan.global_batch = 64;
  EXPECT_FALSE(
      StallVerdict(cost, plan, {.seconds = 10, .busy_seconds = 9, .sum_seconds = 1}).has_value());
}

}  // namespace
}  // namespace graft::trainer
