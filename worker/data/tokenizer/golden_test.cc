// Every component of tokenizer.json, against what the reference said of the same texts
// (tests/parity/tokenizer/golden, made by make_golden.py).
#include <cstdlib>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {
namespace {

std::string GoldenFolder() {
  const char* source = std::getenv("GRAFT_SOURCE_DIR");
  return JoinPath(source == nullptr ? "." : source, "tests/parity/tokenizer/golden");
}

std::vector<int32_t> Ids(const Json& json) {
  std::vector<int32_t> ids;
  for (const Json& id : json.as_array()) ids.push_back(static_cast<int32_t>(id.as_int()));
  return ids;
}

std::vector<std::pair<uint32_t, uint32_t>> Offsets(const Json& json) {
  std::vector<std::pair<uint32_t, uint32_t>> offsets;
  for (const Json& pair : json.as_array()) {
    offsets.emplace_back(pair.as_array()[0].as_int(), pair.as_array()[1].as_int());
  }
  return offsets;
}

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    GRAFT_ASSERT_OK_AND_ASSIGN(const std::string text,
                               ReadFile(JoinPath(GoldenFolder(), GetParam())));
    GRAFT_ASSERT_OK_AND_ASSIGN(golden_, Json::Parse(text));
    GRAFT_ASSERT_OK_AND_ASSIGN(tokenizer_, Tokenizer::FromJson(golden_.Find("tokenizer")->Dump()));
  }
  void CheckRows();

  Json golden_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

void GoldenTest::CheckRows() {
  for (const Json& entry : golden_.Find("rows")->as_array()) {
    const Json::Array& row = entry.as_array();
    const std::string& input = row[0].as_string();
    SCOPED_TRACE(JsonQuote(input));
    GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding plain, tokenizer_->Encode(input, {.offsets = true}));
    EXPECT_EQ(plain.ids, Ids(row[1]));
    EXPECT_EQ(plain.offsets, Offsets(row[2]));
    GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding full,
                               tokenizer_->Encode(input, {.add_special_tokens = true}));
    EXPECT_EQ(full.ids, Ids(row[3]));
    EXPECT_TRUE(full.offsets.empty());
    EXPECT_EQ(tokenizer_->Decode(plain.ids, {.skip_special_tokens = true}), row[4].as_string());
  }
}

TEST_P(GoldenTest, IdsOffsetsAndTextAreTheReferences) { CheckRows(); }

TEST_P(GoldenTest, WrittenAndReadAgainItIsTheSame) {
  GRAFT_ASSERT_OK_AND_ASSIGN(tokenizer_, Tokenizer::FromJson(tokenizer_->ToJson()));
  CheckRows();
}

std::vector<std::string> GoldenFiles() {
  const absl::StatusOr<std::vector<std::string>> names = ListDirectory(GoldenFolder());
  return names.ok() ? *names : std::vector<std::string>();
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTest, ::testing::ValuesIn(GoldenFiles()), [](const auto& info) {
  return info.param.substr(0, info.param.find('.'));
});

TEST(GoldenFilesTest, AreThere) { EXPECT_GE(GoldenFiles().size(), 50u); }

}  // namespace
}  // namespace graft::data
