#include "rpc/page_token.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

constexpr char kVersion = 1;
constexpr size_t kMacBytes = 16;
constexpr size_t kRevisionBytes = 8;
constexpr size_t kHeaderBytes = 1 + kMacBytes + kRevisionBytes;
constexpr size_t kMaxTokenBytes = 8192;

absl::Status Invalid() {
  return ErrorBuilder(
             absl::StatusCode::kInvalidArgument,
             "the page token is damaged or belongs to another filter or order; start again "
             "with an empty one")
      .Reason("PAGE_TOKEN_INVALID")
      .Field("page_token", "is not one that this list gave for this query")
      .Build();
}

}  // namespace

absl::StatusOr<int> EffectivePageSize(int page_size) {
  if (page_size < 0) {
    return ErrorBuilder(absl::StatusCode::kInvalidArgument, "page_size is below 0")
        .Reason("FIELD_INVALID")
        .Field("page_size", "must be 0 (for the default) or more")
        .Build();
  }
  return page_size == 0 ? kDefaultPageSize : std::min(page_size, kMaxPageSize);
}

std::string PageTokenCodec::Mac(absl::string_view payload, absl::string_view query) const {
  return HmacSha256(key_, absl::StrCat(Sha256::HexOf(query), payload)).substr(0, kMacBytes);
}

// version | mac | revision, big-endian | last key
std::string PageTokenCodec::Encode(const PageToken& token, absl::string_view query) const {
  std::string payload;
  for (int shift = 56; shift >= 0; shift -= 8) {
    payload.push_back(static_cast<char>(token.revision >> shift & 0xff));
  }
  payload += token.last_key;
  return absl::WebSafeBase64Escape(
      absl::StrCat(std::string(1, kVersion), Mac(payload, query), payload));
}

absl::StatusOr<PageToken> PageTokenCodec::Decode(absl::string_view text,
                                                 absl::string_view query) const {
  std::string bytes;
  if (text.size() > kMaxTokenBytes || !absl::WebSafeBase64Unescape(text, &bytes) ||
      bytes.size() < kHeaderBytes || bytes[0] != kVersion) {
    return Invalid();
  }
  const absl::string_view payload = absl::string_view(bytes).substr(1 + kMacBytes);
  if (!ConstantTimeEquals(absl::string_view(bytes).substr(1, kMacBytes), Mac(payload, query))) {
    return Invalid();
  }
  PageToken token;
  for (size_t i = 0; i < kRevisionBytes; ++i) {
    token.revision = token.revision << 8 | static_cast<uint8_t>(payload[i]);
  }
  token.last_key = std::string(payload.substr(kRevisionBytes));
  return token;
}

}  // namespace graft::rpc
