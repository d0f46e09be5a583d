#include "worker/data/dataset/duplicates.h"

#include "absl/container/flat_hash_set.h"
#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"

namespace graft::data {
namespace {

int64_t CountOf(const RowSet& set) {
  return set.rows.empty() ? set.data->rows() : static_cast<int64_t>(set.rows.size());
}

// Of all sequences of a row, and of what is learnt of them.
uint64_t HashOf(const TokenizedDataset& data, int64_t row) {
  uint64_t hash = 0;
  for (int i = 0; i < data.sequences_per_row(); ++i) {
    const int64_t sequence = row * data.sequences_per_row() + i;
    hash = absl::HashOf(hash, data.ids(sequence), data.mask(sequence));
  }
  return hash;
}

template <typename Visit>
void ForEachHash(absl::Span<const RowSet> sets, Visit visit) {
  for (const RowSet& set : sets) {
    for (int64_t i = 0; i < CountOf(set); ++i) {
      visit(HashOf(*set.data, set.rows.empty() ? i : int64_t{set.rows[i]}));
    }
  }
}

}  // namespace

DuplicateRows FindDuplicates(absl::Span<const RowSet> training,
                             absl::Span<const RowSet> validation) {
  DuplicateRows found;
  for (const RowSet& set : training) found.training_rows += CountOf(set);
  for (const RowSet& set : validation) found.validation_rows += CountOf(set);
  absl::flat_hash_set<uint64_t> seen;
  seen.reserve(found.training_rows);
  ForEachHash(training, [&](uint64_t hash) { found.repeated += !seen.insert(hash).second; });
  ForEachHash(validation, [&](uint64_t hash) { found.leaked += seen.contains(hash); });
  return found;
}

std::vector<DatasetWarning> DuplicateRows::Warnings() const {
  std::vector<DatasetWarning> warnings;
  if (repeated > 0) {
    warnings.push_back(
        {"duplicate_rows", absl::StrCat(repeated, " of ", training_rows,
                                        " training rows repeat an earlier one word for word; each "
                                        "is learnt as often as it stands there")});
  }
  if (leaked > 0) {
    warnings.push_back(
        {"validation_leak", absl::StrCat(leaked, " of ", validation_rows,
                                         " validation rows are training rows too: the validation "
                                         "loss will look better than the model is")});
  }
  return warnings;
}

}  // namespace graft::data
