#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "worker/cuda/kernels.h"

namespace graft::cuda {
namespace {

constexpr int kThreads = 256;  // of a block
constexpr int kWarp = 32;
constexpr int kMostBlocks = 65535;  // of a grid whose threads take several numbers

__device__ float Wide(float x) { return x; }
__device__ float Wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float Wide(__half x) { return __half2float(x); }
__device__ void Store(float x, float* to) { *to = x; }
__device__ void Store(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }
__device__ void Store(float x, __half* to) { *to = __float2half_rn(x); }

// Calls fn with a null pointer of the element's type.
template <typename F>
void WithType(Type type, const F& fn) {
  switch (type) {
    case Type::kFloat:
      return fn(static_cast<float*>(nullptr));
    case Type::kBf16:
      return fn(static_cast<__nv_bfloat16*>(nullptr));
    case Type::kHalf:
      return fn(static_cast<__half*>(nullptr));
  }
}

// Joins a value of every thread of the block; all get the result. The order is fixed, so the same
// numbers give the same bits.
template <typename T, typename Join, typename Shuffle>
__device__ T OverBlock(T value, T nothing, const Join& join, const Shuffle& shuffle) {
  __shared__ T of_warp[kThreads / kWarp];
  for (int step = kWarp / 2; step > 0; step /= 2) value = join(value, shuffle(value, step));
  __syncthreads();  // those of an earlier call have been read
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  T all = nothing;
  for (int i = 0; i < kThreads / kWarp; ++i) all = join(all, of_warp[i]);
  return all;
}

__device__ float SumOverBlock(float value) {
  return OverBlock(
      value, 0.0f, [](float a, float b) { return a + b; },
      [](float x, int step) { return __shfl_xor_sync(0xffffffffu, x, step); });
}

__device__ ExpSum ExpSumOverBlock(ExpSum value) {
  return OverBlock(
      value, ExpSum{-INFINITY, 0.0f}, [](ExpSum a, ExpSum b) { return Joined(a, b); },
      [](ExpSum x, int step) {
        return ExpSum{__shfl_xor_sync(0xffffffffu, x.most, step),
                      __shfl_xor_sync(0xffffffffu, x.sum, step)};
      });
}

// A block a row. rstd is made where `again` is null.
template <typename T>
__global__ void RmsNormKernel(const T* x, const float* w, float offset, float eps, int columns,
                              const float* again, T* y, float* rstd) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * columns;
  float scale;
  if (again != nullptr) {
    scale = again[blockIdx.x];
  } else {
    float square = 0;
    for (int i = threadIdx.x; i < columns; i += kThreads) {
      const float v = Wide(x[begin + i]);
      square += v * v;
    }
    scale = RmsScale(SumOverBlock(square), columns, eps);
    if (threadIdx.x == 0) rstd[blockIdx.x] = scale;
  }
  for (int i = threadIdx.x; i < columns; i += kThreads) {
    Store(Wide(x[begin + i]) * scale * (w[i] + offset), y + begin + i);
  }
}

template <typename T>
__global__ void RmsNormBackwardKernel(const T* dy, const T* x, const float* rstd, const float* w,
                                      float offset, int columns, T* dx) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * columns;
  float dot = 0;
  for (int i = threadIdx.x; i < columns; i += kThreads) {
    dot += Wide(dy[begin + i]) * (w[i] + offset) * Wide(x[begin + i]);
  }
  const float scale = rstd[blockIdx.x];
  const float pull = RmsPull(SumOverBlock(dot), scale, columns);
  for (int i = threadIdx.x; i < columns; i += kThreads) {
    Store(RmsGradient(Wide(dy[begin + i]), Wide(x[begin + i]), w[i] + offset, scale, pull),
          dx + begin + i);
  }
}

// A thread a pair, the pairs of all heads of a row side by side.
template <typename T>
__global__ void RopeKernel(T* x, int64_t pairs, RopeLayout layout, const float* cos,
                           const float* sin, float sign) {
  for (int64_t p = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; p < pairs;
       p += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t i = p % layout.half;
    const int64_t head = p / layout.half % layout.heads;
    const int64_t row = p / layout.half / layout.heads;
    T* at = x + row * layout.row_stride + head * layout.head_dim + layout.offset;
    T* a = layout.interleaved ? at + 2 * i : at + i;
    T* b = layout.interleaved ? at + 2 * i + 1 : at + i + layout.half;
    const Pair turned =
        Turn(Wide(*a), Wide(*b), cos[row * layout.half + i], sign * sin[row * layout.half + i]);
    Store(turned.first, a);
    Store(turned.second, b);
  }
}

template <typename T>
__global__ void GatedKernel(Gate kind, const T* gate_up, int64_t count, int64_t columns, T* y) {
  for (int64_t n = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; n < count;
       n += static_cast<int64_t>(gridDim.x) * kThreads) {
    const T* gate = gate_up + n / columns * 2 * columns + n % columns;
    Store(Gated(kind, Wide(*gate), Wide(gate[columns])), y + n);
  }
}

template <typename T>
__global__ void GatedBackwardKernel(Gate kind, const T* gate_up, const T* dy, int64_t count,
                                    int64_t columns, T* d_gate_up) {
  for (int64_t n = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; n < count;
       n += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t at = n / columns * 2 * columns + n % columns;
    const Pair d = GatedGradient(kind, Wide(gate_up[at]), Wide(gate_up[at + columns]), Wide(dy[n]));
    Store(d.first, d_gate_up + at);
    Store(d.second, d_gate_up + at + columns);
  }
}

