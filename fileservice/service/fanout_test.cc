// Workers that fetch a version together, against a real tracker and over real sockets.
#include <stdlib.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "fileservice/service/test_daemon.h"
#include "fileservice/transfer/client.h"
#include "fileservice/transfer/swarm.h"
#include "gmock/gmock.h"
#include "graft/v1/data.grpc.pb.h"
#include "rpc/client.h"

namespace graft::fileservice {
namespace {

constexpr const char* kFileset = "workspaces/ws/filesets/model";

class FanoutTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/graft-fanout-XXXXXX";
    root_ = mkdtemp(folder);
    daemon_ = std::make_unique<Daemon>(root_ + "/store", clock_);
    SeededRandom random(31);
    content_ = random.Bytes(70 << 20);
    ASSERT_THAT(MakeDirectories(root_ + "/in/sub"), IsOk());
    ASSERT_THAT(WriteFileAtomically(root_ + "/in/model.bin", content_), IsOk());
    ASSERT_THAT(WriteFileAtomically(root_ + "/in/sub/config.json", "{}"), IsOk());
    ASSERT_THAT(WriteFileAtomically(root_ + "/in/empty", ""), IsOk());
    UploadOptions up;
    up.state_folder = root_ + "/state";
    ASSERT_THAT(Connect("ws:user")->UploadFolder(root_ + "/in", kFileset, up), IsOk());
  }
  void TearDown() override {
    daemon_.reset();
    ASSERT_THAT(RemoveTree(root_), IsOk());
  }

