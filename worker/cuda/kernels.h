// Our CUDA kernels over plain device pointers: free of torch. Rows are contiguous unless a stride
// is named. Every call returns after its launch on `stream`; cudaGetLastError tells of a failed
// one.
//
// Legend: T tokens (rows), H columns of a row, F columns of an MLP's inside, V vocabulary.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "worker/cuda/element.h"

namespace graft::cuda {

enum class Type { kFloat, kBf16, kHalf };

struct Rows {
  Type type;
  int64_t rows;
  int64_t columns;
};

// y = x * rstd * (w + offset); `rstd` [rows] is written. w is fp32.
void RmsNorm(const Rows& shape, const void* x, const float* w, float offset, float eps, void* y,
             float* rstd, cudaStream_t stream);
// The same with known rstd.
void RmsNormAgain(const Rows& shape, const void* x, const float* rstd, const float* w, float offset,
                  void* y, cudaStream_t stream);
void RmsNormBackward(const Rows& shape, const void* dy, const void* x, const float* rstd,
                     const float* w, float offset, void* dx, cudaStream_t stream);

// Turns `heads` heads of `head_dim` in each row in place, 2 * half dimensions of each from `offset`
// on. cos and sin are fp32 [rows, half]; `sign` -1 turns back.
struct RopeLayout {
  int64_t row_stride;
  int64_t heads;
  int64_t head_dim;
  int64_t offset;
  int64_t half;
  bool interleaved;
};
void Rope(Type type, void* x, int64_t rows, const RopeLayout& layout, const float* cos,
          const float* sin, float sign, cudaStream_t stream);

// y [T, F] from gate and up side by side [T, 2 F]; `columns` of the shape is F.
void Gated(const Rows& shape, Gate kind, const void* gate_up, void* y, cudaStream_t stream);
void GatedBackward(const Rows& shape, Gate kind, const void* gate_up, const void* dy,
                   void* d_gate_up, cudaStream_t stream);

// y = x / keep where Keeps says so, else 0. Row r of x is that of a whole input of `whole` columns,
// whose column `first` is its first one.
struct Mask {
  uint64_t seed;
  int64_t whole;
  int64_t first;
  float keep;
};
void Dropout(const Rows& shape, const void* x, const Mask& mask, void* y, cudaStream_t stream);

// Cross entropy of each row of logits times `logit_scale` against its target. `losses` [rows] is
// written; with `grad_scale` != 0 the logits become (softmax - onehot) * grad_scale * logit_scale.
void CrossEntropy(const Rows& shape, void* logits, const int64_t* targets, float logit_scale,
                  float grad_scale, float* losses, cudaStream_t stream);

}  // namespace graft::cuda
