// Page tokens: opaque to clients, and refused when changed or used with another query.
//
// A token holds the last key given and the revision of the first page. Later pages read the newest
// state after that key; a watch from the revision closes the gap.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::rpc {

inline constexpr int kDefaultPageSize = 50;
inline constexpr int kMaxPageSize = 1000;
// 0 is the default, above the most is the most, below 0 INVALID_ARGUMENT.
absl::StatusOr<int> EffectivePageSize(int page_size);

struct PageToken {
  std::string last_key;
  uint64_t revision = 0;
};

// Thread-safe.
class PageTokenCodec {
 public:
  // Servers that serve each other's tokens share the key.
  explicit PageTokenCodec(std::string key) : key_(std::move(key)) {}

  // `query` is whatever must not change between pages: method, parent, filter and order, joined so
  // that two queries never give the same text.
  std::string Encode(const PageToken& token, absl::string_view query) const;
  // INVALID_ARGUMENT (PAGE_TOKEN_INVALID).
  absl::StatusOr<PageToken> Decode(absl::string_view text, absl::string_view query) const;

 private:
  std::string Mac(absl::string_view payload, absl::string_view query) const;
  const std::string key_;
};

}  // namespace graft::rpc
