#include "worker/spec/gguf.h"

#include <cstring>
#include <string>
#include <vector>

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/spec/load.h"
#include "worker/spec/parameter_reader.h"

namespace graft::spec {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Writes GGUF by hand.
class Gguf {
 public:
  Gguf& Key(const std::string& key, uint32_t type, const std::string& value) {
    metadata_ += Str(key) + Num<uint32_t>(type) + value;
    ++keys_;
    return *this;
  }
  Gguf& Int(const std::string& key, uint32_t value) { return Key(key, 4, Num(value)); }
  Gguf& Float(const std::string& key, float value) { return Key(key, 6, Num(value)); }
  Gguf& String(const std::string& key, const std::string& value) { return Key(key, 8, Str(value)); }
  // Dimensions as GGUF has them, fastest first.
  Gguf& Tensor(const std::string& name, const std::vector<int64_t>& dims, uint32_t type,
               const std::string& data) {
    infos_ += Str(name) + Num<uint32_t>(static_cast<uint32_t>(dims.size()));
    for (int64_t d : dims) infos_ += Num(d);
    infos_ += Num(type) + Num<uint64_t>(data_.size());
    data_ += data;
    while (data_.size() % 32 != 0) data_ += '\0';
    ++tensors_;
    return *this;
  }
  Gguf& Floats(const std::string& name, const std::vector<int64_t>& dims, float first) {
    int64_t count = 1;
    for (int64_t d : dims) count *= d;
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(first + static_cast<float>(i));
    return Tensor(name, dims, 0,
                  std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  }
  std::string Bytes(uint32_t version = 3) const {
    std::string out = "GGUF" + Num(version) + Num(tensors_) + Num(keys_) + metadata_ + infos_;
    while (out.size() % 32 != 0) out += '\0';
    return out + data_;
  }
  template <typename T>
  static std::string Num(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static std::string Str(const std::string& s) { return Num<uint64_t>(s.size()) + s; }

 private:
  std::string metadata_, infos_, data_;
  uint64_t keys_ = 0, tensors_ = 0;
};

absl::StatusOr<GgufHeader> Read(const std::string& bytes) {
  return ReadGguf(*BytesInMemory(bytes), "m.gguf");
}

TEST(GgufTest, ReadsEveryTypeOfValue) {
  Gguf file;
  file.Int("u32", 7).Float("f32", 0.5f).String("s", "text");
  file.Key("bool", 7, std::string(1, '\1')).Key("i64", 11, Gguf::Num<int64_t>(-5));
  file.Key("array", 9,
           Gguf::Num<uint32_t>(8) + Gguf::Num<uint64_t>(2) + Gguf::Str("a") + Gguf::Str("b"));
  file.Floats("t", {3, 2}, 0);
  GRAFT_ASSERT_OK_AND_ASSIGN(const GgufHeader header, Read(file.Bytes()));
  EXPECT_EQ(header.Find("u32")->as_int(), 7);
  EXPECT_EQ(header.Find("f32")->as_double(), 0.5);
  EXPECT_EQ(header.Find("s")->as_string(), "text");
  EXPECT_TRUE(header.Find("bool")->as_bool());
  EXPECT_EQ(header.Find("i64")->as_int(), -5);
  EXPECT_EQ(header.Find("array")->as_array()[1].as_string(), "b");
  EXPECT_EQ(header.Find("none"), nullptr);
  EXPECT_THAT(header.tensors.at("t").shape, ElementsAre(2, 3));
  EXPECT_EQ(header.tensors.at("t").offset % 32, 0);
}

TEST(GgufTest, AFloatIsTheNumberThatWasConverted) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const GgufHeader header,
                             Read(Gguf().Float("eps", 1e-5f).Float("third", 1.0f / 3).Bytes()));
  EXPECT_EQ(header.Find("eps")->as_double(), 1e-5);
  EXPECT_EQ(static_cast<float>(header.Find("third")->as_double()), 1.0f / 3);
}

TEST(GgufTest, EveryCutOfAFileIsRefused) {
  Gguf file;
  file.Int("a", 1).String("b", "text").Floats("t", {8}, 0);
  const std::string whole = file.Bytes();
  ASSERT_THAT(Read(whole), IsOk());
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(Read(whole.substr(0, n)).ok()) << n;
}

TEST(GgufTest, ATensorBeyondTheEndIsNamed) {
  Gguf file;
  file.Floats("blk.0.attn_q.weight", {8}, 0);
  const std::string bytes = file.Bytes();
  EXPECT_THAT(Read(bytes.substr(0, bytes.size() - 1)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("m.gguf"), HasSubstr("tensor blk.0.attn_q.weight"),
                             HasSubstr("cut off"))));
}

TEST(GgufTest, ATypeThatIsNotReadIsRefusedByName) {
  Gguf file;
  file.Tensor("w", {256}, 10, std::string(84, 'x'));
  EXPECT_THAT(Read(file.Bytes()),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("tensor w"), HasSubstr("Q2_K"), HasSubstr("Q4_K"))));
}

