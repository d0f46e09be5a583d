// Context parallelism: the tokens of a packed batch cut over ranks, so that no rank holds a whole
// sequence. Each segment is cut into two pieces a rank, one from its beginning and one from its end
// (the earlier a piece, the fewer keys it sees), which makes the ranks' work alike. Attention
// gathers the keys and values of all ranks, for as long as a layer's attention takes.
//
// Legend: T tokens of the batch, R rows of a rank, the same on every rank.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "worker/model/division.h"

namespace graft::model {

struct ContextCut {
  // Own rows that hold tokens [tokens, tokens + count) of the batch. The segment begins at token
  // `segment`.
  struct Piece {
    int64_t row = 0;
    int64_t token = 0;
    int64_t count = 0;
    int64_t segment = 0;
  };
  Exchange* exchange = nullptr;
  int64_t rows = 0;                // R; those behind the last piece are filler
  std::vector<Piece> early, late;  // from the beginnings and the ends of the segments
  at::Tensor tokens;               // int64 [R]: which token each own row is; filler: token 0
  at::Tensor order;                // int64 [T]: each token's row among the gathered rows of all
};

// The cut of a batch whose segments begin at `starts` (the last one T). R is a multiple of
// `multiple`.
ContextCut MakeContextCut(const std::vector<int64_t>& starts, Exchange& exchange, int64_t multiple);

// The tokens of all ranks in the batch's order, [T, ...] from [R, ...]; and the way back: the sum
// of what every rank has for a token, at its owner. Filler gets 0.
at::Tensor GatherTokens(const ContextCut& cut, const at::Tensor& own, const char* what);
at::Tensor SumScatterTokens(const ContextCut& cut, const at::Tensor& partial, const char* what);

}  // namespace graft::model
