// The numbers of a model: frozen tensors in the precision they are kept in, and trained ones, which
// stand one behind the other in a single fp32 buffer with a second one for their gradients. An
// optimizer, a norm, a checkpoint or an all-reduce is then one pass over flat memory.
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
  bool decay = true;   // weight decay applies: neither a bias nor the weight of a norm
  int64_t offset = 0;  // into the flat buffers, in numbers
  at::Tensor value;    // fp32, a view
  at::Tensor grad;     // fp32, a view

  int64_t elements() const {
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    return count;
  }
};

class ParameterStore {
 public:
  // GRAFT_CHECKs that Allocate has not been called.
  Trained* Declare(std::string name, std::vector<int64_t> shape, bool decay);
  // Makes both buffers, zeroed, each tensor at a multiple of 64 bytes.
  void Allocate(at::Device device);
  void ZeroGradients() { grads_.zero_(); }

  std::deque<Trained>& trained() { return trained_; }
  const std::deque<Trained>& trained() const { return trained_; }
  at::Tensor& values() { return values_; }
  at::Tensor& grads() { return grads_; }
  // Of the tensors, without the gaps between them.
  int64_t trained_elements() const;

 private:
  std::deque<Trained> trained_;  // a deque: addresses stay
  int64_t size_ = 0;
  at::Tensor values_;
  at::Tensor grads_;
};

}  // namespace graft::model
