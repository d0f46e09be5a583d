// store_dedup: what checkpoints, a re-sharded model and an edited dataset take in the store, in
// per cent of their bytes, beside what a study of chunkers measured for the same generators:
// full checkpoints 100 (30.7 with XOR to the parent), LoRA 99.8 (70.5), re-sharded 0, JSONL 17.1.
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "fileservice/catalog/reencode.h"
#include "fileservice/catalog/stats.h"
#include "fileservice/catalog/test_store.h"
#include "tests/bench/fileservice/store_figures.h"

namespace graft::fileservice {
namespace {

constexpr int kHidden = 1024;
constexpr int kInner = 2816;
constexpr int kVocabulary = 6000;
constexpr int kLayers = 2;
// The random walk of 200 Adam steps at a learning rate of 1e-5.
const float kDrift = 1e-5F * std::sqrt(200.0F);

class Normal {
 public:
  explicit Normal(uint64_t seed) : random_(seed) {}
  float Next() {
    if (spare_ready_) {
      spare_ready_ = false;
      return spare_;
    }
    const double radius = std::sqrt(-2 * std::log(1 - random_.UniformDouble()));
    const double angle = 2 * M_PI * random_.UniformDouble();
    spare_ = static_cast<float>(radius * std::sin(angle));
    spare_ready_ = true;
    return static_cast<float>(radius * std::cos(angle));
  }

