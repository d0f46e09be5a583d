// Context parallelism: the tokens of a packed batch cut over ranks, so that no rank holds a whole
// sequence. Each segment is cut into two pieces a rank, one from its beginning and one from its end
// (the earlier a piece, the fewer keys it sees), which makes the ranks' work alike. In attention
// the keys and values go around: round after round a rank sees those of one other rank, and what
// its queries make of them is joined.
//
// Legend: R rows of a rank, the same on every rank.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "worker/model/division.h"

namespace graft::model {

struct ContextCut {
  // Rows that hold tokens [token, token + count) of the batch. The segment begins at token
  // `segment`.
  struct Piece {
    int64_t row = 0;
    int64_t token = 0;
    int64_t count = 0;
    int64_t segment = 0;
  };
  // A rank's pieces from the beginnings and from the ends of the segments, in their order; what is
  // too short for a piece has none.
  struct Pieces {
    std::vector<Piece> early, late;
  };
  Exchange* exchange = nullptr;
  int64_t rows = 0;            // R; those behind the last piece are filler
  std::vector<Pieces> pieces;  // of every rank
  at::Tensor tokens;           // int64 [R]: which token each own row is; filler: token 0

  const Pieces& own() const { return pieces[static_cast<size_t>(exchange->rank())]; }
};

// The cut of a batch whose segments begin at `starts` (the last one is the number of tokens). R is
// a multiple of `multiple`.
ContextCut MakeContextCut(const std::vector<int64_t>& starts, Exchange& exchange, int64_t multiple);

}  // namespace graft::model