template <typename T>
__global__ void DropoutKernel(const T* x, int64_t count, int64_t columns, Mask mask, T* y) {
  for (int64_t n = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; n < count;
       n += static_cast<int64_t>(gridDim.x) * kThreads) {
    const auto index = static_cast<uint32_t>(n / columns * mask.whole + mask.first + n % columns);
    const bool keeps = Keeps(index, static_cast<uint32_t>(mask.seed),
                             static_cast<uint32_t>(mask.seed >> 32), mask.keep);
    Store(keeps ? Wide(x[n]) / mask.keep : 0.0f, y + n);
  }
}

template <typename T>
__global__ void CrossEntropyKernel(T* logits, const int64_t* targets, int vocab, float logit_scale,
                                   float grad_scale, float* losses) {
  T* row = logits + static_cast<int64_t>(blockIdx.x) * vocab;
  const int target = static_cast<int>(targets[blockIdx.x]);
  const float at_target = Wide(row[target]) * logit_scale;
  ExpSum own = {-INFINITY, 0.0f};
  for (int i = threadIdx.x; i < vocab; i += kThreads) {
    own = Joined(own, {Wide(row[i]) * logit_scale, 1.0f});
  }
  const ExpSum all = ExpSumOverBlock(own);  // by now every thread has read the target's logit
  if (threadIdx.x == 0) losses[blockIdx.x] = all.most + logf(all.sum) - at_target;
  if (grad_scale == 0) return;
  for (int i = threadIdx.x; i < vocab; i += kThreads) {
    Store(CrossEntropyGradient(Wide(row[i]) * logit_scale, all, i == target,
                               grad_scale * logit_scale),
          row + i);
  }
}

unsigned BlocksFor(int64_t numbers) {
  const int64_t blocks = (numbers + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

}  // namespace

void RmsNorm(const Rows& shape, const void* x, const float* w, float offset, float eps, void* y,
             float* rstd, cudaStream_t stream) {
  if (shape.rows == 0) return;
  WithType(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    RmsNormKernel<T><<<static_cast<unsigned>(shape.rows), kThreads, 0, stream>>>(
        static_cast<const T*>(x), w, offset, eps, static_cast<int>(shape.columns), nullptr,
        static_cast<T*>(y), rstd);
  });
}

void RmsNormAgain(const Rows& shape, const void* x, const float* rstd, const float* w, float offset,
                  void* y, cudaStream_t stream) {
  if (shape.rows == 0) return;
  WithType(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    RmsNormKernel<T><<<static_cast<unsigned>(shape.rows), kThreads, 0, stream>>>(
        static_cast<const T*>(x), w, offset, 0.0f, static_cast<int>(shape.columns), rstd,
        static_cast<T*>(y), nullptr);
  });
}

void RmsNormBackward(const Rows& shape, const void* dy, const void* x, const float* rstd,
                     const float* w, float offset, void* dx, cudaStream_t stream) {
  if (shape.rows == 0) return;
  WithType(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    RmsNormBackwardKernel<T><<<static_cast<unsigned>(shape.rows), kThreads, 0, stream>>>(
        static_cast<const T*>(dy), static_cast<const T*>(x), rstd, w, offset,
        static_cast<int>(shape.columns), static_cast<T*>(dx));
  });
}

void Rope(Type type, void* x, int64_t rows, const RopeLayout& layout, const float* cos,
          const float* sin, float sign, cudaStream_t stream) {
  const int64_t pairs = rows * layout.heads * layout.half;
  if (pairs == 0) return;
  WithType(type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    RopeKernel<T><<<BlocksFor(pairs), kThreads, 0, stream>>>(static_cast<T*>(x), pairs, layout, cos,
                                                             sin, sign);
  });
}

void Gated(const Rows& shape, Gate kind, const void* gate_up, void* y, cudaStream_t stream) {
  const int64_t count = shape.rows * shape.columns;
  if (count == 0) return;
  WithType(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    GatedKernel<T><<<BlocksFor(count), kThreads, 0, stream>>>(
        kind, static_cast<const T*>(gate_up), count, shape.columns, static_cast<T*>(y));
  });
}

void GatedBackward(const Rows& shape, Gate kind, const void* gate_up, const void* dy,
                   void* d_gate_up, cudaStream_t stream) {
  const int64_t count = shape.rows * shape.columns;
  if (count == 0) return;
  WithType(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    GatedBackwardKernel<T><<<BlocksFor(count), kThreads, 0, stream>>>(
        kind, static_cast<const T*>(gate_up), static_cast<const T*>(dy), count, shape.columns,
        static_cast<T*>(d_gate_up));
  });
}

void Dropout(const Rows& shape, const void* x, const Mask& mask, void* y, cudaStream_t stream) {
  const int64_t count = shape.rows * shape.columns;
  if (count == 0) return;
  WithType(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    DropoutKernel<T><<<BlocksFor(count), kThreads, 0, stream>>>(
        static_cast<const T*>(x), count, shape.columns, mask, static_cast<T*>(y));
  });
}

void CrossEntropy(const Rows& shape, void* logits, const int64_t* targets, float logit_scale,
                  float grad_scale, float* losses, cudaStream_t stream) {
  if (shape.rows == 0) return;
  WithType(shape.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    CrossEntropyKernel<T><<<static_cast<unsigned>(shape.rows), kThreads, 0, stream>>>(
        static_cast<T*>(logits), targets, static_cast<int>(shape.columns), logit_scale, grad_scale,
        losses);
  });
}

}  // namespace graft::cuda