 private:
  SeededRandom random_;
  float spare_ = 0;
  bool spare_ready_ = false;
};

struct Tensor {
  std::string name;
  std::vector<int> shape;
  std::vector<float> values;
};
using Model = std::vector<Tensor>;

Tensor MakeTensor(const std::string& name, std::vector<int> shape, float scale, Normal& normal) {
  size_t count = 1;
  for (const int size : shape) count *= static_cast<size_t>(size);
  Tensor tensor{name, std::move(shape), std::vector<float>(count)};
  for (float& value : tensor.values) value = normal.Next() * scale;
  return tensor;
}

Model MakeModel(Normal& normal) {
  Model model;
  const auto add = [&](const std::string& name, std::vector<int> shape) {
    model.push_back(MakeTensor(name, std::move(shape), 0.02F, normal));
  };
  add("model.embed_tokens.weight", {kVocabulary, kHidden});
  for (int layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    for (const char* name : {"self_attn.q_proj", "self_attn.o_proj"}) {
      add(absl::StrCat(prefix, name, ".weight"), {kHidden, kHidden});
    }
    for (const char* name : {"self_attn.k_proj", "self_attn.v_proj"}) {
      add(absl::StrCat(prefix, name, ".weight"), {kHidden / 4, kHidden});
    }
    for (const char* name : {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      add(absl::StrCat(prefix, name, ".weight"), {kInner, kHidden});
    }
    add(absl::StrCat(prefix, "input_layernorm.weight"), {kHidden});
    add(absl::StrCat(prefix, "post_attention_layernorm.weight"), {kHidden});
  }
  add("model.norm.weight", {kHidden});
  add("lm_head.weight", {kVocabulary, kHidden});
  return model;
}

Model MakeLora(Normal& normal) {
  Model model;
  for (int layer = 0; layer < 30; ++layer) {
    for (const char* part : {"q_proj", "v_proj"}) {
      const std::string prefix = absl::StrCat("base_model.model.layers.", layer, ".", part);
      model.push_back(MakeTensor(prefix + ".lora_A.weight", {16, 1024}, 0.01F, normal));
      model.push_back(MakeTensor(prefix + ".lora_B.weight", {1024, 16}, 0.01F, normal));
    }
  }
  return model;
}

void Drift(Model& model, float step, Normal& normal) {
  for (Tensor& tensor : model) {
    for (float& value : tensor.values) value += normal.Next() * step;
  }
}

std::string Safetensors(const Model& model, bool bf16) {
  std::vector<std::string> entries;
  std::string data;
  for (const Tensor& tensor : model) {
    const size_t begin = data.size();
    for (const float value : tensor.values) {
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof(bits));
      if (bf16) bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
      data.append(reinterpret_cast<const char*>(&bits), bf16 ? 2 : 4);
    }
    entries.push_back(absl::StrFormat(R"("%s":{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]})",
                                      tensor.name, bf16 ? "BF16" : "F32",
                                      absl::StrJoin(tensor.shape, ","), begin, data.size()));
  }
  std::string header = absl::StrCat("{", absl::StrJoin(entries, ","), "}");
  header.resize((header.size() + 7) / 8 * 8, ' ');
  std::string length(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(length.data(), &size, sizeof(size));
  return absl::StrCat(length, header, data);
}

class Bench {
 public:
  Bench() : test_({.pack_bytes = 32 << 20}) { GRAFT_CHECK_OK(test_.Open()); }

  // Bytes that the version added to the packs, in per cent of its own.
  double Publish(const std::string& fileset, const Contents& contents) {
    int64_t bytes = 0;
    for (const auto& [path, content] : contents) bytes += static_cast<int64_t>(content.size());
    if (!test_.catalog().GetFileset({"ws", fileset}).ok()) {
      GRAFT_CHECK_OK(test_.MakeFileset(fileset));
    }
    const int64_t before = CountStore(test_.db())->stored_bytes;
    GRAFT_CHECK_OK(test_.Publish(fileset, contents).status());
    return 100.0 * static_cast<double>(CountStore(test_.db())->stored_bytes - before) /
           static_cast<double>(bytes);
  }
  // What the version's tensors take, in per cent of its bytes.
  double Share(const std::string& fileset, int version) {
    const auto resolved = test_.catalog().Resolve({"ws", fileset}, absl::StrCat(version));
    int64_t stored = 0;
    int64_t bytes = 0;
    GRAFT_CHECK_OK(
        test_.catalog().VisitEntries(*resolved, "", "", [&](absl::string_view, const Entry& entry) {
          const auto file = test_.catalog().GetFile(entry.sha256);
          for (const ChunkRef& chunk : file->chunks) {
            stored += test_.store().Find(chunk.id)->stored_bytes;
          }
          bytes += entry.size;
          return true;
        }));
    return 100.0 * static_cast<double>(stored) / static_cast<double>(bytes);
  }
  void Reencode() {
    GRAFT_CHECK_OK(Reencoder(test_.catalog(), test_.store(), {}).Run().status());
    GRAFT_CHECK_OK(test_.Collect().status());
  }
  void CheckReadable(const std::string& fileset) { GRAFT_CHECK_OK(test_.ReadEverything(fileset)); }
  double TotalShare(int64_t bytes) {
    return 100.0 * static_cast<double>(test_.PackBytes()) / static_cast<double>(bytes);
  }

 private:
  TestStore test_;
};

bool FullCheckpoints() {
  Bench bench;
  Normal normal(1);
  Model model = MakeModel(normal);
  int64_t bytes = 0;
  for (int i = 1; i <= 5; ++i) {
    const std::string file = Safetensors(model, true);
    bytes += static_cast<int64_t>(file.size());
    bench.Publish("full", {{"model.safetensors", file}});
    Drift(model, kDrift, normal);
  }
  bench.Reencode();
  bench.CheckReadable("full");
  bool ok = true;
  for (const int version : {2, 3, 4}) {
    ok &=
        PrintAtMost({"store_dedup", absl::StrCat("full_checkpoint_", version, "_of_5"),
                     bench.Share("full", version), "% of its bytes", 35, "XOR to the parent 30.7"});
  }
  return ok & PrintAtMost({"store_dedup", "full_checkpoints_1_to_5_packs", bench.TotalShare(bytes),
                           "% of their bytes", (2 * 100 + 3 * 35) / 5.0 + 1, "every chunker 100"});
}

bool LoraCheckpoints() {
  Bench bench;
  Normal normal(2);
  Model model = MakeLora(normal);
  double worst = 0;
  for (int i = 1; i <= 10; ++i) {
    bench.Publish("lora", {{"adapter_model.safetensors", Safetensors(model, false)}});
    Drift(model, 1e-4F, normal);
  }
  bench.Reencode();
  bench.CheckReadable("lora");
  // The first is the keyframe, and after six others the eighth is.
  for (const int version : {2, 3, 4, 5, 6, 7, 9}) {
    worst = std::max(worst, bench.Share("lora", version));
  }
  return PrintAtMost({"store_dedup", "lora_checkpoint_worst_of_10_but_keyframes_and_latest", worst,
                      "% of its bytes", 70.5, "XOR to the parent 70.5"});
}

bool Resharded() {
  Bench bench;
  Normal normal(3);
  Model model = MakeModel(normal);
  bench.Publish("model", {{"model.safetensors", Safetensors(model, true)}});
  std::sort(model.begin(), model.end(),
            [](const Tensor& a, const Tensor& b) { return a.name < b.name; });
  const auto half = model.begin() + static_cast<std::ptrdiff_t>(model.size() / 2);
  const double added = bench.Publish(
      "model", {{"model-1.safetensors", Safetensors(Model(model.begin(), half), true)},
                {"model-2.safetensors", Safetensors(Model(half, model.end()), true)}});
  return PrintAtMost(
      {"store_dedup", "resharded_1_to_2_files", added, "% of its bytes", 0.5, "tensor chunks 0"});
}

bool EditedLines() {
  Bench bench;
  SeededRandom random(4);
  std::vector<std::string> words;
  for (int i = 0; i < 20'000; ++i) words.push_back(random.Id(2 + random.Uniform(9)));
  const auto line = [&](int id) {
    const auto text = [&](uint64_t least, uint64_t spread) {
      std::vector<absl::string_view> picked(least + random.Uniform(spread));
      for (absl::string_view& word : picked) word = words[random.Uniform(words.size())];
      return absl::StrJoin(picked, " ");
    };
    return absl::StrCat("{\"id\": ", id, ", \"prompt\": \"", text(20, 100), "\", \"response\": \"",
                        text(30, 230), "\"}");
  };
  std::vector<std::string> lines;
  for (int i = 0; i < 20'000; ++i) lines.push_back(line(i));
  bench.Publish("rows", {{"rows.jsonl", absl::StrJoin(lines, "\n")}});
  for (size_t i = 0; i < lines.size() / 100; ++i) {
    const size_t at = random.Uniform(lines.size());
    lines[at] = line(static_cast<int>(at));
  }
  const double added = bench.Publish("rows", {{"rows.jsonl", absl::StrJoin(lines, "\n")}});
  return PrintAtMost({"store_dedup", "jsonl_1_percent_of_lines_edited", added, "% of its bytes",
                      17.1, "FastCDC 16K 17.1"});
}

}  // namespace
}  // namespace graft::fileservice

int main() {
  using namespace graft::fileservice;
  bool ok = FullCheckpoints();
  ok &= LoraCheckpoints();
  ok &= Resharded();
  ok &= EditedLines();
  return ok ? 0 : 1;
}
