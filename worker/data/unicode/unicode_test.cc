#include "worker/data/unicode/unicode.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/unicode/normalize.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

using ::testing::ElementsAre;

std::string Normal(absl::string_view text, NormalForm form) {
  std::string out;
  for (const CharChange& change : Normalize(text, form)) AppendCodePoint(change.code_point, out);
  return out;
}

TEST(UnicodeTest, KnowsUnicode16) {
  // U+1C89 (Cyrillic capital letter Tje) and U+10D4A (Garay) came with Unicode 16.
  EXPECT_TRUE(InCategories(0x1c89, SetOf(Category::kLu)));
  EXPECT_EQ(RecordOf(0x10d4a).script, ScriptByName("garay"));
  EXPECT_TRUE(InCategories(0x110000, SetOf(Category::kCn)));
  EXPECT_TRUE(InCategories(0xffffffff, SetOf(Category::kCn)));
}

TEST(UnicodeTest, PropertyNamesAreComparedLoosely) {
  EXPECT_EQ(CategoriesByName("Uppercase_Letter"), SetOf(Category::kLu));
  EXPECT_EQ(CategoriesByName("p"), kPunctuation);
  EXPECT_EQ(ScriptByName("Old Italic"), ScriptByName("old_italic"));
  EXPECT_FALSE(CategoriesByName("Klingon").has_value());
}

TEST(UnicodeTest, ComposesAndDecomposes) {
  EXPECT_EQ(Normal("e\xcc\x81", NormalForm::kNfc), "\xc3\xa9");
  EXPECT_EQ(Normal("\xc3\xa9", NormalForm::kNfd), "e\xcc\x81");
  EXPECT_EQ(Normal("\xea\xb0\x81", NormalForm::kNfd), "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8");
  EXPECT_EQ(Normal("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", NormalForm::kNfc), "\xea\xb0\x81");
  EXPECT_EQ(Normal("\xef\xac\x81", NormalForm::kNfkc), "fi");
  EXPECT_EQ(Normal("\xef\xac\x81", NormalForm::kNfc), "\xef\xac\x81");
}

TEST(UnicodeTest, MarksGoIntoTheOrderOfTheirClasses) {
  // U+0307 (above, 230) and U+0323 (below, 220).
  EXPECT_EQ(Normal("q\xcc\x87\xcc\xa3", NormalForm::kNfc), "q\xcc\xa3\xcc\x87");
}

TEST(UnicodeTest, ComposingCountsTheCharactersItTookAway) {
  const std::vector<CharChange> changes = Normalize("e\xcc\x81x", NormalForm::kNfc);
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].change, -1);
  EXPECT_EQ(changes[1].change, 0);
}

TEST(Utf8Test, BrokenUnitsAreTheLongestStartsOfACharacter) {
  // As Python's bytes.decode(errors="replace").
  EXPECT_EQ(ToValidUtf8("a\xf0\x9f\x98z"), "a\xef\xbf\xbdz");
  EXPECT_EQ(ToValidUtf8("\xe0\x80\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(ToValidUtf8("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(ToValidUtf8("\xc3"), "\xef\xbf\xbd");
  EXPECT_EQ(ValidUtf8Prefix("abcdefgh\xff"), 8u);
}

}  // namespace
}  // namespace graft::data
