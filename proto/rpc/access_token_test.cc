#include "rpc/access_token.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

using ::testing::HasSubstr;

class AccessTokenTest : public ::testing::Test {
 protected:
  TokenClaims Claims() {
    return {.issuer = "graft",
            .audience = "fileservice",
            .subject = "ann",
            .roles = {{"w", Role::kUser}},
            .jti = "j1",
            .expires = clock_.WallNow() + absl::Minutes(10)};
  }
  absl::StatusOr<std::shared_ptr<const Identity>> Check(const std::string& token) {
    return verifier_.Authenticate({.bearer = token});
  }

  FakeClock clock_;
  TokenSigner signer_ = *TokenSigner::FromSeed(std::string(32, 'a'));
  TokenVerifier verifier_{clock_,
                          {.issuer = "graft",
                           .audiences = {"fileservice"},
                           .keys = {signer_.public_key()},
                           .peers = {}}};
};

TEST_F(AccessTokenTest, ClaimsBecomeAnIdentity) {
  TokenClaims claims = Claims();
  claims.kind = IdentityKind::kWorker;
  claims.capability = Capability{{"w/data/3", "w/model/1"}, "up-1", "job/2", 7};
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto identity, Check(*signer_.Sign(claims)));
  EXPECT_EQ(identity->kind, IdentityKind::kWorker);
  EXPECT_EQ(identity->subject, "ann");
  EXPECT_EQ(identity->RoleIn("w"), Role::kUser);
  EXPECT_EQ(identity->RoleIn("other"), Role::kNone);
  EXPECT_EQ(identity->expires, claims.expires);
  ASSERT_TRUE(identity->capability.has_value());
  EXPECT_EQ(identity->capability->read_versions.size(), 2u);
  EXPECT_EQ(identity->capability->upload_session, "up-1");
  EXPECT_EQ(identity->capability->epoch, 7);
}

TEST_F(AccessTokenTest, ATokenEndsWithItsTimeAlsoWhereItIsRemembered) {
  const std::string token = *signer_.Sign(Claims());
  EXPECT_THAT(Check(token), IsOk());
  clock_.Advance(absl::Minutes(9));
  EXPECT_THAT(Check(token), IsOk());
  clock_.Advance(absl::Minutes(2));
  EXPECT_EQ(ReadErrorDetails(Check(token).status()).reason, "TOKEN_EXPIRED");
}

TEST_F(AccessTokenTest, EveryChangedCharacterIsRefused) {
  const std::string token = *signer_.Sign(Claims());
  for (size_t i = 0; i + 1 < token.size(); ++i) {
    std::string changed = token;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    EXPECT_THAT(Check(changed), StatusIs(absl::StatusCode::kUnauthenticated)) << i;
  }
}

TEST_F(AccessTokenTest, AnotherKeyAudienceOrIssuerIsRefused) {
  const TokenSigner other = *TokenSigner::FromSeed(std::string(32, 'b'));
  EXPECT_THAT(Check(*other.Sign(Claims())),
              StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("unknown key")));
  TokenClaims claims = Claims();
  claims.audience = "graft";
  EXPECT_THAT(Check(*signer_.Sign(claims)), StatusIs(absl::StatusCode::kUnauthenticated));
  claims = Claims();
  claims.issuer = "someone";
  EXPECT_THAT(Check(*signer_.Sign(claims)), StatusIs(absl::StatusCode::kUnauthenticated));
  for (const std::string& text :
       {std::string("x"), std::string("."), std::string("e30.e30"), std::string(1 << 20, 'a')}) {
    EXPECT_THAT(Check(text), StatusIs(absl::StatusCode::kUnauthenticated));
  }
}

TEST_F(AccessTokenTest, KeysRotateAndTokensAreRevoked) {
  const TokenSigner next = *TokenSigner::FromSeed(std::string(32, 'b'));
  const std::string old_token = *signer_.Sign(Claims());
  EXPECT_THAT(Check(old_token), IsOk());
  verifier_.SetKeys({signer_.public_key(), next.public_key()});
  EXPECT_THAT(Check(old_token), IsOk());
  EXPECT_THAT(Check(*next.Sign(Claims())), IsOk());
  verifier_.SetKeys({next.public_key()});
  EXPECT_THAT(Check(old_token), StatusIs(absl::StatusCode::kUnauthenticated));
  verifier_.Revoke("j1");
  EXPECT_THAT(Check(*next.Sign(Claims())),
              StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("revoked")));
}

TEST(AccessTest, EachScopeAsksForItsOwn) {
  Identity user;
  user.kind = IdentityKind::kUser;
  user.roles = {{"w", Role::kViewer}};
  const AccessRule viewer{Scope::kWorkspace, Role::kViewer}, admin{Scope::kWorkspace, Role::kAdmin};
  EXPECT_THAT(CheckAccess(viewer, user, "w"), IsOk());
  EXPECT_THAT(CheckAccess(admin, user, "w"), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(CheckAccess(viewer, user, "x"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(CheckAccess(viewer, user, "-"), IsOk());
  EXPECT_FALSE(CheckAccess(admin, user, "-").ok());
  EXPECT_FALSE(CheckAccess({Scope::kCluster, Role::kViewer}, user, "").ok());
  EXPECT_FALSE(CheckAccess({Scope::kWorker, Role::kNone}, user, "").ok());
  EXPECT_FALSE(CheckAccess({Scope::kScheduler, Role::kNone}, user, "").ok());
  EXPECT_FALSE(CheckAccess({Scope::kUnspecified, Role::kNone}, user, "").ok());
  EXPECT_THAT(CheckAccess({Scope::kAuthenticated, Role::kNone}, user, ""), IsOk());
  EXPECT_THAT(CheckAccess(viewer, Identity(), "w"), StatusIs(absl::StatusCode::kUnauthenticated));
  EXPECT_THAT(CheckAccess({Scope::kPublic, Role::kNone}, Identity(), ""), IsOk());
  Identity worker;
  worker.kind = IdentityKind::kWorker;
  worker.capability = Capability();
  EXPECT_FALSE(CheckAccess(viewer, worker, "w").ok());
  EXPECT_THAT(CheckAccess({Scope::kWorkspace, Role::kViewer, true}, worker, "w"), IsOk());
}

}  // namespace
}  // namespace graft::rpc
