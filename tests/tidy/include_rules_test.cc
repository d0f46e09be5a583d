#include "tests/tidy/include_rules.h"

#include <cstdlib>

#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::tidy {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string SourceDir() {
  const char* dir = std::getenv("GRAFT_SOURCE_DIR");
  return dir == nullptr ? "." : dir;
}

class IncludeRulesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    GRAFT_ASSERT_OK_AND_ASSIGN(const std::string text,
                               ReadFile(JoinPath(SourceDir(), "tests/tidy/layers.txt")));
    GRAFT_ASSERT_OK_AND_ASSIGN(layers_, Layers::Parse(text));
  }
  Layers layers_;
};

TEST_F(IncludeRulesTest, TheTreeObeysTheRules) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const Tree tree, ReadTree(SourceDir()));
  ASSERT_GT(tree.size(), 20u) << "no sources found below " << SourceDir();
  const std::vector<std::string> problems = CheckIncludes(tree, layers_);
  EXPECT_THAT(problems, IsEmpty()) << absl::StrJoin(problems, "\n");
}

// Tests of the test: each kind of breach is found.
TEST_F(IncludeRulesTest, FindsAForbiddenInclude) {
  const Tree tree = {{"fileservice/cas/a.cc", "#include \"scheduler/core/core.h\"\n"},
                     {"scheduler/core/core.h", ""}};
  EXPECT_THAT(CheckIncludes(tree, layers_),
              ElementsAre(HasSubstr("fileservice/cas/a.cc:1: fileservice/cas may not include "
                                    "scheduler/core/core.h")));
}

TEST_F(IncludeRulesTest, FindsACycle) {
  const Tree tree = {{"proto/base/a.h", "#include \"base/b.h\"\n"},
                     {"proto/base/b.h", "#include \"base/a.h\"\n"}};
  EXPECT_THAT(CheckIncludes(tree, layers_),
              ElementsAre("cycle: proto/base/a.h -> proto/base/b.h -> proto/base/a.h"));
}

TEST_F(IncludeRulesTest, FindsAPackageWhereItMayNotBe) {
  const Tree tree = {{"worker/spec/a.cc", "#include <torch/torch.h>\n"},
                     {"scheduler/core/b.cc", "#include <grpcpp/grpcpp.h>\n"},
                     {"proto/base/c.cc", "#include \"absl/synchronization/mutex.h\"\n"}};
  EXPECT_THAT(CheckIncludes(tree, layers_),
              ElementsAre(HasSubstr("absl/synchronization/mutex.h is forbidden"),
                          HasSubstr("scheduler/core may not see grpc"),
                          HasSubstr("worker/spec may not see torch")));
}

TEST_F(IncludeRulesTest, FindsAClockInAPureFolder) {
  const Tree tree = {{"scheduler/placement/a.cc", "#include \"base/clock.h\"\n"},
                     {"proto/base/clock.h", ""}};
  EXPECT_THAT(CheckIncludes(tree, layers_), ElementsAre(HasSubstr("is pure")));
}

TEST_F(IncludeRulesTest, OnlyTestsMayIncludeTests) {
  const Tree tree = {{"client/cli/a.cc", "#include \"tests/support/tier.h\"\n"},
                     {"client/cli/a_test.cc", "#include \"tests/support/tier.h\"\n"},
                     {"tests/support/tier.h", ""}};
  EXPECT_THAT(CheckIncludes(tree, layers_), ElementsAre(HasSubstr("client/cli/a.cc:1")));
}

TEST_F(IncludeRulesTest, AFolderWithoutALineIsSaid) {
  EXPECT_THAT(CheckIncludes({{"worker/util/a.cc", ""}}, layers_),
              ElementsAre(HasSubstr("has no line in layers.txt")));
}

}  // namespace
}  // namespace graft::tidy
