// Encryption of small values at rest: AES-256-GCM under a key that is kept apart from them.
//
//   const std::string sealed = Seal(key, nonce, value, "workspaces/w/secrets/s");
//   GRAFT_ASSIGN_OR_RETURN(std::string value, Unseal(key, sealed, "workspaces/w/secrets/s"));
//
// `context` says what the value belongs to: sealed bytes that are moved to another place do not
// open there.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft {

inline constexpr size_t kSealKeyBytes = 32;
inline constexpr size_t kSealNonceBytes = 12;

// `nonce` is kSealNonceBytes random bytes that are used once. Key and nonce of another length are a
// bug.
std::string Seal(absl::string_view key, absl::string_view nonce, absl::string_view value,
                 absl::string_view context);
// DATA_LOSS unless `sealed` was made with this key and context and is whole.
absl::StatusOr<std::string> Unseal(absl::string_view key, absl::string_view sealed,
                                   absl::string_view context);

}  // namespace graft
