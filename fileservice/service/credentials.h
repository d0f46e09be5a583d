// Who may call: TLS, the scheduler's public keys, or nobody asked (--insecure --no-auth).
//
// The keys are asked for once a minute and kept on the disk, so that the service starts and works
// while the scheduler is away. Thread-safe once loaded.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "fileservice/service/settings.h"
#include "rpc/access_token.h"
#include "rpc/auth.h"
#include "rpc/server.h"

namespace graft::fileservice {

// The certificate and the key that the settings name; empty where they name none.
absl::StatusOr<rpc::TlsIdentity> ReadTlsIdentity(const Settings& settings);

class ServerCredentials {
 public:
  // FAILED_PRECONDITION for settings that would leave the door open.
  static absl::StatusOr<std::unique_ptr<ServerCredentials>> Load(const Settings& settings,
                                                                 Clock& clock);
  ~ServerCredentials();

  rpc::Authenticator& authenticator() const;
  // Sets TLS and authenticator; this must outlive the server.
  absl::Status Apply(rpc::ServerOptions& options) const;

 private:
  ServerCredentials(const Settings& settings, Clock& clock);
  absl::Status ReadKeys();
  absl::Status FetchKeys();
  void RefreshKeys();

  const Settings settings_;
  std::unique_ptr<rpc::Authenticator> everyone_;
  std::unique_ptr<rpc::TokenVerifier> verifier_;
  Mutex mu_;
  CondVar wake_;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  std::vector<rpc::PublicKey> keys_;  // of the refreshing thread
  std::thread refresher_;
};

}  // namespace graft::fileservice
