// What a rank may do with files (Landlock): it reads the machine's, but of the worker's own folders
// only what its attempt needs, and writes below its own folders alone. So one workspace's rank sees
// neither another's inputs nor the node's credential, though all run as the worker's user.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"

namespace graft::agent {

struct FileAccess {
  std::vector<std::string> hidden;    // folders of which nothing is seen, but for what follows
  std::vector<std::string> readable;  // inputs
  std::vector<std::string> writable;  // the attempt's own folder, and what it shares on purpose
};

// Whether this kernel has such rules. FAILED_PRECONDITION says what it answered.
absl::Status TryFileRules();

// Made before a fork, entered by the child.
class FileRules {
 public:
  // Every folder of `access` must be there. NOT_FOUND names one that is not.
  static absl::StatusOr<FileRules> Make(const FileAccess& access);
  // From here on the process and its children are held to the rules. Async-signal-safe; 0 or errno.
  int Enter() const;

 private:
  explicit FileRules(UniqueFd ruleset) : ruleset_(std::move(ruleset)) {}

  UniqueFd ruleset_;
};

}  // namespace graft::agent
