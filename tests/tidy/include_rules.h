// The include rules: which folder of the tree may include which, read from layers.txt, and the
// search for cycles between files. Works on the text of the include lines alone.
//
// Files that are tests (x_test.cc, x_fuzz.cc, anything in tests/) may include everything; nothing
// else may include tests/.
#pragma once

#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::tidy {

// What layers.txt says.
struct Layers {
  // folder -> folders and files it may include
  absl::btree_map<std::string, std::vector<std::string>> allowed;
  // folder -> marks ("torch", "grpc", "rocksdb") it carries
  absl::btree_map<std::string, absl::btree_set<std::string>> marks;
  // mark -> prefixes of headers that need it
  absl::btree_map<std::string, std::vector<std::string>> restricted;
  // prefix of a header that nobody may include -> why
  absl::btree_map<std::string, std::string> forbidden;
  // folder -> headers it may not include
  absl::btree_map<std::string, std::vector<std::string>> pure;

  static absl::StatusOr<Layers> Parse(absl::string_view text);
};

// Path below the repository root -> content.
using Tree = absl::btree_map<std::string, std::string>;

// The repository's own .h and .cc files.
absl::StatusOr<Tree> ReadTree(const std::string& root);

// One sentence for each include that breaks a rule and for each cycle, in the order of the files.
std::vector<std::string> CheckIncludes(const Tree& tree, const Layers& layers);

}  // namespace graft::tidy