  std::unique_ptr<Client> Connect(const std::string& token) {
    Client::Options options;
    options.address = absl::StrCat("127.0.0.1:", daemon_->server->port());
    options.insecure = true;
    options.token = [token] { return token; };
    return *Client::Connect(options);
  }
  struct Worker {
    std::unique_ptr<Client> client;
    absl::StatusOr<std::unique_ptr<SwarmMember>> member = absl::UnknownError("not run");
  };
  // All at once; each stays a member.
  std::vector<Worker> FetchTogether(int count, const SwarmOptions& options = {}) {
    std::vector<Worker> workers(static_cast<size_t>(count));
    std::vector<std::thread> threads;
    for (size_t i = 0; i < workers.size(); ++i) {
      threads.emplace_back([&, i] {
        workers[i].client = Connect("worker;ws:user");
        workers[i].member = SwarmMember::Fetch(
            *workers[i].client, absl::StrCat(kFileset, "/versions/latest"), FolderOf(i), options);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return workers;
  }
  std::string FolderOf(size_t worker) { return absl::StrCat(root_, "/w", worker); }
  void ExpectWhole(size_t worker) {
    EXPECT_TRUE(*ReadFile(FolderOf(worker) + "/model.bin") == content_) << worker;
    EXPECT_EQ(*ReadFile(FolderOf(worker) + "/sub/config.json"), "{}");
    EXPECT_EQ(*FileSize(FolderOf(worker) + "/empty"), 0);
    EXPECT_FALSE(FileExists(FolderOf(worker) + "/.graft-partial"));
  }

  RealClock clock_;
  rpc::TokenSource tokens_{clock_, [] { return rpc::AccessToken{"worker;ws:user"}; }};
  std::string root_;
  std::string content_;
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(FanoutTest, ThePiecesLeaveTheOriginAboutOnce) {
  const std::vector<Worker> workers = FetchTogether(5);
  int64_t from_origin = 0;
  for (size_t i = 0; i < workers.size(); ++i) {
    ASSERT_THAT(workers[i].member, IsOk());
    ExpectWhole(i);
    const SwarmMember::Totals totals = (*workers[i].member)->totals();
    EXPECT_EQ(totals.from_origin + totals.from_peers, totals.bytes);
    from_origin += totals.from_origin;
  }
  EXPECT_LE(from_origin, 2 * static_cast<int64_t>(content_.size()));
}

TEST_F(FanoutTest, OneAloneGetsAllFromTheOrigin) {
  const std::vector<Worker> workers = FetchTogether(1);
  ASSERT_THAT(workers[0].member, IsOk());
  ExpectWhole(0);
  EXPECT_EQ((*workers[0].member)->totals().from_peers, 0);
}

TEST_F(FanoutTest, WhoComesLaterIsServedByThoseWhoHaveIt) {
  const std::vector<Worker> first = FetchTogether(2);
  auto client = Connect("worker;ws:user");
  const auto late =
      SwarmMember::Fetch(*client, absl::StrCat(kFileset, "/versions/1"), root_ + "/late");
  ASSERT_THAT(late, IsOk());
  EXPECT_GT((*late)->totals().from_peers, 0);
  EXPECT_TRUE(*ReadFile(root_ + "/late/model.bin") == content_);
}

// Whoever holds the token of the swarm and sends other bytes: noticed at the first piece, which
// nobody stores; the version still arrives whole.
TEST_F(FanoutTest, ALiarIsFoundOutAndNobodyStoresWhatItSends) {
  auto client = Connect("worker;ws:user");
  auto listener = *HttpListener::Bind({.address = "127.0.0.1:0"});
  std::atomic<int> asked{0};
  listener->Serve([&](const HttpRequest& request, HttpConnection& connection) {
    ++asked;
    const std::string lie(8 << 20, 'x');
    GRAFT_RETURN_IF_ERROR(connection.Write(
        absl::StrCat("HTTP/1.1 200 OK\r\nContent-Length: ", lie.size(), "\r\n\r\n")));
    return connection.Write(lie);
  });
  // A member that says it has every piece.
  auto channel =
      *rpc::Connection::Dial({.address = absl::StrCat("127.0.0.1:", daemon_->server->port()),
                              .insecure = true,
                              .tokens = &tokens_});
  auto stub = v1::DataService::NewStub(channel->channel());
  grpc::ClientContext context;
  ASSERT_THAT(channel->Prepare(context), IsOk());
  const auto stream = stub->ExchangePieces(&context);
  v1::ExchangePiecesRequest lies;
  lies.set_version(absl::StrCat(kFileset, "/versions/1"));
  lies.set_address(absl::StrCat("127.0.0.1:", listener->port()));
  for (uint32_t piece = 0; piece < 9; ++piece) lies.add_completed(piece);
  ASSERT_TRUE(stream->Write(lies));
  const std::vector<Worker> workers = FetchTogether(3, {.patience = absl::Seconds(1)});
  for (size_t i = 0; i < workers.size(); ++i) {
    ASSERT_THAT(workers[i].member, IsOk());
    ExpectWhole(i);
  }
  EXPECT_GT(asked, 0);
  context.TryCancel();
  stream->Finish();
}

TEST_F(FanoutTest, WhatAnotherProcessLeftIsVerifiedAndKept) {
  {
    auto client = Connect("worker;ws:user");
    const auto cut = SwarmMember::Fetch(*client, absl::StrCat(kFileset, "/versions/1"), FolderOf(0),
                                        {.fetches = 1}, [&](const Progress&) { return false; });
    EXPECT_THAT(cut, StatusIs(absl::StatusCode::kCancelled));
  }
  const std::vector<Worker> workers = FetchTogether(1);
  ASSERT_THAT(workers[0].member, IsOk());
  ExpectWhole(0);
}

TEST_F(FanoutTest, OnlyWorkersJoinAndOnlyMembersAreServed) {
  const std::vector<Worker> workers = FetchTogether(1);
  ASSERT_THAT(workers[0].member, IsOk());
  // A user is no worker: the tracker refuses, and the pieces come from the fileservice alone.
  auto client = Connect("ws:user");
  const auto user = SwarmMember::Fetch(*client, absl::StrCat(kFileset, "/versions/1"),
                                       root_ + "/user", {.patience = absl::Seconds(1)});
  ASSERT_THAT(user, IsOk());
  EXPECT_EQ((*user)->totals().from_peers, 0);
}

}  // namespace
}  // namespace graft::fileservice
