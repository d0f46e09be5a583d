#include "client/cli/csv.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

const std::vector<std::string> kColumns = {"name", "role"};

std::string Refusal(absl::string_view text) {
  return std::string(ParseCsv(text, "people.csv", kColumns).status().message());
}

TEST(CsvTest, RowsAreReadByTheirColumnsNames) {
  const auto rows = ParseCsv("\xef\xbb\xbfrole,name\r\nuser,ana\r\n\r\n\"a, \"\"b\"\"\",bo\n",
                             "people.csv", kColumns);
  ASSERT_THAT(rows.status(), IsOk());
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_THAT((*rows)[0].fields, ElementsAre(Pair("name", "ana"), Pair("role", "user")));
  EXPECT_EQ((*rows)[1].fields.at("role"), "a, \"b\"");
  EXPECT_EQ((*rows)[1].line, 4);
}

TEST(CsvTest, RefusalsNameTheLine) {
  EXPECT_THAT(Refusal("name,rolle\n"),
              HasSubstr("people.csv:1: unknown column \"rolle\"; did you"));
  EXPECT_THAT(Refusal("name,role\nana\n"), HasSubstr("people.csv:2: 1 fields"));
  EXPECT_THAT(Refusal("name,role\n\nana,\"open\n"), HasSubstr("people.csv:3: a quote"));
  EXPECT_THAT(Refusal("name,role\n\"a\"b,c\n"), HasSubstr("people.csv:2: text after"));
  EXPECT_THAT(Refusal(""), HasSubstr("name, role"));
}

}  // namespace
}  // namespace graft::cli
