// How keys and values of the index are written: big-endian numbers in keys, so that they sort, and
// varints and length-prefixed strings in values. Every value begins with a version byte.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/digest.h"

namespace graft::fileservice {

inline absl::string_view BytesOf(const Sha256Digest& digest) {
  return absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size());
}
// `bytes` must have 32 bytes.
Sha256Digest DigestFromBytes(absl::string_view bytes);

class Encoder {
 public:
  Encoder& Byte(uint8_t value);
  Encoder& Varint(uint64_t value);
  Encoder& Fixed32(uint32_t value);  // little-endian
  Encoder& BigEndian32(uint32_t value);
  Encoder& BigEndian64(uint64_t value);
  Encoder& Digest(const Sha256Digest& digest);
  Encoder& String(absl::string_view value);  // length and bytes
  Encoder& Raw(absl::string_view value);
  // A string that ends with NUL, for keys; `value` must hold none.
  Encoder& KeyString(absl::string_view value);
  std::string Take() { return std::move(out_); }
  const std::string& bytes() const { return out_; }

 private:
  std::string out_;
};

// Reads what Encoder wrote. The first failure sticks: the readers then return zeroes and Finish()
// says DATA_LOSS. Reads nothing outside of `bytes`, whatever they are.
class Decoder {
 public:
  explicit Decoder(absl::string_view bytes) : rest_(bytes) {}
  uint8_t Byte();
  uint64_t Varint();
  uint32_t Fixed32();
  uint32_t BigEndian32();
  uint64_t BigEndian64();
  Sha256Digest Digest();
  absl::string_view String();
  absl::string_view Raw(size_t size);
  absl::string_view KeyString();
  bool ok() const { return ok_; }
  bool empty() const { return rest_.empty(); }
  absl::string_view rest() const { return rest_; }
  // DATA_LOSS unless everything was read and was well formed; `what` names the value.
  absl::Status Finish(absl::string_view what) const;

 private:
  bool Has(size_t size);

  absl::string_view rest_;
  bool ok_ = true;
};

}  // namespace graft::fileservice
