#include "fileservice/transfer/http_listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "fileservice/transfer/http_tls.h"

namespace graft::fileservice {
namespace {

constexpr int64_t kLingerBytes = 64 << 20;

absl::Status Gone() { return absl::UnavailableError("the client has gone away or rests"); }

// Blocking, with the socket's time limits for each call.
class SocketConnection final : public HttpConnection {
 public:
  // `tls`; null: plain text.
  SocketConnection(int fd, TlsConnection* tls) : fd_(fd), tls_(tls) {}

  absl::Status Write(absl::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t sent = tls_ != nullptr ? tls_->Send(bytes.data(), bytes.size())
                                           : send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (tls_ == nullptr && sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return Gone();
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<bool> WriteFile(int fd, int64_t offset, int64_t size) override {
    if (tls_ != nullptr) return false;
    while (size > 0) {
      const ssize_t sent = sendfile(fd_, fd, &offset, static_cast<size_t>(size));
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return Gone();
      size -= sent;
    }
    return true;
  }

  absl::StatusOr<size_t> ReadBody(char* out, size_t size) override {
    if (!buffered_.empty()) {
      const size_t got = std::min(size, buffered_.size());
      memcpy(out, buffered_.data(), got);
      buffered_.erase(0, got);
      return got;
    }
    return Receive(out, size);
  }

  // The next head with its empty line; RESOURCE_EXHAUSTED when it is too long.
  absl::StatusOr<std::string> ReadHead() {
    while (true) {
      const size_t end = buffered_.find("\r\n\r\n");
      if (end != std::string::npos) {
        std::string head = buffered_.substr(0, end + 4);
        buffered_.erase(0, end + 4);
        return head;
      }
      if (buffered_.size() > kMaxHttpHeadBytes) {
        return absl::ResourceExhaustedError("the head is too long");
      }
      char more[4096];
      GRAFT_ASSIGN_OR_RETURN(const size_t got, Receive(more, sizeof(more)));
      buffered_.append(more, got);
    }
  }

 private:
  absl::StatusOr<size_t> Receive(char* out, size_t size) {
    while (true) {
      const ssize_t got = tls_ != nullptr ? tls_->Receive(out, size) : recv(fd_, out, size, 0);
      if (got > 0) return static_cast<size_t>(got);
      if (tls_ == nullptr && got < 0 && errno == EINTR) continue;
      return Gone();
    }
  }

  const int fd_;
  TlsConnection* const tls_;
  std::string buffered_;  // read behind the head
};

absl::Status SplitAddress(const std::string& address, std::string& host, std::string& port) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon + 1 == address.size()) {
    return absl::InvalidArgumentError(absl::StrCat("address \"", address, "\": HOST:PORT"));
  }
  host = address.substr(0, colon);
  port = address.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  return absl::OkStatus();
}

bool IsLoopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(address);
    return (ntohl(v4->sin_addr.s_addr) >> 24) == 127;
  }
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address);
  return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

void LimitTime(int fd, absl::Duration timeout) {
  const timeval limit = absl::ToTimeval(timeout);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// What was answered gets lost when the socket is closed while the client still sends: its body is
// taken and dropped, for a while.
void Linger(int fd) {
  shutdown(fd, SHUT_WR);
  LimitTime(fd, absl::Seconds(1));
  char dropped[65536];
  for (int64_t left = kLingerBytes; left > 0;) {
    const ssize_t got = recv(fd, dropped, sizeof(dropped), 0);
    if (got <= 0) return;
    left -= got;
  }
}

}  // namespace

struct HttpListener::State {
  Options options;
  UniqueFd listener;
  int port = 0;
  std::unique_ptr<TlsServer> tls;  // null: plain text
  Handler handler;
  std::thread accepting;

  Mutex mu;
  CondVar ended;
  bool stopping GRAFT_GUARDED_BY(mu) = false;
  std::set<int> open GRAFT_GUARDED_BY(mu);  // descriptors of the connections' threads

  void Accept();
  void Serve(int fd);
  void Answer(SocketConnection& connection);
};

