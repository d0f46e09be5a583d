// The listener with TLS, and what it sends without copying where it need not encrypt.
#include <fcntl.h>
#include <signal.h>

#include <atomic>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "fileservice/transfer/http_listener.h"
#include "gmock/gmock.h"
#include "rpc/tls_material.h"

namespace graft::fileservice {
namespace {

using ::testing::HasSubstr;

class HttpTlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);
    char folder[] = "/tmp/graft-http-tls-XXXXXX";
    root_ = mkdtemp(folder);
    ASSERT_THAT(WriteFileAtomically(root_ + "/file", content_), IsOk());
    rpc::CertificateRequest request;
    request.common_name = "door";
    request.names = {"127.0.0.1"};
    request.not_before = absl::Now() - absl::Hours(1);
    GRAFT_ASSERT_OK_AND_ASSIGN(authority_, rpc::MakeAuthority(request));
    GRAFT_ASSERT_OK_AND_ASSIGN(own_, rpc::MakeCertificate(authority_, request));
    ASSERT_THAT(WriteFileAtomically(root_ + "/ca.pem", authority_.certificate), IsOk());
  }
  void TearDown() override { ASSERT_THAT(RemoveTree(root_), IsOk()); }

  // Answers each request with the file.
  void Serve(const HttpListener::Options& options) {
    GRAFT_ASSERT_OK_AND_ASSIGN(listener_, HttpListener::Bind(options));
    listener_->Serve([this](const HttpRequest&, HttpConnection& connection) -> absl::Status {
      const auto size = static_cast<int64_t>(content_.size());
      GRAFT_RETURN_IF_ERROR(
          connection.Write(absl::StrCat("HTTP/1.1 200 OK\r\nContent-Length: ", size, "\r\n\r\n")));
      const UniqueFd fd(open((root_ + "/file").c_str(), O_RDONLY | O_CLOEXEC));
      GRAFT_ASSIGN_OR_RETURN(const bool by_kernel, connection.WriteFile(fd.get(), 0, size));
      by_kernel_ = by_kernel;
      return by_kernel ? absl::OkStatus() : connection.Write(content_);
    });
  }
  // With curl, which every place that builds this has: deploy/deps.sh needs it.
  int Fetch(const std::string& scheme, const std::string& more) {
    return std::system(absl::StrCat("curl -sf ", more, " -o ", root_, "/out ", scheme,
                                    "://127.0.0.1:", listener_->port(), "/x")
                           .c_str());
  }

  const std::string content_ = SeededRandom(4).Bytes(3'000'000);
  std::string root_;
  rpc::CertificateAndKey authority_;
  rpc::CertificateAndKey own_;
  std::atomic<bool> by_kernel_{false};
  std::unique_ptr<HttpListener> listener_;
};

TEST_F(HttpTlsTest, AClientThatTrustsTheAuthorityReadsTheFileEncrypted) {
  Serve(
      {.address = "127.0.0.1:0", .tls_certificate = own_.certificate, .tls_key = own_.private_key});
  ASSERT_EQ(Fetch("https", absl::StrCat("--cacert ", root_, "/ca.pem")), 0);
  EXPECT_TRUE(*ReadFile(root_ + "/out") == content_);
  EXPECT_FALSE(by_kernel_);
  EXPECT_NE(Fetch("http", ""), 0) << "plain text is not answered";
  EXPECT_NE(Fetch("https", ""), 0) << "who does not know the authority turns away";
}

TEST_F(HttpTlsTest, InPlainTextTheKernelSendsTheFile) {
  Serve({.address = "127.0.0.1:0"});
  ASSERT_EQ(Fetch("http", ""), 0);
  EXPECT_TRUE(*ReadFile(root_ + "/out") == content_);
  EXPECT_TRUE(by_kernel_);
}

TEST_F(HttpTlsTest, AnotherKeyThanTheCertificatesIsRefused) {
  EXPECT_THAT(HttpListener::Bind({.address = "127.0.0.1:0",
                                  .tls_certificate = own_.certificate,
                                  .tls_key = authority_.private_key})
                  .status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tls_key")));
  EXPECT_THAT(HttpListener::Bind({.address = "127.0.0.1:0", .tls_certificate = "x", .tls_key = "y"})
                  .status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tls_certificate")));
}

}  // namespace
}  // namespace graft::fileservice
