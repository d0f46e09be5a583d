#include "scheduler/service/names.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "rpc/status.h"

namespace graft::scheduler {
namespace {

bool IsId(absl::string_view id) {
  if (id.size() < 2 || id.size() > 63) return false;
  if (!absl::ascii_islower(id[0]) && !absl::ascii_isdigit(id[0])) return false;
  return std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-' || c == '_' || c == '.';
  });
}

constexpr char kIdRule[] =
    "2 to 63 characters of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit";

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseName(absl::string_view name,
                                                   absl::string_view pattern, bool allow_any) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  const std::vector<std::string> wanted = absl::StrSplit(pattern, '/');
  std::vector<std::string> ids;
  bool fits = parts.size() == wanted.size();
  std::string odd;  // what stands where an id should
  for (size_t i = 0; fits && i < parts.size(); ++i) {
    if (wanted[i] != "*") {
      fits = parts[i] == wanted[i];
      continue;
    }
    const bool number =
        !parts[i].empty() && std::all_of(parts[i].begin(), parts[i].end(), absl::ascii_isdigit);
    const bool id = number || IsId(parts[i]) || (allow_any && parts[i] == "-");
    if (!id && odd.empty()) odd = parts[i];
    ids.push_back(parts[i]);
  }
  if (fits && odd.empty()) return ids;
  const std::string why = fits ? absl::StrCat("'", name, "': '", odd, "' is no id: ", kIdRule)
                               : absl::StrCat("'", name, "' is no name of the form ", pattern);
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument, why)
      .Reason("NAME_INVALID")
      .Metadata("name", name)
      .Build();
}

absl::Status CheckId(absl::string_view id, absl::string_view field) {
  if (IsId(id)) return absl::OkStatus();
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                           absl::StrCat(field, " '", id, "' is no id: ", kIdRule))
      .Reason("NAME_INVALID")
      .Metadata("name", id)
      .Field(field, "not an id")
      .Build();
}

}  // namespace graft::scheduler
