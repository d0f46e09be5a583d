#include "worker/model/context.h"

#include <algorithm>
#include <utility>

namespace graft::model {
namespace {

// Piece i of `pieces` of a segment of `length` tokens.
std::pair<int64_t, int64_t> Range(int64_t length, int64_t pieces, int64_t i) {
  return {length * i / pieces, length * (i + 1) / pieces};
}

// Adds to `rows` how many there are.
ContextCut::Pieces PiecesOf(const std::vector<int64_t>& starts, int64_t ranks, int64_t rank,
                            int64_t* rows) {
  ContextCut::Pieces result;
  const auto add = [&](std::vector<ContextCut::Piece>& to, int64_t segment, int64_t length,
                       int64_t i) {
    const auto [begin, end] = Range(length, 2 * ranks, i);
    if (begin == end) return;
    to.push_back({*rows, segment + begin, end - begin, segment});
    *rows += end - begin;
  };
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    const int64_t length = starts[s + 1] - starts[s];
    add(result.early, starts[s], length, rank);
    add(result.late, starts[s], length, 2 * ranks - 1 - rank);
  }
  return result;
}

}  // namespace

ContextCut MakeContextCut(const std::vector<int64_t>& starts, Exchange& exchange,
                          int64_t multiple) {
  const int64_t ranks = exchange.size();
  ContextCut cut;
  cut.exchange = &exchange;
  int64_t most = 0;
  for (int64_t r = 0; r < ranks; ++r) {
    int64_t rows = 0;
    cut.pieces.push_back(PiecesOf(starts, ranks, r, &rows));
    most = std::max(most, rows);
  }
  cut.rows = std::max(multiple, (most + multiple - 1) / multiple * multiple);
  cut.tokens = at::zeros({cut.rows}, at::kLong);
  int64_t* tokens = cut.tokens.mutable_data_ptr<int64_t>();
  for (const auto* pieces : {&cut.own().early, &cut.own().late}) {
    for (const ContextCut::Piece& piece : *pieces) {
      for (int64_t i = 0; i < piece.count; ++i) tokens[piece.row + i] = piece.token + i;
    }
  }
  return cut;
}

}  // namespace graft::model
