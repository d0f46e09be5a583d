// TokenizeRow() (tokenized.h) for whoever has many rows: the buffers are used again.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/dataset/tokenized.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {

absl::StatusOr<std::vector<TokenizedRow>> TokenizeRow(RowFormat format, const Row& row,
                                                      const Tokenizer& tokenizer,
                                                      const TokenizeOptions& options,
                                                      Encoding& buffers);

}  // namespace graft::data
