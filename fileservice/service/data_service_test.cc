// The data service behind a real door: tokens of a test's choice, plain bytes, chunks, HTTP.
#include "fileservice/service/data_service.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/test_daemon.h"
#include "gmock/gmock.h"
#include "graft/v1/data.grpc.pb.h"
#include "graft/v1/fileset.grpc.pb.h"
#include "rpc/client.h"
#include "rpc/server.h"

namespace graft::fileservice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr const char* kFileset = "workspaces/ws/filesets/data";

// A caller with a token.
struct Caller {
  Caller(int port, std::string token, Clock& clock)
      : tokens(clock, [token] { return rpc::AccessToken{token}; }) {
    rpc::DialOptions dial;
    dial.address = absl::StrCat("127.0.0.1:", port);
    dial.insecure = true;
    dial.tokens = &tokens;
    dial.own_socket = true;
    connection = *rpc::Connection::Dial(dial);
    data = v1::DataService::NewStub(connection->channel());
    filesets = v1::FileSetService::NewStub(connection->channel());
  }
  std::unique_ptr<grpc::ClientContext> Context() {
    auto context = std::make_unique<grpc::ClientContext>();
    EXPECT_THAT(connection->Prepare(*context), IsOk());
    return context;
  }
  template <typename Response, typename Stub, typename Request>
  absl::StatusOr<Response> Call(std::unique_ptr<Stub>& stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request) {
    return connection->Call<Response>(*stub, method, request);
  }

  rpc::TokenSource tokens;
  std::unique_ptr<rpc::Connection> connection;
  std::unique_ptr<v1::DataService::Stub> data;
  std::unique_ptr<v1::FileSetService::Stub> filesets;
};

struct Response {
  int code = 0;
  std::map<std::string, std::string> headers;
  std::string body;
};

class DataServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/graft-data-service-XXXXXX";
    root_ = mkdtemp(folder);
    Restart();
  }
  void TearDown() override {
    user_.reset();
    daemon_.reset();
    ASSERT_THAT(RemoveTree(root_), IsOk());
  }
  void Restart() {
    user_.reset();
    daemon_.reset();
    daemon_ = std::make_unique<Daemon>(root_, clock_);
    user_ = As("ws:user");
  }
  std::unique_ptr<Caller> As(const std::string& token) {
    return std::make_unique<Caller>(daemon_->server->port(), token, clock_);
  }

  std::string OpenSession(Caller& caller, const std::string& fileset = kFileset) {
    v1::CreateFileSetRequest create;
    create.set_parent(fileset.substr(0, fileset.find("/filesets")));
    create.set_fileset_id(fileset.substr(fileset.rfind('/') + 1));
    create.mutable_fileset();
    caller.Call<v1::FileSet>(caller.filesets, &v1::FileSetService::Stub::CreateFileSet, create)
        .status()
        .IgnoreError();
    v1::CreateUploadSessionRequest request;
    request.set_parent(fileset);
    const auto session = caller.Call<v1::UploadSession>(
        caller.data, &v1::DataService::Stub::CreateUploadSession, request);
    EXPECT_THAT(session, IsOk());
    return session.ok() ? session->name() : "";
  }

  // Sends content[from, to) of the file in messages of 1 MiB.
  absl::StatusOr<v1::UploadFileResponse> Send(const std::string& session, const std::string& path,
                                              absl::string_view content, size_t from, size_t to,
                                              bool finish, const std::string& hash = "") {
    auto context = user_->Context();
    v1::UploadFileResponse response;
    const auto stream = user_->data->UploadFile(context.get(), &response);
    for (size_t at = from; at < to || at == from; at += 1 << 20) {
      v1::UploadFileRequest request;
      if (at == from) {
        request.set_session(session);
        request.set_path(path);
      }
      request.set_offset(static_cast<int64_t>(at));
      request.set_data(std::string(content.substr(at, std::min<size_t>(1 << 20, to - at))));
      const bool last = at + (1 << 20) >= to;
      if (last && !hash.empty()) request.set_sha256(hash);
      request.set_finish(last && finish);
      if (!stream->Write(request)) break;
    }
    stream->WritesDone();
    const absl::Status status = rpc::FromGrpcStatus(stream->Finish());
    if (!status.ok()) return status;
    return response;
  }
  v1::QueryUploadResponse Query(const std::string& session, const std::string& path) {
    v1::QueryUploadRequest request;
    request.set_session(session);
    request.set_path(path);
    const auto response = user_->Call<v1::QueryUploadResponse>(
        user_->data, &v1::DataService::Stub::QueryUpload, request);
    EXPECT_THAT(response, IsOk());
    return response.ok() ? *response : v1::QueryUploadResponse();
  }
  std::string PublishSession(const std::string& session) {
    v1::PublishRequest request;
    request.set_session(session);
    const auto version =
        user_->Call<v1::FileSetVersion>(user_->data, &v1::DataService::Stub::Publish, request);
    EXPECT_THAT(version, IsOk());
    return version.ok() ? version->name() : "";
  }
  // A version with one file.
  std::string PublishFile(const std::string& path, const std::string& content) {
    const std::string session = OpenSession(*user_);
    EXPECT_THAT(Send(session, path, content, 0, content.size(), true), IsOk());
    return PublishSession(session);
  }

  // One request over a connection of its own; `message` without the empty line where it has a body.
  Response Http(const std::string& message, bool head_only = false) {
    const UniqueFd fd(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(daemon_->door->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    for (size_t sent = 0; sent < message.size();) {
      const ssize_t more =
          send(fd.get(), message.data() + sent, message.size() - sent, MSG_NOSIGNAL);
      if (more <= 0) break;  // refused before it was read
      sent += static_cast<size_t>(more);
    }
    if (!head_only) shutdown(fd.get(), SHUT_WR);
    std::string text;
    char buffer[65536];
    for (ssize_t got = 0; (got = recv(fd.get(), buffer, sizeof(buffer), 0)) > 0;) {
      text.append(buffer, static_cast<size_t>(got));
    }
    Response response;
    const size_t end = text.find("\r\n\r\n");
    if (end == std::string::npos) return response;
    std::vector<std::string> lines = absl::StrSplit(text.substr(0, end), "\r\n");
    response.code = std::atoi(lines[0].substr(9, 3).c_str());
    for (size_t i = 1; i < lines.size(); ++i) {
      const std::pair<std::string, std::string> header =
          absl::StrSplit(lines[i], absl::MaxSplits(": ", 1));
      response.headers[header.first] = header.second;
    }
    response.body = text.substr(end + 4);
    return response;
  }
  Response Get(const std::string& path, const std::string& more = "",
               const std::string& method = "GET") {
    return Http(absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n",
                             more, "\r\n"));
  }

  RealClock clock_;
  SeededRandom random_{5};
  std::string root_;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<Caller> user_;
};

TEST_F(DataServiceTest, PlainBytesBecomeAFileWithoutTheClientsCuttingOrHashing) {
  const std::string content = random_.Bytes(5'000'000);
  const std::string session = OpenSession(*user_);
  GRAFT_ASSERT_OK_AND_ASSIGN(const v1::UploadFileResponse sent,
                             Send(session, "a/b.bin", content, 0, content.size(), true));
  EXPECT_TRUE(sent.complete());
  EXPECT_EQ(sent.sha256(), BytesOf(Sha256::Of(content)));
  EXPECT_TRUE(Query(session, "a/b.bin").complete());
  const std::string version = PublishSession(session);
  EXPECT_EQ(Get(FileUrlPath(version, "a/b.bin"), "Authorization: Bearer ws:viewer\r\n").body,
            content);
}

