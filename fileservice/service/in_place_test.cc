#include "fileservice/service/in_place.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "fileservice/catalog/test_store.h"
#include "fileservice/service/file_reader.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::HasSubstr;

class InPlaceTest : public ::testing::Test {
 protected:
  InPlaceTest() {
    char folder[] = "/tmp/graft-in-place-XXXXXX";
    root_ = mkdtemp(folder);
    GRAFT_CHECK_OK(MakeDirectories(root_ + "/allowed/model/sub"));
    GRAFT_CHECK_OK(MakeDirectories(root_ + "/secret"));
    Write("/allowed/model/config.json", "{}");
    Write("/allowed/model/sub/weights.bin", std::string(100'000, 'w'));
    GRAFT_CHECK_OK(test_.Open());
  }
  ~InPlaceTest() override { GRAFT_CHECK_OK(RemoveTree(root_)); }

  void Write(const std::string& path, const std::string& content) {
    GRAFT_CHECK_OK(WriteFileAtomically(root_ + path, content));
  }
  absl::StatusOr<InPlaceFolder> Scan(const std::string& path) {
    return ScanInPlace(root_ + path, {root_ + "/allowed"});
  }
  ResolvedVersion Register() {
    const auto folder = Scan("/allowed/model");
    GRAFT_CHECK_OK(folder.status());
    auto version = test_.catalog().PublishInPlace({"ws", "model"}, 0, folder->root, folder->entries,
                                                  "", "users/me", "");
    GRAFT_CHECK_OK(version.status());
    return *std::move(version);
  }
  absl::StatusOr<std::string> Read(const ResolvedVersion& version, const std::string& path) {
    const auto reader = FileReader::Open(test_.catalog(), test_.store(), version, path);
    if (!reader.ok()) return reader.status();
    std::string content(static_cast<size_t>((*reader)->entry().size), '\0');
    const absl::Status status = (*reader)->ReadAt(0, content.size(), content.data());
    if (!status.ok()) return status;
    return content;
  }

  std::string root_;
  TestStore test_{{.seed = 2}};
};

TEST_F(InPlaceTest, AFolderIsHashedAndServedWhereItLies) {
  const ResolvedVersion version = Register();
  EXPECT_EQ(version.version.file_count, 2);
  EXPECT_EQ(test_.catalog().GetEntry(version, "config.json")->sha256, Sha256::Of("{}"));
  EXPECT_EQ(*Read(version, "sub/weights.bin"), std::string(100'000, 'w'));
}

TEST_F(InPlaceTest, AChangedOrMissingFileIsAnErrorByName) {
  const ResolvedVersion version = Register();
  Write("/allowed/model/config.json", "{ }");
  EXPECT_THAT(Read(version, "config.json"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("config.json")));
  ASSERT_EQ(unlink((root_ + "/allowed/model/sub/weights.bin").c_str()), 0);
  EXPECT_THAT(Read(version, "sub/weights.bin"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("sub/weights.bin")));
}

TEST_F(InPlaceTest, NothingOutsideOfTheRootsCanBeRegistered) {
  EXPECT_THAT(Scan("/secret"), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(Scan("/nowhere"), StatusIs(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(Scan("/allowed/../secret"), StatusIs(absl::StatusCode::kPermissionDenied));
  ASSERT_EQ(symlink((root_ + "/secret").c_str(), (root_ + "/allowed/way").c_str()), 0);
  EXPECT_THAT(Scan("/allowed/way"), StatusIs(absl::StatusCode::kPermissionDenied));
}

TEST_F(InPlaceTest, ALinkInsideIsRefusedByName) {
  ASSERT_EQ(symlink("/etc/passwd", (root_ + "/allowed/model/link").c_str()), 0);
  EXPECT_THAT(Scan("/allowed/model"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("model/link")));
}

}  // namespace
}  // namespace graft::fileservice
