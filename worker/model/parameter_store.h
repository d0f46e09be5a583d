// The numbers of a model: frozen tensors in the precision they are kept in, and trained ones, which
// stand one behind the other in a single fp32 buffer with a second one for their gradients. An
// optimizer, a norm, a checkpoint or an all-reduce is then one pass over flat memory.
//
// Where weights are divided over ranks, layers stand apart: each in buffers of its own, whose
// memory comes and goes.
//
// Life cycle: Declare every trained tensor, Allocate once, then fill `value` of each. Addresses of
// Trained entries are stable. Gradients are accumulated in place by the backward of the modules
// that own the tensors; autograd never sees these tensors as leaves.
#pragma once

#include <ATen/ATen.h>

#include <deque>
#include <string>
#include <vector>

namespace graft::model {

struct Trained {
  std::string name;
  std::vector<int64_t> shape;
  bool decay = true;  // weight decay applies: neither a bias nor the weight of a norm
  // Where the model is divided over ranks: the shape of the whole tensor, and the pieces of it that
  // stand here. A tensor is a matrix of rows() for this, whatever its dimensions are; the pieces
  // are rows (`axis` 0) or columns (1). One rank has one piece, which is all.
  struct Piece {
    int64_t begin = 0;        // here
    int64_t whole_begin = 0;  // in the whole tensor
    int64_t count = 0;
    int64_t copies = 1;    // neighbouring tensor-parallel ranks that hold the same
    bool experts = false;  // divided over the expert-parallel ranks instead
  };
  std::vector<int64_t> whole;
  int axis = 0;
  std::vector<Piece> pieces;
  bool both_ends = false;  // of a pipeline: a tied embedding on its first and its last stage
  int64_t layer = 0;       // that uses it; -1: the embedding, the number of layers: the head
  int64_t offset = 0;      // into its flat buffers, in numbers
  at::Tensor value;        // fp32, a view
  at::Tensor grad;         // fp32, a view

  int64_t elements() const {
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    return count;
  }
  // All dimensions but the last; of a vector its numbers.
  int64_t rows() const { return shape.size() < 2 ? elements() : elements() / shape.back(); }
  int64_t columns() const { return shape.size() < 2 ? 1 : shape.back(); }
};

class ParameterStore {
 public:
  // A whole tensor of layer `layer`, which `copies` tensor-parallel ranks hold. The caller may
  // replace its pieces. GRAFT_CHECKs that Allocate has not been called.
  Trained* Declare(std::string name, std::vector<int64_t> shape, bool decay, int64_t layer = 0,
                   int64_t copies = 1);
  // Makes both buffers, zeroed, each tensor at a multiple of 64 bytes. Layers [0, `layers_apart`)
  // stand apart and have no memory yet.
  void Allocate(at::Device device, int64_t layers_apart = 0);
  void ZeroGradients() { grads_.zero_(); }

  // Memory of a layer that stands apart; its tensors, which stay as they are, throw c10::Error
  // where they are read without. It comes zeroed.
  void BringValues(int64_t layer);
  void GiveBackValues(int64_t layer);
  void BringGradients(int64_t layer);
  void GiveBackGradients(int64_t layer);

  std::deque<Trained>& trained() { return trained_; }
  const std::deque<Trained>& trained() const { return trained_; }
  // Without the layers apart.
  at::Tensor& values() { return values_; }
  at::Tensor& grads() { return grads_; }
  // Of the tensors, without the gaps between them.
  int64_t trained_elements() const;

 private:
  struct Buffers {
    at::Tensor values, grads;
  };
  Buffers& Apart(int64_t layer);

  std::deque<Trained> trained_;  // a deque: addresses stay
  at::Tensor values_;
  at::Tensor grads_;
  std::vector<Buffers> apart_;
};

}  // namespace graft::model
