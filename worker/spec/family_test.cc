// The families against transformers: names and shapes of all tensors, the number of parameters, the
// rotary frequencies and the attention's scale, from the golden files of tests/parity/spec.
#include "worker/spec/family.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/spec/load.h"
#include "worker/spec/rope.h"

namespace graft::spec {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string GoldenFolder() {
  const char* root = std::getenv("GRAFT_SOURCE_DIR");
  return absl::StrCat(root == nullptr ? "." : root, "/tests/parity/spec/golden");
}

std::vector<std::string> Cases() {
  std::vector<std::string> cases;
  const auto names = ListDirectory(GoldenFolder());
  if (!names.ok()) return cases;
  for (const std::string& name : *names) cases.push_back(name.substr(0, name.size() - 5));
  return cases;
}

Json Golden(const std::string& name) {
  const auto text = ReadFile(absl::StrCat(GoldenFolder(), "/", name, ".json"));
  GRAFT_CHECK(text.ok()) << text.status().ToString();
  auto json = Json::Parse(*text);
  GRAFT_CHECK(json.ok()) << json.status().ToString();
  return *std::move(json);
}

using Shapes = std::map<std::string, std::vector<int64_t>>;

Shapes GoldenShapes(const Json& golden) {
  Shapes shapes;
  for (const auto& [name, shape] : golden.Find("tensors")->as_object()) {
    for (const Json& d : shape.as_array()) shapes[name].push_back(d.as_int());
  }
  return shapes;
}

// The layer type ("" where there is one rotation) to the rope of the first such layer.
const RopeSpec* RopeOf(const DecoderSpec& spec, const std::string& layer_type) {
  for (const LayerSpec& layer : spec.layers) {
    if (layer.rope < 0) continue;
    const bool sliding = layer.sliding_window > 0;
    if (layer_type.empty() || sliding == (layer_type == "sliding_attention")) {
      return &spec.ropes[static_cast<size_t>(layer.rope)];
    }
  }
  return nullptr;
}

void ExpectRope(const DecoderSpec& spec, const std::string& layer_type, int64_t length,
                const Json& want) {
  const RopeSpec* rope = RopeOf(spec, layer_type);
  ASSERT_NE(rope, nullptr) << layer_type;
  const Json::Array& inverse = want.Find("inverse")->as_array();
  const std::vector<float> got = RopeInverseFrequencies(*rope, length);
  ASSERT_EQ(got.size(), inverse.size()) << layer_type;
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i], inverse[i].as_double(), 5e-7 * inverse[i].as_double())
        << layer_type << " " << i << " at length " << length;
  }
  EXPECT_NEAR(rope->attention_factor, want.GetDouble("attention_factor"), 1e-12) << layer_type;
}

class FamilyGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = Golden(GetParam());
    auto model = DescribeConfig(*golden_.Find("config"));
    ASSERT_THAT(model, IsOk());
    model_ = *std::move(model);
  }
  Json golden_;
  ModelDescription model_;
};

TEST_P(FamilyGoldenTest, WritesTheTensorsThatTransformersWrites) {
  Shapes got;
  for (const HubTensor& tensor : HubTensors(model_)) got[tensor.name] = tensor.shape;
  const Shapes want = GoldenShapes(golden_);
  for (const auto& [name, shape] : want) {
    EXPECT_TRUE(got.contains(name)) << name << " is not ours";
    if (got.contains(name)) {
      EXPECT_EQ(got[name], shape) << name;
    }
  }
  for (const auto& [name, shape] : got)
    EXPECT_TRUE(want.contains(name)) << name << " is not theirs";
}

TEST_P(FamilyGoldenTest, CountsTheParametersThatTransformersCounts) {
  EXPECT_EQ(model_.facts.parameters, golden_.GetInt("parameters"));
}

TEST_P(FamilyGoldenTest, RotatesAsTransformersDoes) {
  for (const auto& [length, ropes] : golden_.Find("ropes")->as_object()) {
    EXPECT_EQ(model_.spec.ropes.empty(), ropes.as_object().empty());
    for (const auto& [layer_type, want] : ropes.as_object()) {
      ExpectRope(model_.spec, layer_type, std::stoll(length), want);
    }
  }
}

TEST_P(FamilyGoldenTest, ScalesScoresAsTransformersDoes) {
  const Json* scaling = golden_.Find("scaling");
  if (scaling == nullptr || !scaling->is_number()) return;
  EXPECT_NEAR(model_.spec.attention.scale, scaling->as_double(), 1e-9);
}

TEST_P(FamilyGoldenTest, EachRowOfEachTensorBelongsToOneParameter) {
  std::map<std::string, int64_t> elements;
  for (const Parameter& p : model_.parameters) {
    for (const TensorSlice& s : p.hub) {
      elements[s.tensor] += p.elements() / static_cast<int64_t>(p.hub.size());
    }
  }
  for (const HubTensor& tensor : HubTensors(model_)) {
    int64_t want = 1;
    for (int64_t d : tensor.shape) want *= d;
    EXPECT_EQ(elements[tensor.name], want) << tensor.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, FamilyGoldenTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param; });

