#include "base/seal.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

const std::string kKey(kSealKeyBytes, 'k');
const std::string kNonce(kSealNonceBytes, 'n');

TEST(SealTest, WhatWasSealedOpensAgain) {
  for (const std::string& value :
       {std::string(), std::string("hf_secret"), std::string(70000, 'x')}) {
    const std::string sealed = Seal(kKey, kNonce, value, "place");
    EXPECT_TRUE(value.empty() || sealed.find(value) == std::string::npos);
    GRAFT_ASSERT_OK_AND_ASSIGN(const std::string opened, Unseal(kKey, sealed, "place"));
    EXPECT_EQ(opened, value);
  }
}

TEST(SealTest, AnotherKeyOrPlaceDoesNotOpenIt) {
  const std::string sealed = Seal(kKey, kNonce, "value", "place");
  EXPECT_THAT(Unseal(std::string(kSealKeyBytes, 'x'), sealed, "place"),
              StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(Unseal(kKey, sealed, "elsewhere"), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(SealTest, AnyChangedOrMissingByteIsFound) {
  const std::string sealed = Seal(kKey, kNonce, "value", "place");
  for (size_t i = 0; i < sealed.size(); ++i) {
    std::string changed = sealed;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_FALSE(Unseal(kKey, changed, "place").ok()) << i;
    EXPECT_FALSE(Unseal(kKey, sealed.substr(0, i), "place").ok()) << i;
  }
}

}  // namespace
}  // namespace graft
