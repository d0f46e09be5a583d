// The known word that a written one was probably meant to be.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft::client {

// "" when no candidate is near: farther ones are other words, not slips.
std::string Nearest(absl::string_view word, const std::vector<std::string>& candidates);

}  // namespace graft::client
