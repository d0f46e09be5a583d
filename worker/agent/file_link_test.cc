// The worker's way to the fileservice, with a real one.
#include <cstdlib>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "fileservice/transfer/client.h"
#include "gmock/gmock.h"
#include "tests/support/process.h"
#include "worker/agent/grpc_links.h"

namespace graft::agent {
namespace {

class FileLinkTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/graft-file-link-XXXXXX";
    root_ = mkdtemp(folder);
    const std::string port_file = root_ + "/port";
    server_.emplace(
        std::vector<std::string>{JoinPath(std::getenv("GRAFT_BINARY_DIR"), "bin/graft-fileservice"),
                                 "--data", root_ + "/store", "--listen", "127.0.0.1:0",
                                 "--insecure", "--no-auth", "--port-file", port_file});
    ASSERT_TRUE(server_->WaitForFile(port_file));
    GRAFT_ASSERT_OK_AND_ASSIGN(const std::string port, ReadFile(port_file));
    address_ = absl::StrCat("127.0.0.1:", std::atoi(port.c_str()));
    Upload();
    GRAFT_ASSERT_OK_AND_ASSIGN(
        link_, TransferFileLink::Open(
                   {.insecure = true, .cache_folder = root_ + "/cache", .swarm_host = GetParam()}));
    link_->SetAddress(address_);
  }
  void TearDown() override {
    link_.reset();
    server_.reset();
    ASSERT_THAT(RemoveTree(root_), IsOk());
  }
  void Upload() {
    ASSERT_THAT(MakeDirectories(root_ + "/in"), IsOk());
    ASSERT_THAT(WriteFileAtomically(root_ + "/in/model.bin", content_), IsOk());
    fileservice::Client::Options options;
    options.address = address_;
    options.insecure = true;
    GRAFT_ASSERT_OK_AND_ASSIGN(const auto client, fileservice::Client::Connect(options));
    fileservice::UploadOptions up;
    up.state_folder = root_ + "/state";
    GRAFT_ASSERT_OK_AND_ASSIGN(
        const auto published,
        client->UploadFolder(root_ + "/in", "workspaces/work/filesets/model", up));
    input_.set_version(published.version);
    input_.set_digest(published.digest);
    input_.set_size_bytes(static_cast<int64_t>(content_.size()));
  }
  absl::StatusOr<std::string> Fetch(const std::string& holder, int64_t* seen = nullptr) {
    const CancelFlag cancel{false};
    return link_->Fetch(input_, "local", holder, cancel, [seen](const FileLink::Progress& now) {
      if (seen != nullptr) *seen = now.bytes_done;
    });
  }

  const std::string content_ = SeededRandom(3).Bytes(3 << 20);
  std::string root_;
  std::optional<testing::Process> server_;
  std::string address_;
  v1::Input input_;
  std::unique_ptr<TransferFileLink> link_;
};

TEST_P(FileLinkTest, AnInputIsFetchedOnceAndSharedByItsHolders) {
  int64_t seen = 0;
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string first, Fetch("one", &seen));
  EXPECT_EQ(*ReadFile(first + "/model.bin"), content_);
  EXPECT_EQ(seen, static_cast<int64_t>(content_.size()));
  server_->Stop(SIGKILL);  // what is there needs nobody
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string second, Fetch("two"));
  EXPECT_EQ(second, first);
  link_->Release("one");
  link_->Release("two");
}

// Alone, and where it would share but the fileservice has no workers to bring together.
INSTANTIATE_TEST_SUITE_P(Ways, FileLinkTest, ::testing::Values("", "127.0.0.1"));

}  // namespace
}  // namespace graft::agent
