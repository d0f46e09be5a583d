// The daemon and the library together, as a person uses them: a process, port 0, real files.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "fileservice/transfer/client.h"
#include "gmock/gmock.h"
#include "tests/support/process.h"

namespace graft::fileservice {
namespace {

using ::testing::HasSubstr;

class TransferTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/graft-transfer-XXXXXX";
    root_ = mkdtemp(folder);
    StartServer();
  }
  void TearDown() override {
    StopServer(SIGKILL);
    ASSERT_THAT(RemoveTree(root_), IsOk());
  }

  void StartServer() {
    const std::string binary = JoinPath(std::getenv("GRAFT_BINARY_DIR"), "bin/graft-fileservice");
    const std::string port_file = root_ + "/port";
    unlink(port_file.c_str());
    server_.emplace(std::vector<std::string>{binary, "--data", root_ + "/store", "--listen",
                                             "127.0.0.1:0", "--insecure", "--no-auth",
                                             "--port-file", port_file});
    ASSERT_TRUE(server_->WaitForFile(port_file));
    GRAFT_ASSERT_OK_AND_ASSIGN(const std::string port, ReadFile(port_file));
    Client::Options options;
    options.address = absl::StrCat("127.0.0.1:", std::atoi(port.c_str()));
    options.insecure = true;
    GRAFT_ASSERT_OK_AND_ASSIGN(client_, Client::Connect(options));
  }
  int StopServer(int signal) { return server_.has_value() ? server_->Stop(signal) : 0; }

  void Write(const std::string& path, const std::string& content) {
    ASSERT_THAT(MakeDirectories(path.substr(0, path.rfind('/'))), IsOk());
    ASSERT_THAT(WriteFileAtomically(path, content), IsOk());
  }
  // Every file of a folder with its content.
  std::map<std::string, std::string> Contents(const std::string& folder,
                                              const std::string& below = "") {
    std::map<std::string, std::string> result;
    const auto names = ListDirectory(JoinPath(folder, below));
    for (const std::string& name : *names) {
      const std::string path = below.empty() ? name : JoinPath(below, name);
      struct stat info;
      lstat(JoinPath(folder, path).c_str(), &info);
      if (S_ISDIR(info.st_mode)) {
        result.merge(Contents(folder, path));
      } else {
        result[path] = *ReadFile(JoinPath(folder, path));
      }
    }
    return result;
  }
  std::string MakeFolder(size_t large_bytes = 6 << 20) {
    const std::string folder = root_ + "/in";
    Write(folder + "/large.bin", random_.Bytes(large_bytes));
    Write(folder + "/sub/deep/text.jsonl", std::string(100'000, 'x') + "end");
    Write(folder + "/empty", "");
    Write(folder + "/one", "1");
    chmod((folder + "/one").c_str(), 0755);
    return folder;
  }

  const std::string fileset_ = "workspaces/ws/filesets/data";
  SeededRandom random_{17};
  std::string root_;
  std::optional<testing::Process> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(TransferTest, AFolderComesBackAsItWas) {
  const std::string folder = MakeFolder();
  GRAFT_ASSERT_OK_AND_ASSIGN(const Published up, client_->UploadFolder(folder, fileset_));
  EXPECT_EQ(up.version, fileset_ + "/versions/1");
  EXPECT_EQ(up.totals.done_files, 4);
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const Downloaded down,
      client_->DownloadVersion(fileset_ + "/versions/latest", root_ + "/out"));
  EXPECT_EQ(down.version, up.version);
  EXPECT_EQ(Contents(root_ + "/out"), Contents(folder));
  struct stat info;
  ASSERT_EQ(stat((root_ + "/out/one").c_str(), &info), 0);
  EXPECT_TRUE(info.st_mode & S_IXUSR);
}

TEST_F(TransferTest, WhatIsThereIsNotSentAgain) {
  const std::string folder = MakeFolder();
  ASSERT_THAT(client_->UploadFolder(folder, fileset_), IsOk());
  std::string large = *ReadFile(folder + "/large.bin");
  large.insert(1 << 20, "seventeen bytes!!");
  Write(folder + "/large.bin", large);
  GRAFT_ASSERT_OK_AND_ASSIGN(const Published second, client_->UploadFolder(folder, fileset_));
  EXPECT_EQ(second.number, 2);
  EXPECT_LT(second.totals.moved_bytes, 600'000);
  GRAFT_ASSERT_OK_AND_ASSIGN(const Downloaded down,
                             client_->DownloadVersion(second.version, root_ + "/out"));
  EXPECT_EQ(Contents(root_ + "/out"), Contents(folder));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Downloaded again,
                             client_->DownloadVersion(second.version, root_ + "/out"));
  EXPECT_EQ(again.totals.moved_bytes, 0);
}

// Large enough for a stream of its own, in which what is there already is named in its place; a
// part of it occurs twice.
TEST_F(TransferTest, OfAChangedFileOnlyWhatChangedIsSent) {
  const std::string path = root_ + "/in/large.bin";
  const std::string twice = random_.Bytes(3 << 20);
  std::string content = random_.Bytes(18 << 20) + twice + random_.Bytes(1 << 20) + twice;
  Write(path, content);
  GRAFT_ASSERT_OK_AND_ASSIGN(const Published first, client_->UploadFolder(root_ + "/in", fileset_));
  EXPECT_LT(first.totals.moved_bytes, static_cast<int64_t>(content.size()) - (2 << 20));
  content.insert(1 << 20, "seventeen bytes!!");
  content.replace(15 << 20, 100'000, random_.Bytes(100'000));
  Write(path, content);
  GRAFT_ASSERT_OK_AND_ASSIGN(const Published second,
                             client_->UploadFolder(root_ + "/in", fileset_));
  EXPECT_LT(second.totals.moved_bytes, 2 << 20);
  EXPECT_EQ(second.totals.moved_bytes + second.totals.saved_bytes,
            static_cast<int64_t>(content.size()));
  ASSERT_THAT(client_->DownloadVersion(second.version, root_ + "/out").status(), IsOk());
  EXPECT_TRUE(*ReadFile(root_ + "/out/large.bin", 64 << 20) == content);
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto files, client_->ListFiles(second.version));
  EXPECT_EQ(files.at(0).sha256, Sha256::HexOf(content));
}

