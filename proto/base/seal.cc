#include "base/seal.h"

#include <openssl/evp.h>

#include <memory>

#include "absl/status/status.h"
#include "base/bytes.h"
#include "base/check.h"

namespace graft {
namespace {

constexpr char kVersion = 1;
constexpr size_t kTagBytes = 16;

using Cipher = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

uint8_t* Bytes(std::string& text) { return reinterpret_cast<uint8_t*>(text.data()); }
int Size(absl::string_view text) { return static_cast<int>(text.size()); }

absl::Status Damaged() {
  return absl::DataLossError("a sealed value does not open: it or the key was changed");
}

}  // namespace

// As stored: version, nonce, ciphertext, tag.
std::string Seal(absl::string_view key, absl::string_view nonce, absl::string_view value,
                 absl::string_view context) {
  GRAFT_CHECK(key.size() == kSealKeyBytes && nonce.size() == kSealNonceBytes)
      << "a key or nonce of a wrong length";
  const Cipher cipher(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  std::string body(value.size(), '\0');
  std::string tag(kTagBytes, '\0');
  int length = 0;
  const bool ok =
      EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, Bytes(key), Bytes(nonce)) == 1 &&
      EVP_EncryptUpdate(cipher.get(), nullptr, &length, Bytes(context), Size(context)) == 1 &&
      EVP_EncryptUpdate(cipher.get(), Bytes(body), &length, Bytes(value), Size(value)) == 1 &&
      EVP_EncryptFinal_ex(cipher.get(), nullptr, &length) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes, tag.data()) == 1;
  GRAFT_CHECK(ok) << "OpenSSL refused to seal";
  return std::string(1, kVersion).append(nonce.data(), nonce.size()).append(body).append(tag);
}

absl::StatusOr<std::string> Unseal(absl::string_view key, absl::string_view sealed,
                                   absl::string_view context) {
  GRAFT_CHECK(key.size() == kSealKeyBytes) << "a key of a wrong length";
  if (sealed.size() < 1 + kSealNonceBytes + kTagBytes || sealed[0] != kVersion) return Damaged();
  const absl::string_view nonce = sealed.substr(1, kSealNonceBytes);
  const absl::string_view body =
      sealed.substr(1 + kSealNonceBytes, sealed.size() - 1 - kSealNonceBytes - kTagBytes);
  std::string tag(sealed.substr(sealed.size() - kTagBytes));
  const Cipher cipher(EVP_CIPHER_CTX_new(), EVP_CIPHER_CTX_free);
  std::string value(body.size(), '\0');
  int length = 0;
  const bool ok =
      EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, Bytes(key), Bytes(nonce)) == 1 &&
      EVP_DecryptUpdate(cipher.get(), nullptr, &length, Bytes(context), Size(context)) == 1 &&
      EVP_DecryptUpdate(cipher.get(), Bytes(value), &length, Bytes(body), Size(body)) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, kTagBytes, tag.data()) == 1 &&
      EVP_DecryptFinal_ex(cipher.get(), nullptr, &length) == 1;
  if (!ok) return Damaged();
  return value;
}

}  // namespace graft
