// Filters of lists, in AIP-160's grammar.
//
//   state = RUNNING AND (labels.team = "search" OR priority >= 5) AND NOT name = "test-*"
//
// Comparisons are = != < <= > >= and ":" (the text holds, or a member equals). As AIP-160 has it,
// OR binds tighter than AND. A text that ends in "*" after = is a prefix. Fields and their types
// come from a schema, so that a misspelt field or an unfit value is refused with its column.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace graft::rpc {

enum class FilterType { kString, kInt, kDouble, kBool, kTime };
using FilterValue = std::variant<std::string, int64_t, double, bool, absl::Time>;
// A name that ends in ".*" stands for all keys of a map: "labels.*".
using FilterSchema = std::map<std::string, FilterType>;
// The values of a field: none where it is absent, several where it repeats (any may match).
using FilterLookup = std::function<std::vector<FilterValue>(absl::string_view field)>;

// Immutable; copies share the tree.
class Filter {
 public:
  static constexpr size_t kMaxBytes = 4096;
  static constexpr int kMaxDepth = 32;
  static constexpr int kMaxTerms = 64;

  // INVALID_ARGUMENT (FILTER_INVALID, metadata `position` and `fields`). An empty filter matches
  // all.
  static absl::StatusOr<Filter> Parse(absl::string_view text, const FilterSchema& schema);

  bool Matches(const FilterLookup& lookup) const;

  struct Node;

 private:
  std::shared_ptr<const Node> root_;  // shared by copies; nullptr matches all
};

}  // namespace graft::rpc
