#include "fileservice/service/signed_url.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_macros.h"

namespace graft::fileservice {
namespace {

constexpr size_t kKeyBytes = 32;

std::string PercentEncode(absl::string_view path) {
  std::string out;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) ||
        absl::string_view("-._~/").find(c) != absl::string_view::npos) {
      out.push_back(c);
    } else {
      absl::StrAppendFormat(&out, "%%%02X", byte);
    }
  }
  return out;
}

}  // namespace

std::string FileUrlPath(absl::string_view version, absl::string_view path) {
  return absl::StrCat("/v1/", version, "/files/", PercentEncode(path));
}

absl::StatusOr<std::string> UrlSigner::LoadKey(const std::string& path) {
  absl::StatusOr<std::string> kept = ReadFile(path, 4096);
  if (kept.ok() && kept->size() == kKeyBytes) return kept;
  if (!kept.ok() && !absl::IsNotFound(kept.status())) return kept.status();
  SecureRandom random;
  std::string key = random.Bytes(kKeyBytes);
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(path, key, {.mode = 0600}));
  return key;
}

std::string UrlSigner::SignatureOf(absl::string_view version, absl::string_view path,
                                   int64_t expires) const {
  // Lengths keep the parts apart, whatever they hold.
  return ToHex(
      absl::string_view(HmacSha256(key_, absl::StrCat("GET ", version.size(), " ", version, " ",
                                                      path.size(), " ", path, " ", expires))));
}

std::string UrlSigner::Sign(absl::string_view version, absl::string_view path,
                            absl::Time expires) const {
  const int64_t seconds = absl::ToUnixSeconds(expires);
  return absl::StrCat(base_, FileUrlPath(version, path), "?expires=", seconds,
                      "&signature=", SignatureOf(version, path, seconds));
}

bool UrlSigner::Verify(absl::string_view version, absl::string_view path, int64_t expires,
                       absl::string_view signature, absl::Time now) const {
  return ConstantTimeEquals(signature, SignatureOf(version, path, expires)) &&
         absl::ToUnixSeconds(now) < expires;
}

}  // namespace graft::fileservice
