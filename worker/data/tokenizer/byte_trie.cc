#include "worker/data/tokenizer/byte_trie.h"

#include <algorithm>

namespace graft::data {

void ByteTrie::Build(std::vector<std::pair<absl::string_view, int32_t>> tokens) {
  nodes_.clear();
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::pair<absl::string_view, int32_t>> unique;
  unique.reserve(tokens.size());
  for (const auto& token : tokens) {
    if (token.first.empty()) continue;
    if (!unique.empty() && unique.back().first == token.first) unique.pop_back();
    unique.push_back(token);
  }
  if (unique.empty()) return;
  // Breadth first: each node's range of tokens shares the bytes that lead to it.
  struct Range {
    size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, unique.size(), 0}};
  nodes_.emplace_back();
  for (size_t n = 0; n < ranges.size(); ++n) {
    const Range range = ranges[n];
    size_t begin = range.begin;
    if (unique[begin].first.size() == range.depth) nodes_[n].id = unique[begin++].second;
    nodes_[n].first_child = static_cast<uint32_t>(nodes_.size());
    while (begin < range.end) {
      const char byte = unique[begin].first[range.depth];
      size_t end = begin;
      while (end < range.end && unique[end].first[range.depth] == byte) ++end;
      Node child;
      child.byte = static_cast<uint8_t>(byte);
      nodes_.push_back(child);
      ranges.push_back({begin, end, range.depth + 1});
      ++nodes_[n].child_count;
      begin = end;
    }
  }
}

const ByteTrie::Node* ByteTrie::Child(const Node& node, char byte) const {
  const Node* first = nodes_.data() + node.first_child;
  const Node* last = first + node.child_count;
  const auto wanted = static_cast<uint8_t>(byte);
  const Node* child =
      std::lower_bound(first, last, wanted, [](const Node& a, uint8_t b) { return a.byte < b; });
  return child == last || child->byte != wanted ? nullptr : child;
}

}  // namespace graft::data
