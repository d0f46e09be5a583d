// Pages of lists: sizes by the contract, and tokens that hold the key after which to go on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "rpc/status.h"

namespace graft::fileservice {

inline constexpr int32_t kDefaultPageSize = 50;
inline constexpr int32_t kMaxPageSize = 1000;

inline absl::StatusOr<size_t> PageSize(int32_t asked) {
  if (asked < 0) return absl::InvalidArgumentError("page_size must not be negative");
  if (asked == 0) return static_cast<size_t>(kDefaultPageSize);
  return static_cast<size_t>(std::min(asked, kMaxPageSize));
}

// `list` is the method and what it lists, so that a token cannot be used with another call.
inline std::string PageToken(absl::string_view list, absl::string_view key) {
  return absl::WebSafeBase64Escape(absl::StrCat(list, "\n", key));
}

// The key, empty for an empty token.
inline absl::StatusOr<std::string> PageKey(absl::string_view list, absl::string_view token) {
  if (token.empty()) return std::string();
  std::string text;
  const std::string prefix = absl::StrCat(list, "\n");
  if (absl::WebSafeBase64Unescape(token, &text) && text.compare(0, prefix.size(), prefix) == 0) {
    return text.substr(prefix.size());
  }
  return rpc::ErrorBuilder(
             absl::StatusCode::kInvalidArgument,
             "the page token is damaged or belongs to another call: list from the start")
      .Reason("PAGE_TOKEN_INVALID")
      .Build();
}

}  // namespace graft::fileservice
