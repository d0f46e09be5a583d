// A frozen matrix in the blocks of its GGUF file, widened a use at a time: a base of 8 billion
// parameters in 4 bits takes 5 GB, and a training pass no more than one widened matrix beside it.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "worker/spec/dtype.h"

namespace graft::model {

// Rows one behind the other; tensors of one group may be of different types.
struct QuantizedMatrix {
  struct Rows {
    spec::DType type = spec::DType::kF32;
    at::Tensor bytes;  // uint8 [rows, bytes of a row]
  };
  int64_t columns = 0;
  std::vector<Rows> parts;

  bool defined() const { return !parts.empty(); }
};

// [rows, columns] in `type`.
at::Tensor Widen(const QuantizedMatrix& matrix, at::ScalarType type);

}  // namespace graft::model