TEST(FamilyTest, EveryFamilyHasAGoldenFile) {
  const std::vector<std::string> cases = Cases();
  for (const std::string& family : KnownFamilies()) {
    EXPECT_THAT(cases, ::testing::Contains(family));
  }
}

TEST(FamilyTest, AnUnknownFamilyIsRefusedByNameWithTheKnownOnes) {
  Json config = *Golden("llama").Find("config");
  config.Set("model_type", "mamba");
  EXPECT_THAT(DescribeConfig(config),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("\"mamba\""), HasSubstr("cohere, cohere2, deepseek_v3"))));
}

TEST(FamilyTest, CodeOfTheCheckpointIsRefusedByName) {
  Json config = *Golden("llama").Find("config");
  Json map = Json::MakeObject();
  map.Set("AutoModelForCausalLM", "modeling_mine.MyModel");
  config.Set("auto_map", map);
  EXPECT_THAT(DescribeConfig(config),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("auto_map"), HasSubstr("modeling_mine.MyModel"),
                             HasSubstr("runs no code from checkpoints"))));
}

TEST(FamilyTest, QuantisationsThatAreNotReadAreRefusedByName) {
  Json config = *Golden("llama").Find("config");
  Json quantization = Json::MakeObject();
  quantization.Set("quant_method", "gptq");
  config.Set("quantization_config", quantization);
  EXPECT_THAT(DescribeConfig(config),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("\"gptq\"")));
}

TEST(FamilyTest, AClassifierIsRefused) {
  Json config = *Golden("llama").Find("config");
  Json list = Json::MakeArray();
  list.Append("LlamaForSequenceClassification");
  config.Set("architectures", list);
  EXPECT_THAT(DescribeConfig(config), StatusIs(absl::StatusCode::kUnimplemented,
                                               HasSubstr("LlamaForSequenceClassification")));
}

struct BadValue {
  const char* base;
  const char* key;
  Json value;
  const char* message;
};
class BadConfigTest : public ::testing::TestWithParam<BadValue> {};

TEST_P(BadConfigTest, NamesTheKey) {
  Json config = *Golden(GetParam().base).Find("config");
  config.Set(GetParam().key, GetParam().value);
  const auto model = DescribeConfig(config);
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(std::string(model.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadConfigTest,
    ::testing::Values(
        BadValue{"llama", "hidden_size", Json(), "hidden_size is missing"},
        BadValue{"llama", "hidden_size", -4, "hidden_size is -4"},
        BadValue{"llama", "num_hidden_layers", int64_t{1} << 40, "num_hidden_layers is 1099511"},
        BadValue{"llama", "vocab_size", "many", "vocab_size is no integer"},
        BadValue{"llama", "num_key_value_heads", 3, "no multiple of num_key_value_heads 3"},
        BadValue{"llama", "hidden_act", "mish", "activation \"mish\""},
        BadValue{"llama", "head_dim", 15, "turns 15 dimensions"},
        BadValue{"llama", "tie_word_embeddings", 3, "tie_word_embeddings is neither"},
        BadValue{"qwen3_moe", "num_experts_per_tok", 64, "more than the 4 experts"},
        BadValue{"qwen2", "layer_types", Json(Json::Array{Json("full_attention")}),
                 "1 entries for 3"},
        BadValue{"gemma2", "query_pre_attn_scalar", 0, "query_pre_attn_scalar"},
        BadValue{"gpt2", "n_head", 5, "no multiple of n_head"}));

TEST(FamilyTest, AFusedLinearListsItsParts) {
  auto model = DescribeConfig(*Golden("phi3").Find("config"));
  ASSERT_THAT(model, IsOk());
  const std::vector<HubLinear> linears = HubLinears(*model);
  ASSERT_EQ(linears.size(), 4 * 3u);
  EXPECT_EQ(linears[0].module, "model.layers.0.self_attn.qkv_proj");
  EXPECT_EQ(linears[0].in, 64);
  EXPECT_EQ(linears[0].out, 64 + 2 * 32);
  ASSERT_EQ(linears[0].parts.size(), 3u);
  EXPECT_EQ(linears[0].parts[1].name, "layers.0.attn.k");
  EXPECT_EQ(linears[0].parts[1].rows.begin, 64);
  EXPECT_EQ(linears[0].parts[1].rows.count, 32);
  EXPECT_EQ(linears[2].module, "model.layers.0.mlp.gate_up_proj");
}

TEST(FamilyTest, LinearsOfGpt2AreStoredTransposed) {
  auto model = DescribeConfig(*Golden("gpt2").Find("config"));
  ASSERT_THAT(model, IsOk());
  const std::vector<HubLinear> linears = HubLinears(*model);
  EXPECT_EQ(linears[0].module, "transformer.h.0.attn.c_attn");
  EXPECT_TRUE(linears[0].transposed);
  EXPECT_EQ(linears[0].out, 192);
}

TEST(FamilyTest, ActiveParametersAreThoseOfTheChosenExperts) {
  auto model = DescribeConfig(*Golden("mixtral").Find("config"));
  ASSERT_THAT(model, IsOk());
  const int64_t experts = 3LL * 4 * 3 * 64 * 96;  // layers, experts, projections
  EXPECT_EQ(model->facts.parameters - model->facts.active_parameters, experts / 2);
}

}  // namespace
}  // namespace graft::spec
