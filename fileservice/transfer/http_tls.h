// Inside of transfer/: the server's side of TLS 1.2 and 1.3 over a connected socket.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct ssl_ctx_st;
struct ssl_st;

namespace graft::fileservice {

// A certificate with its key. Thread-safe.
class TlsServer {
 public:
  // INVALID_ARGUMENT unless both are PEM and belong together.
  static absl::StatusOr<std::unique_ptr<TlsServer>> Make(const std::string& certificate,
                                                         const std::string& key);

 private:
  friend class TlsConnection;
  struct Free {
    void operator()(ssl_ctx_st* context) const;
  };
  explicit TlsServer(std::unique_ptr<ssl_ctx_st, Free> context) : context_(std::move(context)) {}
  const std::unique_ptr<ssl_ctx_st, Free> context_;
};

// One client. For one thread; `server` and the socket must outlive it.
class TlsConnection {
 public:
  TlsConnection(const TlsServer& server, int fd);
  // Says the end to the client, without waiting for its answer.
  ~TlsConnection();
  TlsConnection(const TlsConnection&) = delete;
  TlsConnection& operator=(const TlsConnection&) = delete;

  // The handshake; within the socket's time limits.
  bool Accept();
  // As send(2) and recv(2).
  ssize_t Send(const char* data, size_t size);
  ssize_t Receive(char* out, size_t size);

 private:
  struct Free {
    void operator()(ssl_st* ssl) const;
  };
  const std::unique_ptr<ssl_st, Free> ssl_;
  bool open_ = false;
};

}  // namespace graft::fileservice
