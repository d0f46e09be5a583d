#include "rpc/page_token.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

TEST(PageTokenTest, ATokenReadsBack) {
  const PageTokenCodec codec("key");
  const std::string text = codec.Encode({std::string("a\0b/\xff", 5), 1ULL << 63 | 7}, "q");
  GRAFT_ASSERT_OK_AND_ASSIGN(const PageToken token, codec.Decode(text, "q"));
  EXPECT_EQ(token.last_key, std::string("a\0b/\xff", 5));
  EXPECT_EQ(token.revision, 1ULL << 63 | 7);
}

TEST(PageTokenTest, AChangedTokenAnotherQueryAndAnotherKeyAreRefused) {
  const PageTokenCodec codec("key");
  const std::string text = codec.Encode({"last", 9}, "filter a");
  EXPECT_THAT(codec.Decode(text, "filter b"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_FALSE(PageTokenCodec("other").Decode(text, "filter a").ok());
  EXPECT_EQ(ReadErrorDetails(codec.Decode("", "q").status()).reason, "PAGE_TOKEN_INVALID");
  // The last character's low bits are padding and do not count.
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    std::string changed = text;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(codec.Decode(changed, "filter a").ok()) << i;
    EXPECT_FALSE(codec.Decode(text.substr(0, i), "filter a").ok()) << i;
  }
}

TEST(PageTokenTest, PageSizesHaveADefaultAndALimit) {
  EXPECT_EQ(*EffectivePageSize(0), 50);
  EXPECT_EQ(*EffectivePageSize(7), 7);
  EXPECT_EQ(*EffectivePageSize(5000), 1000);
  EXPECT_THAT(EffectivePageSize(-1), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace graft::rpc
