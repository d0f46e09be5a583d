#include "worker/spec/safetensors.h"

#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/spec/test_models.h"

namespace graft::spec {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string File(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

absl::StatusOr<TensorIndex> Read(const std::string& bytes) {
  return ReadSafetensorsHeader(*BytesInMemory(bytes), "x.safetensors");
}

TEST(SafetensorsTest, ReadsInfosAndMetadata) {
  std::vector<std::pair<std::string, std::string>> metadata;
  const std::string bytes = File(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("b":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
      std::string(16, 'x'));
  const auto tensors = ReadSafetensorsHeader(*BytesInMemory(bytes), "x.safetensors", &metadata);
  ASSERT_THAT(tensors, IsOk());
  const TensorInfo& a = tensors->at("a");
  EXPECT_EQ(a.dtype, DType::kBF16);
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  EXPECT_EQ(a.offset, static_cast<int64_t>(bytes.size()) - 12);
  EXPECT_EQ(a.bytes, 12);
  EXPECT_EQ(tensors->at("b").elements(), 1);
  EXPECT_THAT(metadata, ElementsAre(std::make_pair("format", "pt")));
}

struct Hostile {
  const char* name;
  std::string bytes;
  const char* message;
};
std::vector<Hostile> HostileFiles() {
  const auto with = [](const std::string& info, size_t data = 16) {
    return File("{\"layer.w\":" + info + "}", std::string(data, 'x'));
  };
  const uint64_t huge = uint64_t{1} << 60;
  return {
      {"Empty", "", "cut off"},
      {"ShortLength", "abc", "cut off"},
      {"HugeHeader", std::string(reinterpret_cast<const char*>(&huge), 8) + "{}", "header claims"},
      {"HeaderBeyondTheEnd", File("{}", "").substr(0, 9), "ends beyond the file"},
      {"NoJson", File("{\"a\":", ""), "no JSON"},
      {"NoObject", File("[]", ""), "no object"},
      {"DataCutOff", with(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})", 15),
       "tensor layer.w: its data ends at byte 16 of 15"},
      {"UnknownType", with(R"({"dtype":"F33","shape":[4],"data_offsets":[0,16]})"),
       "tensor layer.w: the type \"F33\""},
      {"WrongSize", with(R"({"dtype":"F32","shape":[3],"data_offsets":[0,16]})"),
       "tensor layer.w: its shape [3] of F32"},
      {"NegativeDimension", with(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})"),
       "tensor layer.w: a dimension"},
      {"OverflowingShape",
       with(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})"),
       "tensor layer.w: its shape overflows"},
      {"OverflowingBytes",
       with(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})"),
       "tensor layer.w: its shape"},
      {"BackwardOffsets", with(R"({"dtype":"F32","shape":[4],"data_offsets":[16,0]})"),
       "tensor layer.w: its data_offsets are [16, 0]"},
      {"NoOffsets", with(R"({"dtype":"F32","shape":[4]})"), "tensor layer.w: its data_offsets"},
      {"NoShape", with(R"({"dtype":"F32","data_offsets":[0,16]})"), "tensor layer.w: its shape"},
      {"InfoIsNoObject", with("7"), "tensor layer.w"},
      {"Overlap",
       File(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
            R"("b":{"dtype":"U8","shape":[8],"data_offsets":[7,15]}})",
            std::string(16, 'x')),
       "tensor b: its bytes overlap those of a"},
  };
}

