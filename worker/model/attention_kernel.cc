#include "worker/model/attention_kernel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "worker/model/kernels.h"

// The BLAS inside libtorch_cpu; single-threaded inside a parallel region.
extern "C" void sgemm_(const char* transa, const char* transb, const int* m, const int* n,
                       const int* k, const float* alpha, const float* a, const int* lda,
                       const float* b, const int* ldb, const float* beta, float* c, const int* ldc);

namespace graft::model {
namespace {

// Scores of a block stay in the second-level cache up to some two thousand keys.
constexpr int64_t kBlockQueries = 128;

struct Matrix {
  const float* data;
  int64_t stride;
  bool transposed = false;
};

// c[m, n] = alpha * op(a) op(b) + beta * c, row-major.
void Gemm(int64_t m, int64_t n, int64_t k, float alpha, const Matrix& a, const Matrix& b,
          float beta, float* c, int64_t c_stride) {
  const int im = static_cast<int>(m), in = static_cast<int>(n), ik = static_cast<int>(k);
  const int lda = static_cast<int>(a.stride), ldb = static_cast<int>(b.stride);
  const int ldc = static_cast<int>(c_stride);
  sgemm_(b.transposed ? "T" : "N", a.transposed ? "T" : "N", &in, &im, &ik, &alpha, b.data, &ldb,
         a.data, &lda, &beta, c, &ldc);
}

// Calls task(i) for i in [0, count), the dearest first, on all threads.
template <typename F>
void ForTasks(const std::vector<int64_t>& costs, const F& task) {
  std::vector<size_t> order(costs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return costs[a] > costs[b]; });
  std::atomic<size_t> next{0};
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), costs.size());
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (size_t i = next++; i < order.size(); i = next++) task(order[i]);
  });
}

std::vector<int64_t> Costs(const std::vector<AttentionSegment>& segments, int64_t heads) {
  std::vector<int64_t> costs;
  for (const AttentionSegment& s : segments) costs.insert(costs.end(), heads, s.queries * s.keys);
  return costs;
}

// A block of queries of a segment and the keys that any of them sees.
struct Block {
  int64_t queries;
  int64_t first_query;  // in the segment
  int64_t first_key;
  int64_t keys;
  int64_t place;  // of the first query, counted from first_key

  Block(const AttentionShape& shape, const AttentionSegment& segment, int64_t begin) {
    queries = std::min(kBlockQueries, segment.queries - begin);
    first_query = begin;
    const int64_t whole_place = segment.place + begin;
    first_key =
        shape.window > 0 ? std::clamp<int64_t>(whole_place - shape.window + 1, 0, segment.keys) : 0;
    keys = std::max<int64_t>(0, std::min(segment.keys, whole_place + queries) - first_key);
    place = whole_place - first_key;
  }
};

// The columns of a block that its row `row` sees: [begin, end).
struct SeenKeys {
  int64_t begin, end;
  SeenKeys(const AttentionShape& shape, const Block& block, int64_t row) {
    const int64_t behind = block.place + row + 1;
    end = std::clamp<int64_t>(behind, 0, block.keys);
    begin = shape.window > 0 ? std::clamp<int64_t>(behind - shape.window, 0, end) : 0;
  }
};

void ClearUnseen(const SeenKeys& seen, int64_t keys, float* row) {
  std::fill(row, row + seen.begin, 0.0f);
  std::fill(row + seen.end, row + keys, 0.0f);
}

int64_t MostKeys(const std::vector<AttentionSegment>& segments) {
  int64_t most = 0;
  for (const AttentionSegment& s : segments) most = std::max(most, s.keys);
  return most;
}

constexpr float kNothingSeen = -std::numeric_limits<float>::infinity();

void FillRows(float* rows, int64_t stride, int64_t count, int64_t width) {
  for (int64_t i = 0; i < count; ++i) std::fill_n(rows + i * stride, width, 0.0f);
}

// Where the rows of one head of one segment begin.
template <typename Float>
Float* HeadOf(const HeadRows<Float>& rows, int64_t token, int64_t head, int64_t width) {
  return rows.data + token * rows.stride + head * width;
}

}  // namespace

void AttentionForward(const AttentionShape& shape, const std::vector<AttentionSegment>& segments,
                      const AttentionInputs& in, HeadRows<float> o, float* lse,
                      int64_t lse_stride) {
  const int64_t group = shape.heads / shape.kv_heads;
  const int64_t most_keys = MostKeys(segments);
  ForTasks(Costs(segments, shape.heads), [&](size_t task) {
    const AttentionSegment& s = segments[task / static_cast<size_t>(shape.heads)];
    const int64_t head = static_cast<int64_t>(task) % shape.heads;
    const float* k = HeadOf(in.k, s.key_begin, head / group, shape.head_dim);
    const float* v = HeadOf(in.v, s.key_begin, head / group, shape.value_dim);
    std::vector<float> scores(static_cast<size_t>(std::min(kBlockQueries, s.queries) * most_keys));
    for (int64_t begin = 0; begin < s.queries; begin += kBlockQueries) {
      const Block b(shape, s, begin);
      const int64_t first = s.query_begin + begin;
      if (b.keys == 0) {
        std::fill_n(lse + head * lse_stride + first, b.queries, kNothingSeen);
        FillRows(HeadOf(o, first, head, shape.value_dim), o.stride, b.queries, shape.value_dim);
        continue;
      }
      Gemm(b.queries, b.keys, shape.head_dim, shape.scale,
           {HeadOf(in.q, first, head, shape.head_dim), in.q.stride},
           {k + b.first_key * in.k.stride, in.k.stride, true}, 0, scores.data(), b.keys);
      for (int64_t row = 0; row < b.queries; ++row) {
        const SeenKeys seen(shape, b, row);
        float* p = scores.data() + row * b.keys;
        const float* sink = shape.sinks == nullptr ? nullptr : shape.sinks + head;
        lse[head * lse_stride + first + row] =
            seen.begin == seen.end
                ? kNothingSeen
                : kernels::AttentionRow(p + seen.begin, seen.end - seen.begin, shape.softcap, sink);
        ClearUnseen(seen, b.keys, p);
      }
      Gemm(b.queries, shape.value_dim, b.keys, 1, {scores.data(), b.keys},
           {v + b.first_key * in.v.stride, in.v.stride}, 0, HeadOf(o, first, head, shape.value_dim),
           o.stride);
    }
  });
}