TEST_F(TransferTest, WhatWasPublishedSurvivesAKill) {
  const std::string folder = MakeFolder();
  ASSERT_THAT(client_->UploadFolder(folder, fileset_), IsOk());
  StopServer(SIGKILL);
  StartServer();
  ASSERT_THAT(client_->DownloadVersion(fileset_ + "/versions/1", root_ + "/out"), IsOk());
  EXPECT_EQ(Contents(root_ + "/out"), Contents(folder));
}

TEST_F(TransferTest, ATermDrainsAndEndsWell) {
  ASSERT_THAT(client_->UploadFolder(MakeFolder(), fileset_), IsOk());
  EXPECT_EQ(StopServer(SIGTERM), 0);
}

TEST_F(TransferTest, RangesOfAFileAreRead) {
  const std::string folder = MakeFolder();
  ASSERT_THAT(client_->UploadFolder(folder, fileset_), IsOk());
  const std::string large = *ReadFile(folder + "/large.bin");
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto file,
                             client_->OpenFile(fileset_ + "/versions/1", "large.bin"));
  ASSERT_EQ(file->size(), static_cast<int64_t>(large.size()));
  for (const auto& [offset, length] :
       std::vector<std::pair<int64_t, size_t>>{{0, 1}, {100, 200'000}, {3 << 20, 3 << 20}}) {
    std::string out(length, '\0');
    ASSERT_THAT(file->ReadAt(offset, length, out.data()), IsOk());
    EXPECT_EQ(out, large.substr(static_cast<size_t>(offset), length));
  }
  char byte;
  EXPECT_THAT(file->ReadAt(file->size(), 1, &byte), StatusIs(absl::StatusCode::kOutOfRange));
}

TEST_F(TransferTest, WhatThisMachineHasIsLinkedAndTheRestIsFetched) {
  const std::string in = MakeFolder();
  ASSERT_THAT(client_->UploadFolder(in, fileset_), IsOk());
  ASSERT_THAT(client_->DownloadVersion(fileset_ + "/versions/1", root_ + "/one"), IsOk());
  Write(in + "/one", "2");
  Write(root_ + "/one/empty", "no longer");
  unlink((root_ + "/one/sub/deep/text.jsonl").c_str());
  ASSERT_EQ(
      symlink((in + "/sub/deep/text.jsonl").c_str(), (root_ + "/one/sub/deep/text.jsonl").c_str()),
      0);
  ASSERT_THAT(client_->UploadFolder(in, fileset_), IsOk());
  DownloadOptions options;
  options.link_from = root_ + "/one";
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const Downloaded down,
      client_->DownloadVersion(fileset_ + "/versions/2", root_ + "/two", options));
  EXPECT_EQ(Contents(root_ + "/two"), Contents(in));
  const auto inode = [&](const std::string& path) {
    struct stat info;
    EXPECT_EQ(lstat((root_ + path).c_str(), &info), 0) << path;
    return info.st_ino;
  };
  EXPECT_EQ(inode("/two/large.bin"), inode("/one/large.bin"));
  EXPECT_EQ(down.totals.saved_bytes, 6 << 20);
  for (const char* path : {"/one", "/empty", "/sub/deep/text.jsonl"}) {
    EXPECT_NE(inode(absl::StrCat("/two", path)), inode(absl::StrCat("/one", path))) << path;
  }
}

