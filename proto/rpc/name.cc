#include "rpc/name.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

constexpr size_t kMaxSegment = 128;
constexpr size_t kMaxNameBytes = 1024;

bool IsIdStart(char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); }

absl::Status Invalid(absl::string_view message, absl::string_view field) {
  return ErrorBuilder(absl::StatusCode::kInvalidArgument, message)
      .Reason("NAME_INVALID")
      .Field(field, message)
      .Build();
}

// What a peer sent, short enough and printable for a message.
std::string Shown(absl::string_view text) {
  std::string shown(text.substr(0, kMaxSegment));
  for (char& c : shown) {
    if (!absl::ascii_isprint(c)) c = '?';
  }
  return text.size() > kMaxSegment ? absl::StrCat(shown, "...") : shown;
}

bool FitsPlace(absl::string_view place, absl::string_view segment) {
  if (absl::EndsWith(place, "=*}")) {
    return !segment.empty() && segment.size() <= kMaxSegment &&
           std::all_of(segment.begin(), segment.end(), absl::ascii_isgraph);
  }
  if (absl::EndsWith(place, "=-}") && segment == "-") return true;
  return IsValidId(segment);
}

}  // namespace

bool IsValidId(absl::string_view id) {
  return id.size() >= kMinIdLength && id.size() <= kMaxIdLength && IsIdStart(id[0]) &&
         std::all_of(id.begin(), id.end(),
                     [](char c) { return IsIdStart(c) || c == '-' || c == '_' || c == '.'; });
}

absl::Status CheckId(absl::string_view id, absl::string_view field) {
  if (IsValidId(id)) return absl::OkStatus();
  return Invalid(absl::StrCat("'", Shown(id),
                              "' is no id: it takes 2 to 63 lower-case letters, digits, '-', '_' "
                              "and '.', starting with a letter or digit"),
                 field);
}

absl::StatusOr<std::vector<std::string>> ParseName(absl::string_view pattern,
                                                   absl::string_view text,
                                                   absl::string_view field) {
  const auto misfit = [&] {
    return Invalid(absl::StrCat("'", Shown(text), "' does not have the form ", pattern), field);
  };
  if (text.size() > kMaxNameBytes) return misfit();
  const std::vector<absl::string_view> places = absl::StrSplit(pattern, '/');
  const std::vector<absl::string_view> segments = absl::StrSplit(text, '/');
  if (places.size() != segments.size()) return misfit();
  std::vector<std::string> ids;
  for (size_t i = 0; i < places.size(); ++i) {
    if (!absl::StartsWith(places[i], "{")) {
      if (segments[i] != places[i]) return misfit();
      continue;
    }
    if (!FitsPlace(places[i], segments[i])) {
      GRAFT_RETURN_IF_ERROR(CheckId(segments[i], field));
      return misfit();
    }
    ids.emplace_back(segments[i]);
  }
  return ids;
}

}  // namespace graft::rpc
