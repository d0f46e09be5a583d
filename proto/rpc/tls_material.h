// Certificates for a cluster that has no authority of its own: what `graft up` and the tests use.
// ECDSA P-256, made by OpenSSL, as PEM text.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace graft::rpc {

struct CertificateAndKey {
  std::string certificate;  // PEM
  std::string private_key;  // PEM; a secret: write it with mode 0600
};

struct CertificateRequest {
  std::string common_name;
  // Subject alternative names. An entry that is an IP address becomes one; one with "://" a URI;
  // others are DNS names. gRPC's clients check these, never the common name.
  std::vector<std::string> names;
  absl::Time not_before;
  absl::Duration lifetime = absl::Hours(24 * 365);
};

// A self-signed authority that may sign certificates, but no further authorities.
absl::StatusOr<CertificateAndKey> MakeAuthority(const CertificateRequest& request);
// A certificate for servers and clients, signed by `authority`.
absl::StatusOr<CertificateAndKey> MakeCertificate(const CertificateAndKey& authority,
                                                  const CertificateRequest& request);

}  // namespace graft::rpc
