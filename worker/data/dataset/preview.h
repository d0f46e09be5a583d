// What a row becomes: the text that the model reads, with the part that it has to learn in colour.
// For people who want to see whether their rows mean what they think, before anything is trained.
//
//   GRAFT_ASSIGN_OR_RETURN(const RowPreview row, PreviewRow(dataset, 0, tokenizer, options));
//   std::cout << row.Text(kTerminalColours);
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/dataset/dataset.h"
#include "worker/data/dataset/tokenized.h"

namespace graft::data {

// What stands before and after the part that is learnt.
struct Colours {
  std::string on, off;
};
inline const Colours kTerminalColours = {"\033[32m", "\033[0m"};
inline const Colours kPlainMarks = {"[[", "]]"};

struct RowPreview {
  RowLocation location;
  std::string file;
  // One, or the chosen and the rejected answer of a preference row.
  std::vector<TokenizedRow> sequences;
  int max_seq_length = 0;

  // "tickets.jsonl:1, 120 tokens, 34 to learn", a line of what the cut takes away where it does,
  // and the text, for each sequence.
  std::string Text(const Colours& colours) const;
};

// OUT_OF_RANGE where there is no such good row; else the errors of TokenizeRow().
absl::StatusOr<RowPreview> PreviewRow(const Dataset& dataset, int64_t row,
                                      const Tokenizer& tokenizer, const TokenizeOptions& options);

}  // namespace graft::data
