// Writes bench-135m into a folder: a llama of SmolLM2's size whose heads divide (8 and 4 of 72),
// random weights from a seed, a tokenizer of letters, and rows of 256 tokens.
//
//   parallel_bench_model FOLDER
//   parallel_bench_model --estimate TP PP DP ZERO lora|all_weights MICRO GLOBAL
//
// The second form prints the bytes that worker/spec estimates for the fullest rank of that layout.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "worker/spec/estimate.h"
#include "worker/spec/load.h"
#include "worker/spec/safetensors.h"

namespace graft {
namespace {

constexpr int64_t kRows = 256;
constexpr int64_t kRowTokens = 256;

Json Config() {
  Json config = Json::MakeObject();
  config.Set("architectures", Json(Json::Array{Json("LlamaForCausalLM")}));
  config.Set("model_type", "llama").Set("hidden_act", "silu");
  config.Set("hidden_size", 576).Set("intermediate_size", 1536).Set("num_hidden_layers", 30);
  config.Set("num_attention_heads", 8).Set("num_key_value_heads", 4).Set("head_dim", 72);
  config.Set("vocab_size", 49152).Set("max_position_embeddings", 2048);
  config.Set("rms_norm_eps", 1e-5).Set("rope_theta", 10000.0).Set("tie_word_embeddings", true);
  config.Set("bos_token_id", 1).Set("eos_token_id", 2).Set("torch_dtype", "float32");
  return config;
}

void WriteWeights(const std::string& folder, const Json& config) {
  const auto model = spec::DescribeConfig(config);
  GRAFT_CHECK(model.ok()) << model.status();
  const std::vector<spec::HubTensor> tensors = spec::HubTensors(*model);
  std::vector<spec::TensorToWrite> layout;
  for (const spec::HubTensor& t : tensors) layout.push_back({t.name, spec::DType::kF32, t.shape});
  auto writer = spec::SafetensorsWriter::Create({.folder = folder}, layout);
  GRAFT_CHECK(writer.ok()) << writer.status();
  SeededRandom random(135);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool norm = tensors[i].shape.size() == 1;
    std::vector<float> values(static_cast<size_t>(layout[i].bytes()) / sizeof(float));
    for (float& v : values) {
      v = norm ? 1.0f : static_cast<float>((2 * random.UniformDouble() - 1) * 0.035);
    }
    GRAFT_CHECK_OK((*writer)->Append(absl::string_view(reinterpret_cast<const char*>(values.data()),
                                                       values.size() * sizeof(float))));
  }
  GRAFT_CHECK_OK((*writer)->Finish().status());
}

std::string Tokenizer() {
  Json vocab = Json::MakeObject();
  int64_t id = 0;
  for (const char* special : {"<pad>", "<s>", "</s>"}) vocab.Set(special, id++);
  for (char c = 'a'; c <= 'z'; ++c) vocab.Set(std::string(1, c), id++);
  Json model = Json::MakeObject();
  model.Set("type", "BPE").Set("vocab", std::move(vocab)).Set("merges", Json::MakeArray());
  Json level = Json::MakeObject();
  level.Set("type", "ByteLevel").Set("add_prefix_space", false).Set("use_regex", true);
  Json tokenizer = Json::MakeObject();
  tokenizer.Set("version", "1.0").Set("added_tokens", Json::MakeArray());
  tokenizer.Set("pre_tokenizer", level).Set("decoder", level).Set("model", std::move(model));
  return tokenizer.Dump();
}

// A letter is a token, and the trainer ends a row with one: rows of just kRowTokens, so that every
// pass is full and ranks have the same work.
std::string Rows() {
  SeededRandom random(7);
  std::string rows;
  for (int64_t r = 0; r < kRows; ++r) {
    std::string text;
    for (int64_t i = 0; i + 1 < kRowTokens; ++i) {
      text.push_back(static_cast<char>('a' + random.Uniform(26)));
    }
    absl::StrAppend(&rows, "{\"text\":\"", text, "\"}\n");
  }
  return rows;
}

int64_t Number(const char* text) {
  int64_t number = 0;
  GRAFT_CHECK(absl::SimpleAtoi(text, &number)) << text;
  return number;
}

int64_t Estimate(char** argv) {
  const auto model = spec::DescribeConfig(Config());
  GRAFT_CHECK(model.ok()) << model.status();
  spec::TrainingPlan plan;
  plan.layout = {.tp = Number(argv[0]), .pp = Number(argv[1]), .dp = Number(argv[2])};
  plan.zero = static_cast<int>(Number(argv[3]));
  plan.tuning = std::string(argv[4]) == "lora" ? spec::Tuning::kLora : spec::Tuning::kAllWeights;
  plan.micro_batch = Number(argv[5]);
  plan.global_batch = Number(argv[6]);
  plan.sequence = kRowTokens;
  plan.compute = plan.weights = spec::DType::kF32;
  plan.gpu = false;
  return spec::CostModel(*model).Memory(plan).total() + spec::kCpuResidentExtraBytes;
}

}  // namespace
}  // namespace graft

int main(int argc, char** argv) {
  if (argc == 9 && std::string(argv[1]) == "--estimate") {
    std::printf("%lld\n", static_cast<long long>(graft::Estimate(argv + 2)));
    return 0;
  }
  if (argc != 2 || argv[1][0] == '-') {
    std::fprintf(stderr, "usage: parallel_bench_model FOLDER\n");
    return 2;
  }
  const std::string folder = argv[1];
  const graft::Json config = graft::Config();
  GRAFT_CHECK_OK(graft::MakeDirectories(folder));
  GRAFT_CHECK_OK(graft::WriteFileAtomically(folder + "/config.json", config.Dump(2)));
  GRAFT_CHECK_OK(graft::WriteFileAtomically(folder + "/tokenizer.json", graft::Tokenizer()));
  GRAFT_CHECK_OK(graft::WriteFileAtomically(folder + "/rows.jsonl", graft::Rows()));
  graft::WriteWeights(folder, config);
  return 0;
}
