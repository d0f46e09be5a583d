#include "fileservice/cas/encoding.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace graft::fileservice {

Sha256Digest DigestFromBytes(absl::string_view bytes) {
  Sha256Digest digest;
  std::memcpy(digest.data(), bytes.data(), digest.size());
  return digest;
}

Encoder& Encoder::Byte(uint8_t value) {
  out_.push_back(static_cast<char>(value));
  return *this;
}

Encoder& Encoder::Varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) Byte(static_cast<uint8_t>(value) | 0x80);
  return Byte(static_cast<uint8_t>(value));
}

Encoder& Encoder::Fixed32(uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) Byte(static_cast<uint8_t>(value >> shift));
  return *this;
}

Encoder& Encoder::BigEndian32(uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) Byte(static_cast<uint8_t>(value >> shift));
  return *this;
}

Encoder& Encoder::BigEndian64(uint64_t value) {
  BigEndian32(static_cast<uint32_t>(value >> 32));
  return BigEndian32(static_cast<uint32_t>(value));
}

Encoder& Encoder::Digest(const Sha256Digest& digest) { return Raw(BytesOf(digest)); }

Encoder& Encoder::String(absl::string_view value) { return Varint(value.size()).Raw(value); }

Encoder& Encoder::Raw(absl::string_view value) {
  out_.append(value.data(), value.size());
  return *this;
}

Encoder& Encoder::KeyString(absl::string_view value) { return Raw(value).Byte(0); }

bool Decoder::Has(size_t size) {
  if (!ok_ || rest_.size() < size) ok_ = false;
  return ok_;
}

uint8_t Decoder::Byte() {
  if (!Has(1)) return 0;
  const uint8_t value = static_cast<uint8_t>(rest_[0]);
  rest_.remove_prefix(1);
  return value;
}

uint64_t Decoder::Varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const uint8_t byte = Byte();
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return ok_ ? value : 0;
  }
  ok_ = false;
  return 0;
}

uint32_t Decoder::Fixed32() {
  uint32_t value = 0;
  for (int shift = 0; shift < 32; shift += 8) value |= static_cast<uint32_t>(Byte()) << shift;
  return value;
}

uint32_t Decoder::BigEndian32() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = (value << 8) | Byte();
  return value;
}

uint64_t Decoder::BigEndian64() {
  const uint64_t high = BigEndian32();
  return (high << 32) | BigEndian32();
}

Sha256Digest Decoder::Digest() {
  const absl::string_view bytes = Raw(32);
  return ok_ ? DigestFromBytes(bytes) : Sha256Digest{};
}

absl::string_view Decoder::String() {
  const uint64_t size = Varint();
  return Raw(static_cast<size_t>(size));
}

absl::string_view Decoder::Raw(size_t size) {
  if (!Has(size)) return absl::string_view();
  const absl::string_view value = rest_.substr(0, size);
  rest_.remove_prefix(size);
  return value;
}

absl::string_view Decoder::KeyString() {
  const size_t end = rest_.find('\0');
  if (!ok_ || end == absl::string_view::npos) {
    ok_ = false;
    return absl::string_view();
  }
  const absl::string_view value = rest_.substr(0, end);
  rest_.remove_prefix(end + 1);
  return value;
}

absl::Status Decoder::Finish(absl::string_view what) const {
  if (ok_ && rest_.empty()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(what, " is malformed; run `graft-fileservice fsck` to see what else is"));
}

}  // namespace graft::fileservice
