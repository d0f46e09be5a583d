// Rows that are there twice: within the training rows, where they weigh double without anyone
// having asked for it, and in training and validation both, where the validation loss flatters.
//
// Two rows are the same where their tokens are: layout of the JSON and fields that nothing reads do
// not matter. Rows are compared by 64-bit hashes of their tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "worker/data/dataset/tokenized.h"

namespace graft::data {

struct DuplicateRows {
  int64_t repeated = 0;  // training rows that an earlier one equals
  int64_t leaked = 0;    // validation rows that stand in training too
  int64_t training_rows = 0;
  int64_t validation_rows = 0;

  // What to tell: "duplicate_rows" and "validation_leak", each where there are any.
  std::vector<DatasetWarning> Warnings() const;
};

// A part of a dataset: all its rows, or those named.
struct RowSet {
  const TokenizedDataset* data = nullptr;
  absl::Span<const uint32_t> rows;  // empty: all
};

DuplicateRows FindDuplicates(absl::Span<const RowSet> training,
                             absl::Span<const RowSet> validation);

}  // namespace graft::data
