// What a TokenizedDataset is made of. For tokenized.cc, which builds it, and tokenized_file.cc,
// which writes and maps it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/file.h"
#include "worker/data/dataset/tokenized.h"

namespace graft::data {

// Raised when the file or the meaning of what it keeps changes: older files are made again.
inline constexpr uint32_t kTokenFileVersion = 3;

struct TokenizedDataset::Impl {
  RowFormat format = RowFormat::kChat;
  int per_row = 1;
  TokenStats stats;
  // Own storage while it is built; the spans refer to it or to the mapped file.
  std::vector<int32_t> own_ids, own_supervised;
  std::vector<uint8_t> own_mask;
  std::vector<int64_t> own_starts = {0}, own_rows;
  MappedFile file;

  absl::Span<const int32_t> ids, supervised;
  absl::Span<const uint8_t> mask;
  absl::Span<const int64_t> starts, rows;

  void UseOwn() {
    ids = own_ids;
    supervised = own_supervised;
    mask = own_mask;
    starts = own_starts;
    rows = own_rows;
  }
};

}  // namespace graft::data
