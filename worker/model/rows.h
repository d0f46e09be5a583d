// Splits rows among torch's threads for the kernels of kernels.h. Only for files that are compiled
// with -fopenmp (this folder's): without it at::parallel_for runs on one thread.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

namespace graft::model {

// Whether the kernels can take it: fp32 in CPU memory, rows without gaps. Else ATen does the work.
inline bool OnKernels(const at::Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous();
}

// Calls fn(begin, end) over [0, rows), a thread taking at least kGrainElements numbers.
template <typename F>
void ForRows(int64_t rows, int64_t columns, const F& fn) {
  constexpr int64_t kGrainElements = 1 << 14;
  const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(columns, 1));
  at::parallel_for(0, rows, grain, fn);
}

}  // namespace graft::model