HttpListener::HttpListener(std::unique_ptr<State> state) : state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Bind(const Options& options) {
  std::string host;
  std::string service;
  GRAFT_RETURN_IF_ERROR(SplitAddress(options.address, host, service));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), service.c_str(), &hints, &found) != 0 || found == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("address: cannot find ", host));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  const bool plain = options.tls_certificate.empty() && options.tls_key.empty();
  if (plain && !options.allow_remote && !IsLoopback(found->ai_addr)) {
    return absl::InvalidArgumentError(
        absl::StrCat("address ", options.address,
                     " is no loopback address, and tokens would be readable on the way: give it a "
                     "certificate, or allow remote ones inside of a trusted network"));
  }
  auto state = std::make_unique<State>();
  state->options = options;
  if (!plain) {
    GRAFT_ASSIGN_OR_RETURN(state->tls, TlsServer::Make(options.tls_certificate, options.tls_key));
  }
  state->listener.reset(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(state->listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(state->listener.get(), found->ai_addr, found->ai_addrlen) != 0 ||
      listen(state->listener.get(), 128) != 0) {
    return absl::UnavailableError(absl::StrCat("address ", options.address, ": ", strerror(errno)));
  }
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  getsockname(state->listener.get(), reinterpret_cast<sockaddr*>(&bound), &length);
  state->port =
      ntohs(bound.ss_family == AF_INET ? reinterpret_cast<sockaddr_in*>(&bound)->sin_port
                                       : reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port);
  return std::unique_ptr<HttpListener>(new HttpListener(std::move(state)));
}

int HttpListener::port() const { return state_->port; }

void HttpListener::Serve(Handler handler) {
  state_->handler = std::move(handler);
  state_->accepting = std::thread([state = state_.get()] { state->Accept(); });
}

HttpListener::~HttpListener() {
  {
    MutexLock lock(state_->mu);
    state_->stopping = true;
    shutdown(state_->listener.get(), SHUT_RDWR);
    for (const int fd : state_->open) shutdown(fd, SHUT_RDWR);
  }
  if (state_->accepting.joinable()) state_->accepting.join();
  MutexLock lock(state_->mu);
  while (!state_->open.empty()) state_->ended.Wait(state_->mu);
}

void HttpListener::State::Accept() {
  while (true) {
    UniqueFd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    MutexLock lock(mu);
    if (stopping) return;
    if (!connection.valid()) {
      // Out of descriptors, or a client that has gone again: others may end meanwhile.
      if (errno != ECONNABORTED && errno != EINTR) ended.WaitFor(mu, absl::Milliseconds(100));
      continue;
    }
    LimitTime(connection.get(), options.stall_timeout);
    if (open.size() >= static_cast<size_t>(options.max_connections)) {
      // With TLS a greeting would come first: that client sees a closed connection.
      if (tls != nullptr) continue;
      SocketConnection(connection.get(), nullptr)
          .Write(
              "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n"
              "Connection: close\r\n\r\n")
          .IgnoreError();
      continue;
    }
    const int fd = connection.release();
    open.insert(fd);
    std::thread([this, fd] { Serve(fd); }).detach();
  }
}

void HttpListener::State::Serve(int fd) {
  {
    std::optional<TlsConnection> secured;
    if (tls != nullptr) secured.emplace(*tls, fd);
    if (!secured.has_value() || secured->Accept()) {
      SocketConnection connection(fd, secured.has_value() ? &*secured : nullptr);
      Answer(connection);
    }
  }
  Linger(fd);
  MutexLock lock(mu);
  open.erase(fd);
  shutdown(fd, SHUT_RDWR);
  close(fd);
  ended.SignalAll();
}

void HttpListener::State::Answer(SocketConnection& connection) {
  while (true) {
    const absl::StatusOr<std::string> head = connection.ReadHead();
    if (absl::IsResourceExhausted(head.status())) {
      connection.Write("HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\n\r\n")
          .IgnoreError();
    }
    if (!head.ok()) break;
    const absl::StatusOr<HttpRequest> request = ParseHttpRequest(*head);
    if (!request.ok()) {
      connection
          .Write(absl::StrCat("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: ",
                              request.status().message().size() + 1, "\r\n\r\n",
                              request.status().message(), "\n"))
          .IgnoreError();
      break;
    }
    // A body that nobody reads would be taken for the next request.
    const bool reads_body = request->method == "PUT";
    if (!handler(*request, connection).ok() || !request->keep_alive ||
        (!reads_body && request->content_length > 0)) {
      break;
    }
  }
}

}  // namespace graft::fileservice
