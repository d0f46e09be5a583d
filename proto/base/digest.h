// SHA-256, the name of every chunk and file, and CRC32C, the check of a block at rest.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft {

// 32 raw bytes.
using Sha256Digest = std::array<uint8_t, 32>;

// Hashes a stream. Not thread-safe; a hasher is used up by Finish().
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(absl::string_view bytes);
  Sha256Digest Finish();

  static Sha256Digest Of(absl::string_view bytes);
  // Lower-case hexadecimal of `Of`.
  static std::string HexOf(absl::string_view bytes);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string ToHex(const Sha256Digest& digest);
std::string ToHex(absl::string_view bytes);
// INVALID_ARGUMENT unless `hex` is 64 lower- or upper-case hexadecimal digits.
absl::StatusOr<Sha256Digest> DigestFromHex(absl::string_view hex);

std::string HmacSha256(absl::string_view key, absl::string_view message);
// Takes the same time wherever the two differ.
bool ConstantTimeEquals(absl::string_view a, absl::string_view b);

// Extends `crc` (0 to start) with `bytes`.
uint32_t Crc32c(uint32_t crc, absl::string_view bytes);

}  // namespace graft
