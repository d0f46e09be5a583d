#include "base/digest.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

TEST(DigestTest, MatchesTheVectorsOfFips180) {
  EXPECT_EQ(Sha256::HexOf(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256::HexOf("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, AStreamHashesLikeItsWhole) {
  Sha256 hash;
  hash.Update("a");
  hash.Update("");
  hash.Update("bc");
  EXPECT_EQ(ToHex(hash.Finish()), Sha256::HexOf("abc"));
}

TEST(DigestTest, HexRoundTripsAndRefusesOtherText) {
  const Sha256Digest digest = Sha256::Of("x");
  GRAFT_ASSERT_OK_AND_ASSIGN(const Sha256Digest back, DigestFromHex(ToHex(digest)));
  EXPECT_EQ(back, digest);
  EXPECT_THAT(DigestFromHex("abc"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(DigestFromHex(std::string(64, 'g')), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(DigestTest, Crc32cMatchesRfc3720AndExtends) {
  EXPECT_EQ(Crc32c(0, std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(0, "123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(Crc32c(0, "1234"), "56789"), 0xe3069283u);
}

TEST(DigestTest, HmacMatchesRfc4231) {
  EXPECT_EQ(ToHex(HmacSha256("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

}  // namespace
}  // namespace graft
