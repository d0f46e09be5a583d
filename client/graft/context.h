// Which server the CLI and other clients speak to: named contexts in one file that only its owner
// reads, and the environment variables that go before them.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace graft::client {

struct Context {
  std::string name;
  std::string address;    // host:port of the scheduler
  std::string token;      // opaque; exchanged for access tokens
  std::string ca_file;    // PEM; empty: the system's authorities
  bool insecure = false;  // plaintext, loopback only
  // PEM files of the certificate that is shown to the servers (mTLS); both or none.
  std::string certificate_file;
  std::string key_file;
  std::string workspace = "default";
};

struct ContextFile {
  std::string current;
  std::map<std::string, Context> contexts;
};

// $GRAFT_CONFIG, or contexts.json in $XDG_CONFIG_HOME/graft or ~/.config/graft.
std::string ContextPath();
// An absent file is an empty one.
absl::StatusOr<ContextFile> ReadContexts(const std::string& path);
// With mode 0600.
absl::Status WriteContexts(const std::string& path, const ContextFile& file);

// The context `name`, or the current one where that is empty; GRAFT_ADDRESS, GRAFT_TOKEN, GRAFT_CA,
// GRAFT_CERTIFICATE, GRAFT_KEY, GRAFT_INSECURE and GRAFT_WORKSPACE go before what it says.
// FAILED_PRECONDITION says what to do when there is none.
absl::StatusOr<Context> ResolveContext(const std::string& name);

}  // namespace graft::client
