// `graft model import --from hf://...`: the model's files in a folder of this machine's cache.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cli/command.h"

namespace graft::cli {

// Downloads what `skip` does not leave out, and shows how far it is. A second call goes on where
// the first was cut; what is there is not fetched again. Answers the folder.
absl::StatusOr<std::string> FetchFromHub(const Invocation& invocation, absl::string_view address,
                                         const std::function<bool(absl::string_view)>& skip);

}  // namespace graft::cli
