// The version of a store as a whole: which kinds of keys it holds and how they are made. What a
// record's body looks like is the record's own version, read as it is met.
//
//   GRAFT_RETURN_IF_ERROR(BringForward(store));   // before anything else is read from it
//
// A store that says nothing is of version 1. Not for two threads at once.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

// One step: what to commit so that the store is of the next version. It is committed together with
// that version, so that a crash leaves the one or the other.
using Migration = std::function<absl::StatusOr<Transaction>(const Store& store)>;

// steps[i] leads from version i + 1 to i + 2; this program's version is the last one reached.
const std::vector<Migration>& Migrations();

// Takes the steps that the store lacks. FAILED_PRECONDITION when it is of a later version than the
// steps lead to: nothing is guessed of what a later program has written.
absl::Status BringForward(Store& store, const std::vector<Migration>& steps = Migrations());
// DATA_LOSS when what stands there is no version.
absl::StatusOr<int> SchemaVersion(const Store& store);

}  // namespace graft::scheduler
