#include "worker/data/dataset/preview.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::data {

std::string RowPreview::Text(const Colours& colours) const {
  std::string out;
  for (const TokenizedRow& tokens : sequences) {
    const auto learnt = std::count(tokens.mask.begin(), tokens.mask.end(), 1);
    absl::StrAppend(&out, file, ":", location.line, ", ", tokens.ids.size(), " tokens, ", learnt,
                    " to learn\n");
    const auto limit = static_cast<size_t>(std::max(max_seq_length, 0));
    if (limit > 0 && tokens.ids.size() > limit) {
      const auto lost =
          std::count(tokens.mask.begin() + static_cast<ptrdiff_t>(limit), tokens.mask.end(), 1);
      absl::StrAppend(&out, "the cut at ", limit, " tokens takes ", tokens.ids.size() - limit,
                      " away, ", lost, " of them to learn\n");
    }
    absl::StrAppend(&out, HighlightSupervised(tokens, colours.on, colours.off), "\n");
  }
  return out;
}

absl::StatusOr<RowPreview> PreviewRow(const Dataset& dataset, int64_t row,
                                      const Tokenizer& tokenizer, const TokenizeOptions& options) {
  if (row < 0 || row >= dataset.size()) {
    return absl::OutOfRangeError(
        absl::StrCat("row ", row, ": the dataset has ", dataset.size(), " good rows, from 0"));
  }
  RowPreview out;
  out.location = dataset.Locate(row);
  out.file = dataset.FileName(out.location.file);
  out.max_seq_length = options.model_context > 0
                           ? std::min(options.max_seq_length, options.model_context)
                           : options.max_seq_length;
  GRAFT_ASSIGN_OR_RETURN(const Row read, dataset.ReadRow(row));
  GRAFT_ASSIGN_OR_RETURN(out.sequences, TokenizeRow(dataset.format(), read, tokenizer, options));
  return out;
}

}  // namespace graft::data