class HostileFileTest : public ::testing::TestWithParam<Hostile> {};
TEST_P(HostileFileTest, IsRefusedWithTheTensorsName) {
  const auto tensors = Read(GetParam().bytes);
  ASSERT_FALSE(tensors.ok());
  EXPECT_THAT(tensors, StatusIs(absl::StatusCode::kInvalidArgument,
                                AllOf(HasSubstr("x.safetensors"), HasSubstr(GetParam().message))));
}
INSTANTIATE_TEST_SUITE_P(All, HostileFileTest, ::testing::ValuesIn(HostileFiles()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(SafetensorsTest, EveryCutOfAFileIsRefused) {
  const std::string whole = SafetensorsBytes(
      {{"a", "F32", {2, 2}, std::string(16, 'a')}, {"b", "U8", {5}, std::string(5, 'b')}});
  ASSERT_THAT(Read(whole), IsOk());
  for (size_t n = 0; n < whole.size(); ++n) {
    EXPECT_FALSE(Read(whole.substr(0, n)).ok()) << n;
  }
}

TEST(SafetensorsTest, AShardThatTheIndexNamesMustBeThere) {
  const auto files =
      FilesInMemory({{"model.safetensors.index.json",
                      R"({"weight_map":{"a":"model-00001-of-00002.safetensors"}})"}});
  EXPECT_THAT(ReadSafetensorsFolder(*files),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("model-00001-of-00002.safetensors")));
}

TEST(SafetensorsTest, ATensorThatTheIndexNamesMustBeInItsShard) {
  const auto files = FilesInMemory({{"model.safetensors.index.json",
                                     R"({"weight_map":{"a":"1.safetensors","b":"1.safetensors"}})"},
                                    {"1.safetensors", SafetensorsBytes({{"a", "U8", {1}, "x"}})}});
  EXPECT_THAT(ReadSafetensorsFolder(*files),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("tensor b: it is not in 1.safetensors")));
}

TEST(SafetensorsTest, AnIndexThatLeadsOutOfTheFolderFindsNothing) {
  const auto files = FilesInMemory(
      {{"model.safetensors.index.json", R"({"weight_map":{"a":"../secret.safetensors"}})"}});
  EXPECT_THAT(ReadSafetensorsFolder(*files), StatusIs(absl::StatusCode::kNotFound));
}

class WriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(::testing::TempDir(), "/safetensors_writer_",
                           ::testing::UnitTest::GetInstance()->current_test_info()->name());
    ASSERT_THAT(RemoveTree(folder_), IsOk());
  }
  void TearDown() override { EXPECT_THAT(RemoveTree(folder_), IsOk()); }

  std::string ReadTensor(const ModelFiles& files, const TensorInfo& info) {
    const auto source = files.Open(info.file);
    EXPECT_THAT(source, IsOk());
    std::string bytes(static_cast<size_t>(info.bytes), '\0');
    EXPECT_THAT((*source)->ReadAt(info.offset, info.bytes, bytes.data()), IsOk());
    return bytes;
  }
  std::string folder_;
};

TEST_F(WriterTest, WritesOneFileThatReadsBack) {
  auto writer = SafetensorsWriter::Create(
      {.folder = folder_},
      {{"a", DType::kF32, {2, 2}}, {"empty", DType::kF32, {0}}, {"b", DType::kU8, {3}}});
  ASSERT_THAT(writer, IsOk());
  EXPECT_FALSE(FileExists(folder_ + "/model.safetensors"));
  ASSERT_THAT((*writer)->Append("0123456789"), IsOk());
  ASSERT_THAT((*writer)->Append("abcdefxyz"), IsOk());
  const auto names = (*writer)->Finish();
  ASSERT_THAT(names, IsOk());
  EXPECT_THAT(*names, ElementsAre("model.safetensors"));
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto files, LocalModelFiles(folder_));
  GRAFT_ASSERT_OK_AND_ASSIGN(const TensorIndex tensors, ReadSafetensorsFolder(*files));
  EXPECT_EQ(ReadTensor(*files, tensors.at("a")), "0123456789abcdef");
  EXPECT_EQ(ReadTensor(*files, tensors.at("b")), "xyz");
  EXPECT_EQ(tensors.at("a").offset % 64, 0);
  EXPECT_THAT(files->Names(), ElementsAre("model.safetensors"));
}

