// The contract as sorted lines of text, one for every name and number that a client may rely on,
// and what a later contract breaks of an earlier one. Wire and JSON both count: a renamed field is
// a break.
//
// A field or value may go when its number and name are reserved in its place.
#pragma once

#include <string>
#include <vector>

#include "absl/container/btree_set.h"
#include "google/protobuf/descriptor.pb.h"

namespace graft::tidy {

using Snapshot = absl::btree_set<std::string>;

Snapshot TakeSnapshot(const google::protobuf::FileDescriptorSet& set);
Snapshot ParseSnapshot(const std::string& text);
std::string FormatSnapshot(const Snapshot& snapshot);

// Lines of `before` that `now` has neither kept nor reserved. Empty: nothing is broken.
std::vector<std::string> Breaks(const Snapshot& before, const Snapshot& now);
// Lines of `now` that `before` lacks.
std::vector<std::string> Additions(const Snapshot& before, const Snapshot& now);

}  // namespace graft::tidy
