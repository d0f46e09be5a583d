// What one commit changes: comparisons, all of which must hold, and writes, all of which happen.
//
// It can be written down and applied elsewhere with the same outcome: nothing in it depends on a
// clock, on chance or on the machine. That is the seam for a replicated store, which agrees on the
// order of encoded transactions and lets each replica apply them to a store of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::scheduler {

// Kinds of keys that live apart from one another. Stored as numbers: never renumber.
enum class Family {
  kRecords = 0,      // "kind/workspace/name"; watched
  kIdempotency = 1,  // "principal/method/request_id"
  kAudit = 2,        // big-endian sequence
  kEvents = 3,       // big-endian revision and place in it; goes with the change log
};

// The key's record must have been written last at `revision`; 0: there must be none.
struct Compare {
  std::string key;
  int64_t revision = 0;
};

struct Write {
  Family family = Family::kRecords;
  std::string key;
  std::optional<std::string> value;  // none: the key goes
};

struct Transaction {
  std::vector<Compare> compares;  // of records
  std::vector<Write> writes;

  bool empty() const { return compares.empty() && writes.empty(); }
};

std::string EncodeTransaction(const Transaction& transaction);
// DATA_LOSS unless `bytes` is one whole encoded transaction.
absl::StatusOr<Transaction> DecodeTransaction(absl::string_view bytes);

}  // namespace graft::scheduler