TEST_F(WriterTest, SplitsIntoShardsOfBoundedSizeWithAnIndex) {
  std::vector<TensorToWrite> tensors;
  for (int i = 0; i < 5; ++i) tensors.push_back({absl::StrCat("t", i), DType::kU8, {40}});
  auto writer = SafetensorsWriter::Create({.folder = folder_, .max_shard_bytes = 100}, tensors);
  ASSERT_THAT(writer, IsOk());
  for (int i = 4; i >= 0; --i) {  // in any order
    ASSERT_THAT((*writer)->WriteAt(i, 0, std::string(40, static_cast<char>('0' + i))), IsOk());
  }
  const auto names = (*writer)->Finish();
  ASSERT_THAT(names, IsOk());
  EXPECT_THAT(*names,
              ElementsAre("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                          "model-00003-of-00003.safetensors", "model.safetensors.index.json"));
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto files, LocalModelFiles(folder_));
  GRAFT_ASSERT_OK_AND_ASSIGN(const TensorIndex index, ReadSafetensorsFolder(*files));
  EXPECT_EQ(index.size(), 5u);
  EXPECT_EQ(ReadTensor(*files, index.at("t3")), std::string(40, '3'));
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string text,
                             ReadFile(folder_ + "/model.safetensors.index.json"));
  EXPECT_EQ(Json::Parse(text)->Find("metadata")->GetInt("total_size"), 200);
}

TEST_F(WriterTest, ATensorLargerThanAShardStandsAlone) {
  auto writer = SafetensorsWriter::Create({.folder = folder_, .max_shard_bytes = 10},
                                          {{"a", DType::kU8, {4}}, {"big", DType::kU8, {50}}});
  ASSERT_THAT(writer, IsOk());
  ASSERT_THAT((*writer)->Append(std::string(54, 'x')), IsOk());
  EXPECT_EQ((*writer)->Finish()->size(), 3u);
}

TEST_F(WriterTest, AMissingTailIsNamedAndNothingIsPublished) {
  {
    auto writer = SafetensorsWriter::Create({.folder = folder_},
                                            {{"a", DType::kU8, {4}}, {"b", DType::kU8, {4}}});
    ASSERT_THAT(writer, IsOk());
    ASSERT_THAT((*writer)->Append("12345"), IsOk());
    EXPECT_THAT((*writer)->Finish(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                              HasSubstr("tensor b has 1 of its 4 bytes")));
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto left, ListDirectory(folder_));
  EXPECT_THAT(left, IsEmpty());
}

TEST_F(WriterTest, BytesBeyondTheLastTensorAreRefused) {
  auto writer = SafetensorsWriter::Create({.folder = folder_}, {{"a", DType::kU8, {4}}});
  ASSERT_THAT(writer, IsOk());
  EXPECT_THAT((*writer)->Append("12345"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT((*writer)->WriteAt(0, 2, "123"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tensor a")));
}

TEST_F(WriterTest, AnEarlierModelOfTheOtherLayoutDoesNotStay) {
  const auto write = [&](int64_t shard_bytes, char fill) {
    auto writer = SafetensorsWriter::Create({.folder = folder_, .max_shard_bytes = shard_bytes},
                                            {{"a", DType::kU8, {4}}, {"b", DType::kU8, {4}}});
    ASSERT_THAT(writer, IsOk());
    ASSERT_THAT((*writer)->Append(std::string(8, fill)), IsOk());
    ASSERT_THAT((*writer)->Finish(), IsOk());
    GRAFT_ASSERT_OK_AND_ASSIGN(const auto files, LocalModelFiles(folder_));
    GRAFT_ASSERT_OK_AND_ASSIGN(const TensorIndex index, ReadSafetensorsFolder(*files));
    EXPECT_EQ(ReadTensor(*files, index.at("b")), std::string(4, fill));
  };
  write(4, '1');
  write(100, '2');
  EXPECT_FALSE(FileExists(folder_ + "/model.safetensors.index.json"));
  write(4, '3');
  EXPECT_FALSE(FileExists(folder_ + "/model.safetensors"));
}

}  // namespace
}  // namespace graft::spec
