#include "rpc/config.h"

#include "base/file.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "rpc/testing/config.pb.h"

namespace graft::rpc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TestConfig;

absl::Status Json(absl::string_view text) {
  TestConfig config;
  return ParseJsonConfig(text, "c.json", config);
}
absl::Status Text(absl::string_view text) {
  TestConfig config;
  return ParseTextConfig(text, "c.txt", config);
}
auto Says(const std::string& a, const std::string& b) {
  return StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr(a), HasSubstr(b)));
}

TEST(ConfigTest, BothFormsGiveTheSameMessage) {
  TestConfig json, text;
  EXPECT_THAT(ParseJsonConfig(R"({"listen_address": "a:1", "store": {"path": "/d", "cacheBytes": 5},
      "peers": [{"path": "p"}], "level": "LEVEL_DEBUG", "limits": {"x": 3}, "insecure": true})",
                              "c", json),
              IsOk());
  EXPECT_THAT(ParseTextConfig(R"(listen_address: "a:1" store { path: "/d" cache_bytes: 5 }
      peers { path: "p" } level: LEVEL_DEBUG limits { key: "x" value: 3 } insecure: true)",
                              "c", text),
              IsOk());
  EXPECT_EQ(json.SerializeAsString(), text.SerializeAsString());
  EXPECT_EQ(json.store().cache_bytes(), 5);
}

TEST(ConfigTest, AnUnknownKeyOfJsonIsNamedWithItsLineAndTheNearest) {
  EXPECT_THAT(Json("{\n  \"store\": {\n    \"pth\": \"/d\"\n  }\n}"),
              Says("c.json:3: store.pth:", "did you mean 'path'?"));
  EXPECT_THAT(Json("{\n\"peers\": [{\"path\": \"a\"},\n {\"cache\": 1}]}"),
              Says("c.json:3: peers[1].cache:", "known are path, cache_bytes"));
}

TEST(ConfigTest, AnIllTypedValueOfJsonIsNamedWithItsLine) {
  EXPECT_THAT(Json("{\n\"store\": {\"path\": \"x\",\n\"cache_bytes\": \"many\"}}"),
              Says("c.json:3: store.cache_bytes:", "expected an integer, not \"many\""));
  EXPECT_THAT(Json("{\"insecure\": 1}"), Says("c.json:1: insecure:", "true or false"));
  EXPECT_THAT(Json("{\"level\": \"LEVEL_DEBUGG\"}"), Says("level:", "did you mean 'LEVEL_DEBUG'"));
  EXPECT_THAT(Json("{\"limits\": {\"a\": {}}}"), Says("limits.a:", "expected an integer"));
  EXPECT_THAT(Json("{\"peers\": {}}"), Says("peers:", "expected a list"));
  EXPECT_THAT(Json("{\n,}"), Says("c.json:", "line 2"));
}

TEST(ConfigTest, TextIsReadAsStrictly) {
  EXPECT_THAT(Text("listen_address: \"a\"\nstore {\n  pth: \"/d\"\n}"),
              Says("c.txt:3: store.pth:", "did you mean 'path'?"));
  EXPECT_THAT(Text("# a comment\nlisten_adress: \"a\""),
              Says("c.txt:2: listen_adress:", "did you mean 'listen_address'?"));
  EXPECT_THAT(Text("store {\n cache_bytes: \"x\" }"), Says("c.txt:2: store:", "integer"));
}

TEST(ConfigTest, AMissingFileIsNamed) {
  TestConfig config;
  EXPECT_THAT(ReadConfig("/nonexistent/graft.json", config),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/nonexistent/graft.json")));
}

TEST(ArgumentsTest, OptionsStandAboveTheFileWhereverTheyCome) {
  const std::string file = ::testing::TempDir() + "/arguments.json";
  ASSERT_THAT(WriteFileAtomically(file, R"({"listen_address": "a:1", "store": {"path": "/d"}})"),
              IsOk());
  TestConfig config;
  const auto words =
      ReadArguments({"check", "--listen-address", "b:2", "--config", file, "--insecure"}, config);
  ASSERT_THAT(words, IsOk());
  EXPECT_EQ(*words, std::vector<std::string>{"check"});
  EXPECT_EQ(config.listen_address(), "b:2");
  EXPECT_EQ(config.store().path(), "/d");
  EXPECT_TRUE(config.insecure());
}

TEST(ArgumentsTest, WhatIsNoOptionIsNamedWithTheNearest) {
  TestConfig config;
  EXPECT_THAT(ReadArguments({"--listen-adress", "b:2"}, config).status(),
              Says("--listen-adress", "did you mean --listen-address?"));
  EXPECT_THAT(ReadArguments({"--store", "/d"}, config).status(), Says("--store", "no option"));
  EXPECT_THAT(ReadArguments({"--listen-address"}, config).status(),
              Says("--listen-address", "wants a value"));
  EXPECT_THAT(ReadArguments({"--insecure=perhaps"}, config).status(),
              Says("--insecure", "perhaps"));
  EXPECT_THAT(ReadArguments({"--insecure=false"}, config).status(), IsOk());
  EXPECT_FALSE(config.insecure());
}

}  // namespace
}  // namespace graft::rpc