TEST_F(DataServiceTest, AnUploadGoesOnWhereItWasAcrossARestart) {
  const std::string content = random_.Bytes(12'000'000);
  const std::string session = OpenSession(*user_);
  GRAFT_ASSERT_OK_AND_ASSIGN(const v1::UploadFileResponse part,
                             Send(session, "big", content, 0, 7'000'000, false));
  EXPECT_FALSE(part.complete());
  EXPECT_GT(part.durable_size(), 2'000'000);
  Restart();
  const v1::QueryUploadResponse kept = Query(session, "big");
  EXPECT_FALSE(kept.complete());
  EXPECT_EQ(kept.durable_size(), part.durable_size());
  const absl::Status elsewhere = Send(session, "big", content, 0, content.size(), true).status();
  EXPECT_THAT(elsewhere, StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_EQ(rpc::ReadErrorDetails(elsewhere).metadata.at("expected_offset"),
            absl::StrCat(part.durable_size()));
  GRAFT_ASSERT_OK_AND_ASSIGN(const v1::UploadFileResponse rest,
                             Send(session, "big", content, static_cast<size_t>(part.durable_size()),
                                  content.size(), true, std::string(BytesOf(Sha256::Of(content)))));
  EXPECT_TRUE(rest.complete());
  const std::string version = PublishSession(session);
  EXPECT_EQ(Get(FileUrlPath(version, "big"), "Authorization: Bearer ws:viewer\r\n").body, content);
}

TEST_F(DataServiceTest, AFileWithAnotherHashThanWasSaidStartsOver) {
  const std::string content = random_.Bytes(100'000);
  const std::string session = OpenSession(*user_);
  const absl::Status status = Send(session, "f", content, 0, content.size(), true,
                                   std::string(BytesOf(Sha256::Of("other"))))
                                  .status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(rpc::ReadErrorDetails(status).reason, "DIGEST_MISMATCH");
  EXPECT_EQ(Query(session, "f").durable_size(), 0);
  EXPECT_THAT(Send(session, "f", content, 0, content.size(), true), IsOk());
}

TEST_F(DataServiceTest, NamesThatCannotBeWrittenAreRefusedAtEachDoor) {
  const std::string session = OpenSession(*user_);
  for (const std::string path :
       {"", "/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "a\\b", "C:x", "CON", "a/nul.txt",
        "x.", "x ", ".git/config", "a\nb", "\xE2\x80\xAEtxt", "\xC0\xAE\xC0\xAE/x", "\xFF"}) {
    if (path != "\xFF" && path[0] != '\xC0') {  // not UTF-8: the generated client cannot say it
      const absl::Status status = Send(session, path, "x", 0, 1, true).status();
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument)) << path;
    }
    const std::string url =
        absl::StrCat("/v1/", session, "/files/", FileUrlPath("", path).substr(11));
    EXPECT_THAT(Http(absl::StrCat("PUT ", url, " HTTP/1.1\r\nAuthorization: Bearer ws:user\r\n",
                                  "Content-Length: 1\r\n\r\nx"))
                    .code,
                400)
        << path;
  }
}

