// A trie over the bytes of tokens; the children of a node lie side by side, ordered by their byte.
// Immutable after Build.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft::data {

class ByteTrie {
 public:
  static constexpr int32_t kNone = -1;
  struct Node {
    uint32_t first_child = 0;
    uint16_t child_count = 0;
    uint8_t byte = 0;
    int32_t id = kNone;  // of the token that ends here
  };

  // Texts and ids. Of two tokens with one text the later holds; an empty one is left out. The texts
  // are not kept.
  void Build(std::vector<std::pair<absl::string_view, int32_t>> tokens);

  bool empty() const { return nodes_.empty(); }
  // Not on an empty trie.
  const Node& root() const { return nodes_[0]; }
  // nullptr where no token goes on with `byte`.
  const Node* Child(const Node& node, char byte) const;

 private:
  std::vector<Node> nodes_;
};

}  // namespace graft::data
