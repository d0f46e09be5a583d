// What somebody meant who mistyped a name.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft::rpc {

// Insertions, deletions, substitutions and swaps of neighbours that make `a` into `b`.
size_t EditDistance(absl::string_view a, absl::string_view b);
// The known name nearest to `name`, or "" when none is near enough to be what was meant.
std::string NearestName(absl::string_view name, const std::vector<std::string>& known);
// "; did you mean 'x'?", or the known names where none is near.
std::string DidYouMean(absl::string_view name, const std::vector<std::string>& known);

}  // namespace graft::rpc