TEST(GgufTest, HostileCountsAreRefused) {
  const std::string magic = "GGUF" + Gguf::Num<uint32_t>(3);
  EXPECT_FALSE(Read(magic + Gguf::Num<uint64_t>(1ULL << 60) + Gguf::Num<uint64_t>(0)).ok());
  EXPECT_FALSE(Read(magic + Gguf::Num<uint64_t>(0) + Gguf::Num<uint64_t>(1ULL << 40)).ok());
  Gguf long_array;
  long_array.Key("a", 9, Gguf::Num<uint32_t>(0) + Gguf::Num<uint64_t>(1ULL << 50));
  EXPECT_THAT(Read(long_array.Bytes()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("key a")));
  Gguf long_string;
  long_string.Key("s", 8, Gguf::Num<uint64_t>(1ULL << 50));
  EXPECT_FALSE(Read(long_string.Bytes()).ok());
  Gguf big;
  big.Tensor("w", {int64_t{1} << 40, int64_t{1} << 40}, 0, "");
  EXPECT_THAT(Read(big.Bytes()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tensor w")));
  Gguf partial;
  partial.Tensor("w", {33}, 2, std::string(36, 'x'));
  EXPECT_THAT(Read(partial.Bytes()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no whole Q4_0 blocks")));
}

TEST(GgufTest, AnotherVersionIsRefused) {
  EXPECT_THAT(Read(Gguf().Bytes(4)),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("version is 4")));
  EXPECT_THAT(Read("GGML" + std::string(40, '\0')), StatusIs(absl::StatusCode::kInvalidArgument));
}

// A model of one layer, two heads of 4 and one key head; numbers count up from each tensor's start.
Gguf TinyModel(const std::string& arch) {
  Gguf file;
  file.String("general.architecture", arch).Int(arch + ".embedding_length", 8);
  file.Int(arch + ".block_count", 1).Int(arch + ".attention.head_count", 2);
  file.Int(arch + ".attention.head_count_kv", 1).Int(arch + ".feed_forward_length", 6);
  file.Int(arch + ".context_length", 32).Float(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
  file.Int(arch + ".attention.key_length", 4);
  file.Floats("token_embd.weight", {8, 5}, 0).Floats("output_norm.weight", {8}, 0);
  file.Floats("blk.0.attn_norm.weight", {8}, 1).Floats("blk.0.ffn_norm.weight", {8}, 1);
  file.Floats("blk.0.attn_q.weight", {8, 8}, 0).Floats("blk.0.attn_k.weight", {8, 4}, 0);
  file.Floats("blk.0.attn_v.weight", {8, 4}, 0).Floats("blk.0.attn_output.weight", {8, 8}, 0);
  file.Floats("blk.0.ffn_gate.weight", {8, 6}, 0).Floats("blk.0.ffn_up.weight", {8, 6}, 0);
  return file.Floats("blk.0.ffn_down.weight", {6, 8}, 0);
}

std::vector<float> FirstColumn(const ModelFiles& files, const ModelDescription& model,
                               const std::string& name, int64_t rows) {
  const auto reader = ParameterReader::Open(files, model);
  std::vector<float> values(static_cast<size_t>(rows));
  EXPECT_THAT((*reader)->Read(*model.Find(name), {.column_end = 1}, DType::kF32,
                              reinterpret_cast<char*>(values.data())),
              IsOk());
  return values;
}

TEST(GgufModelTest, LlamasRowsAreBroughtBackIntoTheHubsOrder) {
  const auto files = FilesInMemory({{"m.gguf", TinyModel("llama").Bytes()}});
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  EXPECT_EQ(model.format, FileFormat::kGguf);
  EXPECT_TRUE(model.spec.tied_embeddings);
  // Stored rows of a head are 0 2 1 3 (pairs side by side) of the Hub's 0 1 2 3.
  EXPECT_THAT(FirstColumn(*files, model, "layers.0.attn.q.weight", 8),
              ElementsAre(0, 16, 8, 24, 32, 48, 40, 56));
  EXPECT_THAT(FirstColumn(*files, model, "layers.0.attn.k.weight", 4), ElementsAre(0, 16, 8, 24));
  EXPECT_THAT(FirstColumn(*files, model, "layers.0.attn.v.weight", 4), ElementsAre(0, 8, 16, 24));
}

TEST(GgufModelTest, OtherFamiliesRowsStay) {
  Gguf file = TinyModel("qwen2");
  for (const char* name : {"q", "k", "v"}) {
    file.Floats(std::string("blk.0.attn_") + name + ".bias", {name[0] == 'q' ? 8 : 4}, 0);
  }
  const auto files = FilesInMemory({{"m.gguf", file.Bytes()}});
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  EXPECT_EQ(model.spec.model_type, "qwen2");
  EXPECT_THAT(FirstColumn(*files, model, "layers.0.attn.k.weight", 4), ElementsAre(0, 8, 16, 24));
}

TEST(GgufModelTest, GemmasNormsLoseTheOneThatWasAdded) {
  const auto files = FilesInMemory({{"m.gguf", TinyModel("gemma").Bytes()}});
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  EXPECT_THAT(FirstColumn(*files, model, "layers.0.attn_norm.weight", 8),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(GgufModelTest, AnUnknownArchitectureIsRefusedWithTheKnownOnes) {
  const auto files = FilesInMemory({{"m.gguf", TinyModel("rwkv7").Bytes()}});
  EXPECT_THAT(ReadModel(*files),
              StatusIs(absl::StatusCode::kUnimplemented,
                       AllOf(HasSubstr("m.gguf"), HasSubstr("\"rwkv7\""), HasSubstr("llama"))));
}

TEST(GgufModelTest, AQuantisedVectorIsWidened) {
  Gguf file;
  file.String("general.architecture", "llama").Int("llama.embedding_length", 32);
  file.Int("llama.block_count", 1).Int("llama.attention.head_count", 1);
  file.Int("llama.feed_forward_length", 1).Int("llama.attention.key_length", 2);
  file.Floats("token_embd.weight", {32, 3}, 0).Floats("blk.0.attn_norm.weight", {32}, 0);
  file.Floats("blk.0.ffn_norm.weight", {32}, 0).Floats("blk.0.attn_q.weight", {32, 2}, 0);
  file.Floats("blk.0.attn_k.weight", {32, 2}, 0).Floats("blk.0.attn_v.weight", {32, 2}, 0);
  file.Floats("blk.0.attn_output.weight", {2, 32}, 0).Floats("blk.0.ffn_gate.weight", {32, 1}, 0);
  file.Floats("blk.0.ffn_up.weight", {32, 1}, 0);
  // Scale 1 and the numbers 1 - 8 and 2 - 8.
  const std::string block = std::string("\x00\x3c", 2) + std::string(16, '\x21');
  file.Tensor("output_norm.weight", {32}, 2, block);
  // The last matrix is [32, 1]: blocks cannot lie along rows of one number.
  Gguf wrong = file;
  wrong.Tensor("blk.0.ffn_down.weight", {32}, 2, block);
  EXPECT_THAT(
      ReadModel(*FilesInMemory({{"m.gguf", wrong.Bytes()}})),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tensor blk.0.ffn_down.weight")));
  file.Floats("blk.0.ffn_down.weight", {1, 32}, 0);
  const auto files = FilesInMemory({{"m.gguf", file.Bytes()}});
  GRAFT_ASSERT_OK_AND_ASSIGN(const ModelDescription model, ReadModel(*files));
  const std::vector<float> norm = FirstColumn(*files, model, "final_norm.weight", 32);
  EXPECT_EQ(norm[0], -7);
  EXPECT_EQ(norm[31], -6);
  const auto reader = ParameterReader::Open(*files, model);
  EXPECT_THAT((*reader)->MappedRow(*model.Find("final_norm.weight"), 0, 31),
              StatusIs(absl::StatusCode::kUnimplemented));
}

TEST(GgufModelTest, ATensorThatNothingReadsIsRefused) {
  const auto files = FilesInMemory(
      {{"m.gguf", TinyModel("llama").Floats("blk.0.attn_q_norm.weight", {4}, 0).Bytes()}});
  EXPECT_THAT(ReadModel(*files),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("blk.0.attn_q_norm.weight")));
}

TEST(GgufModelTest, Llama3FrequenciesAreRecognised) {
  // Head of 4: frequencies 1 and 500000^-0.5; the quotients of factor 8 are 1 and, far beyond the
  // longest wave, 8.
  Gguf file = TinyModel("llama").Float("llama.rope.freq_base", 500000);
  const std::string quotients = Gguf::Num(1.0f) + Gguf::Num(8.0f);
  const auto read = [&](const std::string& data) {
    Gguf with = file;
    return ReadModel(
        *FilesInMemory({{"m.gguf", with.Tensor("rope_freqs.weight", {2}, 0, data).Bytes()}}));
  };
  // 2 pi 707 = 4443 is between 8192 / 4 and 8192: neither 1 nor 8.
  EXPECT_THAT(read(quotients), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("rope_freqs")));
  file.Float("llama.rope.freq_base", 1e9f);  // a wave longer than 8192
  const auto model = read(quotients);
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->spec.ropes[0].kind, RopeKind::kLlama3);
  EXPECT_EQ(model->spec.ropes[0].factor, 8);
}

TEST(GgufModelTest, AMissingTensorIsNamedAsTheFileNamesIt) {
  Gguf file;
  file.String("general.architecture", "llama").Int("llama.embedding_length", 8);
  file.Int("llama.block_count", 1).Int("llama.attention.head_count", 2);
  file.Int("llama.feed_forward_length", 6).Floats("token_embd.weight", {8, 5}, 0);
  EXPECT_THAT(ReadModel(*FilesInMemory({{"m.gguf", file.Bytes()}})),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("blk.0.attn_k.weight"), HasSubstr("missing"))));
}

}  // namespace
}  // namespace graft::spec