TEST_F(TransferTest, APlantedLinkLeadsNowhere) {
  ASSERT_THAT(client_->UploadFolder(MakeFolder(1000), fileset_), IsOk());
  ASSERT_THAT(MakeDirectories(root_ + "/out"), IsOk());
  ASSERT_THAT(MakeDirectories(root_ + "/outside"), IsOk());
  ASSERT_EQ(symlink("../outside", (root_ + "/out/sub").c_str()), 0);
  Write(root_ + "/outside/victim", "untouched");
  ASSERT_EQ(symlink("../outside/victim", (root_ + "/out/one").c_str()), 0);
  EXPECT_FALSE(client_->DownloadVersion(fileset_ + "/versions/1", root_ + "/out").ok());
  const std::map<std::string, std::string> expected = {{"victim", "untouched"}};
  EXPECT_EQ(Contents(root_ + "/outside"), expected);
}

TEST_F(TransferTest, APlantedHardLinkIsReplacedAndNotWrittenThrough) {
  const std::string in = MakeFolder(1000);
  ASSERT_THAT(client_->UploadFolder(in, fileset_), IsOk());
  ASSERT_THAT(MakeDirectories(root_ + "/out"), IsOk());
  Write(root_ + "/victim", "untouched");
  ASSERT_EQ(link((root_ + "/victim").c_str(), (root_ + "/out/one").c_str()), 0);
  ASSERT_THAT(client_->DownloadVersion(fileset_ + "/versions/1", root_ + "/out"), IsOk());
  EXPECT_EQ(Contents(root_ + "/out"), Contents(in));
  EXPECT_EQ(*ReadFile(root_ + "/victim"), "untouched");
}

TEST_F(TransferTest, APartialFolderThatIsALinkIsRefused) {
  ASSERT_THAT(client_->UploadFolder(MakeFolder(1000), fileset_), IsOk());
  ASSERT_THAT(MakeDirectories(root_ + "/out"), IsOk());
  ASSERT_THAT(MakeDirectories(root_ + "/outside"), IsOk());
  ASSERT_EQ(symlink("../outside", (root_ + "/out/.graft-partial").c_str()), 0);
  EXPECT_FALSE(client_->DownloadVersion(fileset_ + "/versions/1", root_ + "/out").ok());
  EXPECT_TRUE(Contents(root_ + "/outside").empty());
}

TEST_F(TransferTest, APartialFileOfAnotherProcessIsTakenUp) {
  const std::string folder = MakeFolder(20 << 20);
  ASSERT_THAT(client_->UploadFolder(folder, fileset_), IsOk());
  const std::string large = *ReadFile(folder + "/large.bin");
  // As another process left it: the first 8 MiB of the file.
  const std::string partial = Sha256::HexOf(large) + "-" + Sha256::HexOf("large.bin").substr(0, 16);
  Write(root_ + "/out/.graft-partial/" + partial, large.substr(0, 8 << 20));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Downloaded down,
                             client_->DownloadVersion(fileset_ + "/versions/1", root_ + "/out"));
  EXPECT_EQ(down.totals.saved_bytes, 8 << 20);
  EXPECT_EQ(Contents(root_ + "/out"), Contents(folder));
}

TEST_F(TransferTest, ALinkIsNotFollowedOnTheWayUp) {
  const std::string folder = MakeFolder(1000);
  ASSERT_EQ(symlink("/etc/hostname", (folder + "/link").c_str()), 0);
  EXPECT_THAT(client_->UploadFolder(folder, fileset_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("/link")));
}

}  // namespace
}  // namespace graft::fileservice
