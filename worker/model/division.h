// Which part of a model one rank holds, and what its modules call where they need the other ranks.
// The modules stay single-device code: each hook is a pointer that is nullptr on one rank.
//
// Tensor parallelism cuts attention by heads, MLPs by columns of their inside and the vocabulary by
// rows. Between blocks the residual stream is cut by tokens, so that norms, residuals and their
// memory are divided too: a block gathers the tokens behind its norm and hands back sums of which
// each rank keeps its own tokens. From that follows one rule for gradients: whatever several ranks
// hold alike (norms, the A of a gathering linear, the B of a summing one, KV heads that were
// copied) has a partial gradient on each, and their sum is the gradient.
//
// Pipeline parallelism gives a rank some of the layers, and the embedding or the head at the ends.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "worker/spec/decoder_spec.h"

namespace graft::model {

// The ranks of a tensor-parallel group. Every member makes the same calls in the same order; `what`
// names the call in errors. Throws c10::Error when a member is lost.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual int64_t size() const = 0;
  virtual int64_t rank() const = 0;
  // The rows of all ranks, rank after rank. All bring the same shape.
  virtual at::Tensor GatherRows(const at::Tensor& own, const char* what) = 0;
  // The sum over the ranks, of whose rows each gets its own. Rows divide by size().
  virtual at::Tensor SumScatterRows(const at::Tensor& partial, const char* what) = 0;
  // What the member `from` hands on in this call, of the shape of `own`, which goes to `to`.
  virtual at::Tensor HandOn(const at::Tensor& own, int64_t to, int64_t from, const char* what) = 0;
  virtual void Sum(at::Tensor& x, const char* what) = 0;
  virtual void Max(at::Tensor& x, const char* what) = 0;
};

// The same with gradients: the way back of a gather is a sum, of a sum a gather. `x` itself where
// `exchange` is null.
at::Tensor GatherRowsOp(const at::Tensor& x, Exchange* exchange, const char* what);
at::Tensor SumScatterRowsOp(const at::Tensor& x, Exchange* exchange, const char* what);

// The ranks that hold the experts of a layer together. Every member makes the same calls.
class ExpertExchange {
 public:
  virtual ~ExpertExchange() = default;
  virtual int64_t size() const = 0;
  virtual int64_t rank() const = 0;
  // counts[i] is for member i; what every member has for this one.
  virtual std::vector<int64_t> ShareCounts(const std::vector<int64_t>& counts,
                                           const char* what) = 0;
  // counts[i] rows of `rows` in turn go to member i, expected[i] come from it, member after member.
  virtual at::Tensor AllToAll(const at::Tensor& rows, const std::vector<int64_t>& counts,
                              const std::vector<int64_t>& expected, const char* what) = 0;
};

// What passes happen, told to whom overlaps communication with them or watches for progress.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // A forward through layer `layer` (in the model's numbering) begins.
  virtual void Entered(int64_t layer) = 0;
  // The backward has passed `layer` and all behind it: their gradients of this pass are complete.
  virtual void BackwardPassed(int64_t layer) = 0;
};

struct Division {
  int64_t tp = 1;
  int64_t tp_rank = 0;
  Exchange* tensor = nullptr;         // set where tp > 1
  Exchange* context = nullptr;        // set where tokens are cut over ranks (context.h)
  ExpertExchange* experts = nullptr;  // set where experts are divided over ranks
  // The layers of this rank in the order of computation, as ranges [first, second). Empty: all.
  std::vector<std::pair<int64_t, int64_t>> layers;
  bool embedding = true;
  bool head = true;

  // Whether this rank has all of the model.
  bool whole() const {
    return tp == 1 && experts == nullptr && layers.empty() && embedding && head;
  }
};

// A rank's part of a tensor: along `axis` the pieces begin, begin + count ... of the whole one.
// `copies` neighbouring tensor-parallel ranks hold the same numbers.
struct Cut {
  int axis = 0;
  int64_t begin = 0;
  int64_t count = 0;
  int64_t copies = 1;
};

// `n` things over `parts`: as equal as can be, the first ones taking one more.
Cut EvenCut(int64_t n, int64_t parts, int64_t index);

// This rank's part of the parameter with that canonical name and shape. The whole of it has
// `copies` = tp.
Cut CutOf(const spec::DecoderSpec& spec, const Division& division, const std::string& name,
          const std::vector<int64_t>& shape);

}  // namespace graft::model
