// A small HTTP/1.1 server for bulk bytes: a thread a connection, at most Options::max_connections,
// with TLS or in plain text. The fileservice's HTTP door and the doors at which workers serve
// pieces to each other stand on it. The process must ignore SIGPIPE.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "fileservice/transfer/http_request.h"

namespace graft::fileservice {

// The client's end of one connection.
class HttpConnection {
 public:
  virtual ~HttpConnection() = default;
  // UNAVAILABLE once the client is gone or takes nothing for too long.
  virtual absl::Status Write(absl::string_view bytes) = 0;
  // Between 1 and `size` bytes of the body.
  virtual absl::StatusOr<size_t> ReadBody(char* out, size_t size) = 0;
  // Writes a part of a file without copying it here, where nothing has to be encrypted. False: it
  // cannot, and nothing was written.
  virtual absl::StatusOr<bool> WriteFile(int fd, int64_t offset, int64_t size) = 0;
};

class HttpListener {
 public:
  struct Options {
    std::string address;  // host:port; port 0 takes a free one
    // Plain text beyond loopback: behind a proxy, or inside of a trusted network.
    bool allow_remote = false;
    // PEM; both, or none for plain text.
    std::string tls_certificate;
    std::string tls_key;
    int max_connections = 256;
    absl::Duration stall_timeout = absl::Seconds(30);
  };
  // Answers one request, on a thread of its connection's. Not OK: the connection ends.
  using Handler = std::function<absl::Status(const HttpRequest&, HttpConnection&)>;

  // INVALID_ARGUMENT for an address that is none or not allowed, or a certificate that does not fit
  // its key; UNAVAILABLE when it cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpListener>> Bind(const Options& options);
  int port() const;
  // Begins; once. What the handler uses must outlive the listener.
  void Serve(Handler handler);
  // Takes no more connections and ends those there are.
  ~HttpListener();

 private:
  struct State;
  explicit HttpListener(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace graft::fileservice
