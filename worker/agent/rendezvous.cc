#include "worker/agent/rendezvous.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::agent {

absl::StatusOr<Rendezvous> OpenRendezvous(const std::string& fabric_address) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot make a socket for the rendezvous");
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  if (inet_pton(AF_INET, fabric_address.c_str(), &address.sin_addr) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the fabric address \"", fabric_address, "\" is no IPv4 address"));
  }
  socklen_t length = sizeof(address);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      listen(fd.get(), SOMAXCONN) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoStatus(errno, "cannot listen for the rendezvous");
  }
  return Rendezvous{std::move(fd), absl::StrCat(fabric_address, ":", ntohs(address.sin_port))};
}

}  // namespace graft::agent
