#include "scheduler/service/adapter_check.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "worker/spec/test_models.h"

namespace graft::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kBase[] = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
  "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
  "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 64,
  "rms_norm_eps": 1e-5})";
constexpr char kConfig[] =
    R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]})";
constexpr char kQ[] = "base_model.model.model.layers.0.self_attn.q_proj";

spec::RawTensor Zeros(const std::string& name, std::vector<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  return {name, "F32", std::move(shape), std::string(static_cast<size_t>(count) * 4, '\0')};
}

absl::StatusOr<AdapterFacts> Check(const std::string& config,
                                   const std::vector<spec::RawTensor>& tensors) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(kBase));
  GRAFT_ASSIGN_OR_RETURN(const spec::ModelDescription base, spec::DescribeConfig(json));
  return CheckAdapter(
      *spec::FilesInMemory({{"adapter_config.json", config},
                            {"adapter_model.safetensors", spec::SafetensorsBytes(tensors)}}),
      base);
}

TEST(AdapterCheckTest, AFittingAdapterSaysWhatItIs) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const AdapterFacts facts,
                             Check(kConfig, {Zeros(absl::StrCat(kQ, ".lora_A.weight"), {2, 16}),
                                             Zeros(absl::StrCat(kQ, ".lora_B.weight"), {16, 2})}));
  EXPECT_EQ(facts.rank, 2);
  EXPECT_EQ(facts.alpha, 4);
  EXPECT_THAT(facts.target_modules, ElementsAre("q_proj"));
}

TEST(AdapterCheckTest, WhatDoesNotFitIsNamed) {
  EXPECT_THAT(Check(kConfig, {Zeros(absl::StrCat(kQ, ".lora_A.weight"), {3, 16}),
                              Zeros(absl::StrCat(kQ, ".lora_B.weight"), {16, 3})}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("[3, 16]")));
  EXPECT_THAT(
      Check(kConfig, {Zeros(absl::StrCat(kQ, ".lora_A.weight"), {2, 16})}),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("lora_B.weight is missing")));
  EXPECT_THAT(
      Check(kConfig,
            {Zeros("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", {2, 16})}),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("the base does not have")));
  EXPECT_THAT(Check(kConfig, {}), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Check(R"({"peft_type": "IA3"})", {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("IA3")));
  EXPECT_THAT(Check("{", {}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no JSON")));
}

}  // namespace
}  // namespace graft::scheduler