namespace {

// One head of k and v of one segment, with all the heads of q that share it.
struct BackwardTask {
  const AttentionShape& shape;
  const AttentionSegment& s;
  const AttentionInputs& in;
  HeadRows<const float> o, d_o;
  const float* lse;
  int64_t lse_stride;
  const AttentionGradients& out;
  std::vector<float> p = {}, d = {};

  void Run(int64_t kv_head, double* d_sinks) {
    const int64_t group = shape.heads / shape.kv_heads;
    float* dk = HeadOf(out.k, s.key_begin, kv_head, shape.head_dim);
    float* dv = HeadOf(out.v, s.key_begin, kv_head, shape.value_dim);
    FillRows(dk, out.k.stride, s.keys, shape.head_dim);
    FillRows(dv, out.v.stride, s.keys, shape.value_dim);
    const size_t scratch = static_cast<size_t>(std::min(kBlockQueries, s.queries) * s.keys);
    p.resize(scratch);
    d.resize(scratch);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int64_t begin = 0; begin < s.queries; begin += kBlockQueries) {
        OneBlock(Block(shape, s, begin), head, kv_head, dk, dv, d_sinks);
      }
    }
  }

  void OneBlock(const Block& b, int64_t head, int64_t kv_head, float* dk, float* dv,
                double* d_sinks) {
    const int64_t first = s.query_begin + b.first_query;
    if (b.keys == 0) {
      FillRows(HeadOf(out.q, first, head, shape.head_dim), out.q.stride, b.queries, shape.head_dim);
      return;
    }
    const Matrix q = {HeadOf(in.q, first, head, shape.head_dim), in.q.stride};
    const Matrix k = {HeadOf(in.k, s.key_begin + b.first_key, kv_head, shape.head_dim),
                      in.k.stride};
    const Matrix v = {HeadOf(in.v, s.key_begin + b.first_key, kv_head, shape.value_dim),
                      in.v.stride};
    const Matrix dy = {HeadOf(d_o, first, head, shape.value_dim), d_o.stride};
    const float* y = HeadOf(o, first, head, shape.value_dim);
    Gemm(b.queries, b.keys, shape.head_dim, shape.scale, q, {k.data, k.stride, true}, 0, p.data(),
         b.keys);
    Gemm(b.queries, b.keys, shape.value_dim, 1, dy, {v.data, v.stride, true}, 0, d.data(), b.keys);
    for (int64_t row = 0; row < b.queries; ++row) {
      const SeenKeys seen(shape, b, row);
      const float sum = lse[head * lse_stride + first + row];
      const float pull =
          kernels::Dot(y + row * o.stride, dy.data + row * d_o.stride, shape.value_dim);
      float* p_row = p.data() + row * b.keys;
      float* d_row = d.data() + row * b.keys;
      kernels::AttentionRowBackward(p_row + seen.begin, d_row + seen.begin, seen.end - seen.begin,
                                    shape.softcap, sum, pull);
      ClearUnseen(seen, b.keys, p_row);
      ClearUnseen(seen, b.keys, d_row);
      if (d_sinks != nullptr) {
        d_sinks[head] -= std::exp(static_cast<double>(shape.sinks[head]) - sum) * pull;
      }
    }
    const Matrix p_t = {p.data(), b.keys, true}, d_t = {d.data(), b.keys, true};
    Gemm(b.queries, shape.head_dim, b.keys, shape.scale, {d.data(), b.keys}, k, 0,
         HeadOf(out.q, first, head, shape.head_dim), out.q.stride);
    Gemm(b.keys, shape.head_dim, b.queries, shape.scale, d_t, q, 1, dk + b.first_key * out.k.stride,
         out.k.stride);
    Gemm(b.keys, shape.value_dim, b.queries, 1, p_t, dy, 1, dv + b.first_key * out.v.stride,
         out.v.stride);
  }
};

}  // namespace

void AttentionBackward(const AttentionShape& shape, const std::vector<AttentionSegment>& segments,
                       const AttentionInputs& in, HeadRows<const float> o,
                       HeadRows<const float> d_o, const float* lse, int64_t lse_stride,
                       const AttentionGradients& out) {
  const auto kv_heads = static_cast<size_t>(shape.kv_heads);
  // Sinks are shared by the segments: each task has its own sum, added in order.
  const bool sinks = out.sinks != nullptr;
  const auto heads = static_cast<size_t>(shape.heads);
  std::vector<double> d_sinks(sinks ? segments.size() * kv_heads * heads : 0);
  ForTasks(Costs(segments, shape.kv_heads), [&](size_t task) {
    BackwardTask work{shape, segments[task / kv_heads], in, o, d_o, lse, lse_stride, out};
    work.Run(static_cast<int64_t>(task % kv_heads),
             sinks ? d_sinks.data() + task * heads : nullptr);
  });
  for (size_t i = 0; i < d_sinks.size(); ++i) out.sinks[i % heads] += d_sinks[i];
}

}  // namespace graft::model
