#include "worker/model/context.h"

#include <algorithm>

namespace graft::model {
namespace {

using Pieces = std::vector<ContextCut::Piece>;

struct RankPieces {
  Pieces early, late;
  int64_t rows = 0;
};

// Piece i of `pieces` of a segment of `length` tokens.
std::pair<int64_t, int64_t> Range(int64_t length, int64_t pieces, int64_t i) {
  return {length * i / pieces, length * (i + 1) / pieces};
}

RankPieces PiecesOf(const std::vector<int64_t>& starts, int64_t ranks, int64_t rank) {
  RankPieces result;
  const auto add = [&](Pieces& to, int64_t segment, int64_t length, int64_t i) {
    const auto [begin, end] = Range(length, 2 * ranks, i);
    if (begin == end) return;
    to.push_back({result.rows, segment + begin, end - begin, segment});
    result.rows += end - begin;
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
  std::vector<RankPieces> all;
  int64_t rows = 0;
  for (int64_t r = 0; r < ranks; ++r) {
    all.push_back(PiecesOf(starts, ranks, r));
    rows = std::max(rows, all.back().rows);
  }
  ContextCut cut;
  cut.exchange = &exchange;
  cut.rows = std::max(multiple, (rows + multiple - 1) / multiple * multiple);
  cut.tokens = at::zeros({cut.rows}, at::kLong);
  cut.order = at::empty({starts.back()}, at::kLong);
  int64_t* tokens = cut.tokens.mutable_data_ptr<int64_t>();
  int64_t* order = cut.order.mutable_data_ptr<int64_t>();
  for (int64_t r = 0; r < ranks; ++r) {
    for (const Pieces* pieces : {&all[r].early, &all[r].late}) {
      for (const ContextCut::Piece& piece : *pieces) {
        for (int64_t i = 0; i < piece.count; ++i) {
          order[piece.token + i] = r * cut.rows + piece.row + i;
          if (r == exchange.rank()) tokens[piece.row + i] = piece.token + i;
        }
      }
    }
  }
  cut.early = std::move(all[exchange.rank()].early);
  cut.late = std::move(all[exchange.rank()].late);
  return cut;
}

at::Tensor GatherTokens(const ContextCut& cut, const at::Tensor& own, const char* what) {
  return cut.exchange->GatherRows(own.contiguous(), what).index_select(0, cut.order);
}

at::Tensor SumScatterTokens(const ContextCut& cut, const at::Tensor& partial, const char* what) {
  std::vector<int64_t> shape = partial.sizes().vec();
  shape[0] = cut.rows * cut.exchange->size();
  at::Tensor rows = at::zeros(shape, partial.options());
  rows.index_copy_(0, cut.order, partial);
  return cut.exchange->SumScatterRows(rows, what);
}

}  // namespace graft::model
