#include "fileservice/transfer/http_client.h"

#include <errno.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace graft::fileservice {
namespace {

constexpr size_t kMaxHeadBytes = 8 << 10;
constexpr size_t kReceiveBytes = 256 << 10;

absl::Status Gone(const std::string& address) {
  return absl::UnavailableError(absl::StrCat(address, " is gone or silent"));
}

absl::StatusOr<UniqueFd> Connect(const std::string& address, absl::Duration timeout) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return Gone(address);
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | AI_NUMERICHOST;  // the tracker tells addresses, not names
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) {
    return Gone(address);
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  UniqueFd fd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval limit = absl::ToTimeval(timeout);
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  if (connect(fd.get(), found->ai_addr, found->ai_addrlen) != 0) return Gone(address);
  return fd;
}

absl::StatusOr<size_t> Receive(int fd, const std::string& address, char* out, size_t size) {
  while (true) {
    const ssize_t got = recv(fd, out, size, 0);
    if (got > 0) return static_cast<size_t>(got);
    if (got < 0 && errno == EINTR) continue;
    return Gone(address);
  }
}

// Checks the head of the answer; the bytes behind it become the beginning of the body.
absl::Status TakeHead(const std::string& head, int64_t size) {
  const std::vector<std::string> lines = absl::StrSplit(head, "\r\n");
  if (absl::StartsWith(lines[0], "HTTP/1.1 404")) return absl::NotFoundError("it is not there");
  if (absl::StartsWith(lines[0], "HTTP/1.1 403")) return absl::PermissionDeniedError("refused");
  if (!absl::StartsWith(lines[0], "HTTP/1.1 200")) return absl::UnavailableError("it is busy");
  for (const std::string& line : lines) {
    absl::string_view value = line;
    int64_t length = 0;
    if (absl::ConsumePrefix(&value, "Content-Length: ") && absl::SimpleAtoi(value, &length) &&
        length == size) {
      return absl::OkStatus();
    }
  }
  return absl::DataLossError("it sends another length");
}

}  // namespace

absl::StatusOr<std::string> HttpGet(const std::string& address, const std::string& path,
                                    const std::string& bearer, int64_t size, absl::Duration timeout,
                                    const std::function<void(int64_t)>& arrived) {
  GRAFT_ASSIGN_OR_RETURN(const UniqueFd fd, Connect(address, timeout));
  const std::string request =
      absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", address, "\r\nAuthorization: Bearer ",
                   bearer, "\r\nConnection: close\r\n\r\n");
  if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return Gone(address);
  }
  std::string text;
  size_t end = 0;
  while ((end = text.find("\r\n\r\n")) == std::string::npos) {
    if (text.size() > kMaxHeadBytes) return absl::DataLossError("its answer has no end of head");
    char more[4096];
    GRAFT_ASSIGN_OR_RETURN(const size_t got, Receive(fd.get(), address, more, sizeof(more)));
    text.append(more, got);
  }
  GRAFT_RETURN_IF_ERROR(TakeHead(text.substr(0, end), size));
  std::string body = text.substr(end + 4);
  if (static_cast<int64_t>(body.size()) > size) return absl::DataLossError("it sends too much");
  size_t have = body.size();
  body.resize(static_cast<size_t>(size));
  arrived(static_cast<int64_t>(have));
  while (have < body.size()) {
    GRAFT_ASSIGN_OR_RETURN(const size_t got, Receive(fd.get(), address, body.data() + have,
                                                     std::min(kReceiveBytes, body.size() - have)));
    have += got;
    arrived(static_cast<int64_t>(got));
  }
  return body;
}

}  // namespace graft::fileservice
