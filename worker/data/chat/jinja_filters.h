// What the filters share. Names and arguments of filters are jinja2's.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/data/chat/jinja_calls.h"

namespace graft::jinja {

// The filters of each file, sorted by name.
absl::Span<const FilterEntry> TextFilters();
absl::Span<const FilterEntry> NumberFilters();
absl::Span<const FilterEntry> SequenceFilters();
absl::Span<const FilterEntry> OrderFilters();

// The truth of an argument.
bool TruthArg(const Args& args, size_t index, absl::string_view name, bool fallback = false);

// An attribute by its path: "address.city", 0, or none (the item itself).
class AttributePath {
 public:
  // `fallback` stands for an attribute that an item does not have.
  AttributePath(Interpreter& in, const Value* attribute, const Value* fallback = nullptr);
  Value Get(Value item) const;

 private:
  Interpreter& in_;
  const Value* fallback_;
  std::vector<Value> parts_;
};

}  // namespace graft::jinja