TEST_F(DataServiceTest, ChunksOfAVersionComeInAnyOrderAndNoOthersDo) {
  const std::string version = PublishFile("f", random_.Bytes(3'000'000));
  const std::string other = PublishFile("g", random_.Bytes(200'000));
  const auto manifest = [&](const std::string& of) {
    v1::GetManifestRequest request;
    request.set_version(of);
    return user_->Call<v1::GetManifestResponse>(user_->data, &v1::DataService::Stub::GetManifest,
                                                request);
  };
  const auto read = [&](const std::string& ids, std::map<uint32_t, std::string>& chunks) {
    v1::DownloadChunksRequest request;
    request.set_version(version);
    request.set_chunk_ids(ids);
    auto context = user_->Context();
    const auto stream = user_->data->DownloadChunks(context.get(), request);
    v1::DownloadChunksResponse response;
    while (stream->Read(&response)) {
      size_t at = 0;
      for (int i = 0; i < response.indexes_size(); ++i) {
        chunks[response.indexes(i)] = response.data().substr(at, response.chunk_sizes(i));
        at += response.chunk_sizes(i);
      }
    }
    return rpc::FromGrpcStatus(stream->Finish());
  };
  const std::string mine = manifest(version)->files(0).chunk_ids();
  std::map<uint32_t, std::string> chunks;
  ASSERT_THAT(read(mine, chunks), IsOk());
  ASSERT_EQ(chunks.size(), mine.size() / 32);
  for (const auto& [index, bytes] : chunks) {
    EXPECT_EQ(BytesOf(Sha256::Of(bytes)), mine.substr(index * 32, 32));
  }
  EXPECT_THAT(read(manifest(other)->files(0).chunk_ids(), chunks),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(read("short", chunks), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(DataServiceTest, HttpServesFilesWithStrongEtagsAndRanges) {
  const std::string content = random_.Bytes(300'000);
  const std::string url =
      FileUrlPath(PublishFile("dir/f \xC3\xA9.bin", content), "dir/f \xC3\xA9.bin");
  const std::string token = "Authorization: Bearer ws:viewer\r\n";
  const Response whole = Get(url, token);
  EXPECT_EQ(whole.code, 200);
  EXPECT_EQ(whole.body, content);
  const std::string etag = absl::StrCat("\"", Sha256::HexOf(content), "\"");
  EXPECT_EQ(whole.headers.at("ETag"), etag);
  EXPECT_EQ(whole.headers.at("Accept-Ranges"), "bytes");

  const Response head = Get(url, token, "HEAD");
  EXPECT_EQ(head.code, 200);
  EXPECT_EQ(head.headers.at("Content-Length"), "300000");
  EXPECT_THAT(head.body, IsEmpty());

  const Response part = Get(url, token + "Range: bytes=100000-100999\r\n");
  EXPECT_EQ(part.code, 206);
  EXPECT_EQ(part.headers.at("Content-Range"), "bytes 100000-100999/300000");
  EXPECT_EQ(part.body, content.substr(100'000, 1000));
  EXPECT_EQ(Get(url, token + "Range: bytes=-1\r\n").body, content.substr(299'999));
  EXPECT_EQ(Get(url, token + "Range: bytes=300000-\r\n").code, 416);
  EXPECT_EQ(Get(url, token + "Range: bytes=0-1\r\nIf-Range: \"old\"\r\n").body.size(), 300'000u);
  EXPECT_EQ(Get(url, token + "If-None-Match: \"x\", " + etag + "\r\n").code, 304);
  EXPECT_EQ(Get(url, token + "If-Match: \"x\"\r\n").code, 412);
  EXPECT_EQ(Get(url, token, "DELETE").code, 405);
  EXPECT_EQ(Get(url + "x", token).code, 404);
  EXPECT_EQ(Get("/", token).code, 404);

  std::string text;  // lies compressed, as the other does not
  for (int i = 0; i < 20'000; ++i) absl::StrAppend(&text, "line ", i, "\n");
  EXPECT_EQ(Get(FileUrlPath(PublishFile("t.txt", text), "t.txt"), token).body, text);
}

TEST_F(DataServiceTest, HttpAsksForATokenOfTheWorkspaceOrASignature) {
  const std::string version = PublishFile("f", "content");
  const std::string url = FileUrlPath(version, "f");
  EXPECT_EQ(Get(url).code, 401);
  EXPECT_EQ(Get(url, "Authorization: Basic eA==\r\n").code, 401);
  EXPECT_EQ(Get(url, "Authorization: Bearer other:admin\r\n").code, 404);

  v1::SignUrlRequest request;
  request.set_version(version);
  request.set_path("f");
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const v1::SignUrlResponse made,
      user_->Call<v1::SignUrlResponse>(user_->data, &v1::DataService::Stub::SignUrl, request));
  ASSERT_THAT(made.url(), StartsWith("http://127.0.0.1:"));
  const std::string signed_url = made.url().substr(made.url().find("/v1/"));
  EXPECT_EQ(Get(signed_url).body, "content");
  std::string forged = signed_url;
  forged.back() = forged.back() == '0' ? '1' : '0';
  EXPECT_EQ(Get(forged).code, 403);
  std::string other_file = signed_url;
  other_file.replace(other_file.find("/f?"), 2, "/g");
  EXPECT_EQ(Get(other_file).code, 403);
  const std::string expired =
      daemon_->urls->Sign(version, "f", clock_.WallNow() - absl::Seconds(1));
  EXPECT_EQ(Get(expired.substr(expired.find("/v1/"))).code, 403);
  request.mutable_ttl()->set_seconds(24 * 3600 + 1);
  EXPECT_THAT(
      user_->Call<v1::SignUrlResponse>(user_->data, &v1::DataService::Stub::SignUrl, request),
      StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(DataServiceTest, HttpTakesAFileInPartsAndChecksItsHash) {
  const std::string content = random_.Bytes(6'000'000);
  const std::string session = OpenSession(*user_);
  const std::string url = absl::StrCat("/v1/", session, "/files/f");
  const auto put = [&](const std::string& query, const std::string& more, const std::string& body) {
    return Http(absl::StrCat("PUT ", url, query, " HTTP/1.1\r\nAuthorization: Bearer ws:user\r\n",
                             "Connection: close\r\nContent-Length: ", body.size(), "\r\n", more,
                             "\r\n", body));
  };
  const Response first = put("?total=6000000", "", content.substr(0, 5'500'000));
  EXPECT_EQ(first.code, 200) << first.body;
  EXPECT_THAT(first.body, HasSubstr("\"complete\":false"));
  const auto durable = static_cast<size_t>(Query(session, "f").durable_size());
  EXPECT_GT(durable, 1'000'000u);
  const Response wrong = put("?offset=0", "", content);
  EXPECT_EQ(wrong.code, 409);
  EXPECT_THAT(wrong.body, HasSubstr(absl::StrCat("\"expected_offset\":\"", durable, "\"")));
  const Response rest = put(absl::StrCat("?offset=", durable),
                            absl::StrCat("X-Content-Sha256: ", Sha256::HexOf(content), "\r\n"),
                            content.substr(durable));
  EXPECT_EQ(rest.code, 200) << rest.body;
  EXPECT_THAT(rest.body, HasSubstr(Sha256::HexOf(content)));
  EXPECT_EQ(
      Get(FileUrlPath(PublishSession(session), "f"), "Authorization: Bearer ws:viewer\r\n").body,
      content);
}

TEST_F(DataServiceTest, AViewerReadsAndAUserWrites) {
  const std::string version = PublishFile("f", "content");
  const auto viewer = As("ws:viewer");
  v1::CreateUploadSessionRequest request;
  request.set_parent(kFileset);
  EXPECT_THAT(viewer->Call<v1::UploadSession>(viewer->data,
                                              &v1::DataService::Stub::CreateUploadSession, request),
              StatusIs(absl::StatusCode::kPermissionDenied));
  v1::GetFileSetVersionRequest get;
  get.set_name(version);
  EXPECT_THAT(viewer->Call<v1::FileSetVersion>(viewer->filesets,
                                               &v1::FileSetService::Stub::GetFileSetVersion, get),
              IsOk());
  const std::string session = OpenSession(*user_);
  EXPECT_EQ(Http(absl::StrCat("PUT /v1/", session, "/files/f HTTP/1.1\r\n",
                              "Authorization: Bearer ws:viewer\r\nContent-Length: 1\r\n\r\nx"))
                .code,
            403);
}

// What another tenant has stored shows in no answer: not as a name, not as bytes that need not be
// sent, not in the figures of a session.
TEST_F(DataServiceTest, NothingTellsATenantWhatAnotherHasStored) {
  const std::string secret = random_.Bytes(50'000);
  const std::string version = PublishFile("secret", secret);
  const auto stranger = As("other:admin");
  v1::GetFileSetVersionRequest get;
  get.set_name(version);
  const absl::Status existing =
      stranger
          ->Call<v1::FileSetVersion>(stranger->filesets,
                                     &v1::FileSetService::Stub::GetFileSetVersion, get)
          .status();
  EXPECT_THAT(existing, StatusIs(absl::StatusCode::kNotFound));

  const auto sent = [&](const std::string& content) -> int64_t {
    // One each: a session's figures are summed up after its stream has ended.
    const std::string session = OpenSession(*stranger, "workspaces/other/filesets/mine");
    const ChunkId id = Sha256::Of(content);
    v1::FindMissingRequest find;
    find.set_session(session);
    find.set_chunk_ids(std::string(BytesOf(id)));
    const auto missing = stranger->Call<v1::FindMissingResponse>(
        stranger->data, &v1::DataService::Stub::FindMissing, find);
    EXPECT_THAT(missing->missing(), ElementsAre(0));
    auto context = stranger->Context();
    const auto stream = stranger->data->Upload(context.get());
    v1::UploadRequest request;
    request.set_session(session);
    request.set_sequence(1);
    request.add_chunk_sizes(static_cast<uint32_t>(content.size()));
    request.set_chunk_ids(std::string(BytesOf(id)));
    request.set_data(content);
    stream->Write(request);
    stream->WritesDone();
    v1::UploadResponse response;
    int64_t stored = 0;
    while (stream->Read(&response)) stored = response.stored_bytes();
    EXPECT_THAT(rpc::FromGrpcStatus(stream->Finish()), IsOk());
    return stored;
  };
  const int64_t of_secret = sent(random_.Bytes(50'000));
  EXPECT_EQ(of_secret, 50'000);
  EXPECT_EQ(sent(secret), of_secret);
}

// The hash that is taken while a file comes counts only for bytes that are what they are called:
// else a session could give another's file other contents.
TEST_F(DataServiceTest, AFileIsNotTakenForVerifiedByBytesThatWereRefused) {
  const std::string session = OpenSession(*user_);
  const std::string first = random_.Bytes(10'000);
  const std::string second = random_.Bytes(10'000);
  const std::string fake = random_.Bytes(10'000);
  const std::string ids = absl::StrCat(BytesOf(Sha256::Of(first)), BytesOf(Sha256::Of(second)));
  const auto upload = [&](const std::string& last) {
    auto context = user_->Context();
    const auto stream = user_->data->Upload(context.get());
    v1::UploadRequest request;
    request.set_session(session);
    request.set_sequence(1);
    for (int i = 0; i < 2; ++i) request.add_chunk_sizes(10'000);
    request.set_chunk_ids(ids);
    request.set_data(first + last);
    stream->Write(request);
    stream->WritesDone();
    v1::UploadResponse response;
    while (stream->Read(&response)) {
    }
    return rpc::FromGrpcStatus(stream->Finish());
  };
  const auto stage = [&](const std::string& content) {
    auto context = user_->Context();
    v1::StageFilesResponse response;
    const auto stream = user_->data->StageFiles(context.get(), &response);
    v1::StageFilesRequest request;
    request.set_session(session);
    v1::FileManifest& manifest = *request.add_files();
    manifest.mutable_file()->set_path("f");
    manifest.mutable_file()->set_size(20'000);
    manifest.mutable_file()->set_sha256(std::string(BytesOf(Sha256::Of(content))));
    manifest.set_chunk_count(2);
    for (int i = 0; i < 2; ++i) manifest.add_chunk_sizes(10'000);
    manifest.set_chunk_ids(ids);
    stream->Write(request);
    stream->WritesDone();
    return rpc::FromGrpcStatus(stream->Finish());
  };
  const auto verified = [&](size_t last_bytes) {
    ChunkListHash list;
    list.Add(absl::string_view(ids).substr(0, 32), first.size());
    list.Add(absl::string_view(ids).substr(32), last_bytes);
    return daemon_->verified.Find(session.substr(session.rfind('/') + 1), list.Finish());
  };
  EXPECT_THAT(upload(fake), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(verified(second.size()), std::nullopt);
  EXPECT_THAT(upload(second), IsOk());
  EXPECT_EQ(verified(second.size()), Sha256::Of(first + second));
  EXPECT_EQ(verified(second.size() - 1), std::nullopt);  // another length is another list
  EXPECT_THAT(stage(first + fake), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(stage(first + second), IsOk());
}

TEST_F(DataServiceTest, ListsKnowFiltersAndOrders) {
  const auto create = [&](const std::string& id, v1::FileSetPurpose purpose,
                          const std::string& team) {
    v1::CreateFileSetRequest request;
    request.set_parent("workspaces/ws");
    request.set_fileset_id(id);
    request.mutable_fileset()->set_purpose(purpose);
    (*request.mutable_fileset()->mutable_labels())["team"] = team;
    EXPECT_THAT(user_->Call<v1::FileSet>(user_->filesets, &v1::FileSetService::Stub::CreateFileSet,
                                         request),
                IsOk());
  };
  create("bb", v1::FILE_SET_PURPOSE_MODEL, "x");
  create("aa", v1::FILE_SET_PURPOSE_DATASET, "y");
  create("cc", v1::FILE_SET_PURPOSE_DATASET, "x");
  const auto list = [&](const std::string& filter, const std::string& order, int page_size = 0) {
    v1::ListFileSetsRequest request;
    request.set_parent("workspaces/ws");
    request.set_filter(filter);
    request.set_order_by(order);
    request.set_page_size(page_size);
    std::vector<std::string> ids;
    do {
      const auto page = user_->Call<v1::ListFileSetsResponse>(
          user_->filesets, &v1::FileSetService::Stub::ListFileSets, request);
      if (!page.ok()) return std::vector<std::string>{std::string(page.status().message())};
      for (const v1::FileSet& one : page->filesets()) ids.push_back(one.name().substr(23));
      request.set_page_token(page->next_page_token());
    } while (!request.page_token().empty());
    return ids;
  };
  EXPECT_THAT(list("", ""), ElementsAre("aa", "bb", "cc"));
  EXPECT_THAT(list("", "name desc"), ElementsAre("cc", "bb", "aa"));
  EXPECT_THAT(list("", "create_time", 1), ElementsAre("bb", "aa", "cc"));
  EXPECT_THAT(list("", "create_time desc", 2), ElementsAre("cc", "aa", "bb"));
  EXPECT_THAT(list("purpose = DATASET AND labels.team = x", ""), ElementsAre("cc"));
  EXPECT_THAT(list("size = 3", ""), ElementsAre(HasSubstr("size")));
  EXPECT_THAT(list("", "colour"), ElementsAre(HasSubstr("ordered")));

  const std::string session = OpenSession(*user_, "workspaces/ws/filesets/aa");
  EXPECT_THAT(Send(session, "f", "x", 0, 1, true), IsOk());
  const std::string version = PublishSession(session);
  const auto versions = [&](const std::string& filter) {
    v1::ListFileSetVersionsRequest request;
    request.set_parent("workspaces/ws/filesets/aa");
    request.set_filter(filter);
    const auto page = user_->Call<v1::ListFileSetVersionsResponse>(
        user_->filesets, &v1::FileSetService::Stub::ListFileSetVersions, request);
    return page.ok() ? page->versions_size() : -1;
  };
  EXPECT_EQ(versions("creator = \"users/test\""), 1);
  EXPECT_EQ(versions("refs:prod"), 0);
  EXPECT_EQ(versions("nothing = 1"), -1);
}

TEST_F(DataServiceTest, AFileThatTwoSendAtATimeIsRefusedToTheSecond) {
  const SessionRecord session = *daemon_->catalog->GetSession(
      OpenSession(*user_).substr(std::string(kFileset).size() + sizeof("/uploads/") - 1));
  GRAFT_ASSERT_OK_AND_ASSIGN(auto first,
                             FileIntake::Open(*daemon_->plane, session, "f", std::nullopt));
  EXPECT_THAT(FileIntake::Open(*daemon_->plane, session, "f", std::nullopt),
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(FileIntake::Open(*daemon_->plane, session, "g", std::nullopt), IsOk());
  first.reset();
  EXPECT_THAT(FileIntake::Open(*daemon_->plane, session, "f", std::nullopt), IsOk());
}

}  // namespace
}  // namespace graft::fileservice
