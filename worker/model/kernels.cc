#include "worker/model/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// The loader picks the version for the processor at hand; the loops are written so that the
// compiler vectorises them: fixed lanes for sums, branch-free bodies.
#ifdef GRAFT_NO_CLONES
#define GRAFT_SIMD
#else
#define GRAFT_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
#define GRAFT_INLINE __attribute__((always_inline)) inline

namespace graft::model::kernels {
namespace {

constexpr int kLanes = 32;
constexpr int64_t kSumBlock = 1024;
constexpr float kGeluRoot = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCube = 0.044715f;

// exp(x) within 2 ulp for x in [-87, 88]; saturates outside.
GRAFT_INLINE float Exp(float x) {
  const float clamped = std::min(std::max(x, -87.3f), 88.7f);
  const float shifted = clamped * 1.44269504088896341f + 12582912.0f;  // rounds to an integer
  const float n = shifted - 12582912.0f;
  float r = clamped - n * 0.693145751953125f;
  r = r - n * 1.428606765330187e-6f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits - 0x4B400000 + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

GRAFT_INLINE float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }
GRAFT_INLINE float Tanh(float x) { return 1.0f - 2.0f / (Exp(2.0f * x) + 1.0f); }

template <typename F>
GRAFT_INLINE float BlockSum(int64_t begin, int64_t end, const F& term) {
  float lanes[kLanes] = {};
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
  }
  for (int j = 0; i < end; ++i, ++j) lanes[j] += term(i);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  }
  return lanes[0];
}

// In blocks: beside one large number a lane would round away what many small ones add up to, as
// those of a vocabulary do.
template <typename F>
GRAFT_INLINE float SumOver(int64_t count, const F& term) {
  if (count <= kSumBlock) return BlockSum(0, count, term);
  double sum = 0;
  for (int64_t i = 0; i < count; i += kSumBlock) {
    sum += static_cast<double>(BlockSum(i, std::min(i + kSumBlock, count), term));
  }
  return static_cast<float>(sum);
}

GRAFT_INLINE float MaxOf(const float* x, int64_t count) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, x[0]);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] = lanes[j] > x[i + j] ? lanes[j] : x[i + j];
  }
  for (int j = 0; i < count; ++i, ++j) lanes[j] = std::max(lanes[j], x[i]);
  return *std::max_element(lanes, lanes + kLanes);
}

GRAFT_INLINE void RopePair(float& a, float& b, float c, float s) {
  const float rotated = a * c - b * s;
  b = b * c + a * s;
  a = rotated;
}

}  // namespace

GRAFT_SIMD void RmsNorm(const float* x, const float* w, float offset, float eps, int64_t rows,
                        int64_t columns, float* y, float* rstd) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* xr = x + r * columns;
    float* yr = y + r * columns;
    const float square = SumOver(columns, [&](int64_t i) { return xr[i] * xr[i]; });
    const float scale = 1.0f / std::sqrt(square / static_cast<float>(columns) + eps);
    for (int64_t i = 0; i < columns; ++i) yr[i] = xr[i] * scale * (w[i] + offset);
    if (rstd != nullptr) rstd[r] = scale;
  }
}

GRAFT_SIMD void RmsNormAgain(const float* x, const float* rstd, const float* w, float offset,
                             int64_t rows, int64_t columns, float* y) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* xr = x + r * columns;
    float* yr = y + r * columns;
    const float scale = rstd[r];
    for (int64_t i = 0; i < columns; ++i) yr[i] = xr[i] * scale * (w[i] + offset);
  }
}

GRAFT_SIMD void RmsNormBackward(const float* dy, const float* x, const float* rstd, const float* w,
                                float offset, int64_t rows, int64_t columns, float* dx) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* dyr = dy + r * columns;
    const float* xr = x + r * columns;
    float* dxr = dx + r * columns;
    const float dot = SumOver(columns, [&](int64_t i) { return dyr[i] * (w[i] + offset) * xr[i]; });
    const float scale = rstd[r];
    const float pull = dot * scale * scale * scale / static_cast<float>(columns);
    for (int64_t i = 0; i < columns; ++i) {
      dxr[i] = dyr[i] * (w[i] + offset) * scale - xr[i] * pull;
    }
  }
}

GRAFT_SIMD void Rope(float* x, const RopeLayout& layout, const float* cos, const float* sin,
                     float sign, int64_t rows) {
  const int64_t half = layout.half;
  for (int64_t r = 0; r < rows; ++r) {
    const float* c = cos + r * half;
    const float* s = sin + r * half;
    for (int64_t h = 0; h < layout.heads; ++h) {
      float* head = x + r * layout.row_stride + h * layout.head_dim;
      if (layout.interleaved) {
        for (int64_t i = 0; i < half; ++i) {
          RopePair(head[2 * i], head[2 * i + 1], c[i], sign * s[i]);
        }
      } else {
        for (int64_t i = 0; i < half; ++i) RopePair(head[i], head[i + half], c[i], sign * s[i]);
      }
    }
  }
}

GRAFT_SIMD void Gated(Gate kind, const float* gate_up, int64_t rows, int64_t columns, float* y) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* g = gate_up + r * 2 * columns;
    const float* u = g + columns;
    float* yr = y + r * columns;
    if (kind == Gate::kSilu) {
      for (int64_t i = 0; i < columns; ++i) yr[i] = g[i] * Sigmoid(g[i]) * u[i];
    } else {
      for (int64_t i = 0; i < columns; ++i) {
        const float t = Tanh(kGeluRoot * (g[i] + kGeluCube * g[i] * g[i] * g[i]));
        yr[i] = 0.5f * g[i] * (1.0f + t) * u[i];
      }
    }
  }
}

GRAFT_SIMD void GatedBackward(Gate kind, const float* gate_up, const float* dy, int64_t rows,
                              int64_t columns, float* d_gate_up) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* g = gate_up + r * 2 * columns;
    const float* u = g + columns;
    const float* d = dy + r * columns;
    float* dg = d_gate_up + r * 2 * columns;
    float* du = dg + columns;
    if (kind == Gate::kSilu) {
      for (int64_t i = 0; i < columns; ++i) {
        const float s = Sigmoid(g[i]);
        du[i] = d[i] * g[i] * s;
        dg[i] = d[i] * u[i] * s * (1.0f + g[i] * (1.0f - s));
      }
    } else {
      for (int64_t i = 0; i < columns; ++i) {
        const float square = g[i] * g[i];
        const float t = Tanh(kGeluRoot * (g[i] + kGeluCube * square * g[i]));
        const float slope = kGeluRoot * (1.0f + 3.0f * kGeluCube * square) * (1.0f - t * t);
        du[i] = d[i] * 0.5f * g[i] * (1.0f + t);
        dg[i] = d[i] * u[i] * 0.5f * (1.0f + t + g[i] * slope);
      }
    }
  }
}

GRAFT_SIMD float AttentionRow(float* scores, int64_t count, float softcap, const float* sink) {
  if (softcap > 0) {
    for (int64_t i = 0; i < count; ++i) scores[i] = softcap * Tanh(scores[i] / softcap);
  }
  float most = MaxOf(scores, count);
  if (sink != nullptr) most = std::max(most, *sink);
  for (int64_t i = 0; i < count; ++i) scores[i] = Exp(scores[i] - most);
  float sum = SumOver(count, [&](int64_t i) { return scores[i]; });
  if (sink != nullptr) sum += std::exp(*sink - most);
  const float scale = 1.0f / sum;
  for (int64_t i = 0; i < count; ++i) scores[i] *= scale;
  return most + std::log(sum);
}

GRAFT_SIMD void AttentionRowBackward(float* scores, float* d, int64_t count, float softcap,
                                     float lse, float pull) {
  if (softcap > 0) {
    for (int64_t i = 0; i < count; ++i) {
      const float t = Tanh(scores[i] / softcap);
      const float p = Exp(softcap * t - lse);
      scores[i] = p;
      d[i] = p * (d[i] - pull) * (1.0f - t * t);
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float p = Exp(scores[i] - lse);
    scores[i] = p;
    d[i] = p * (d[i] - pull);
  }
}

GRAFT_SIMD float Dot(const float* a, const float* b, int64_t count) {
  return SumOver(count, [&](int64_t i) { return a[i] * b[i]; });
}

namespace {

GRAFT_INLINE ExponentialSum Exponentials(const float* logits, int64_t vocab, float logit_scale) {
  const float most = MaxOf(logits, vocab) * logit_scale;
  return {most, SumOver(vocab, [&](int64_t i) { return Exp(logits[i] * logit_scale - most); })};
}

GRAFT_INLINE void SoftmaxGradient(float* logits, int64_t vocab, ExponentialSum all,
                                  float logit_scale, float grad_scale) {
  const float scale = grad_scale * logit_scale / all.sum;
  for (int64_t i = 0; i < vocab; ++i) {
    logits[i] = Exp(logits[i] * logit_scale - all.largest) * scale;
  }
}

}  // namespace

GRAFT_SIMD ExponentialSum SumExponentials(const float* logits, int64_t vocab, float logit_scale) {
  return Exponentials(logits, vocab, logit_scale);
}

GRAFT_SIMD void SoftmaxGradientRow(float* logits, int64_t vocab, ExponentialSum all,
                                   float logit_scale, float grad_scale) {
  SoftmaxGradient(logits, vocab, all, logit_scale, grad_scale);
}

GRAFT_SIMD double CrossEntropyRow(float* logits, int64_t vocab, int64_t target, float logit_scale,
                                  float grad_scale) {
  const float target_logit = logits[target] * logit_scale;
  const ExponentialSum all = Exponentials(logits, vocab, logit_scale);
  if (grad_scale != 0) {
    SoftmaxGradient(logits, vocab, all, logit_scale, grad_scale);
    logits[target] -= grad_scale * logit_scale;
  }
  return static_cast<double>(all.largest) + std::log(static_cast<double>(all.sum)) -
         static_cast<double>(target_logit);
}

GRAFT_SIMD void GemvBf16(const uint16_t* w, const float* x, int64_t begin, int64_t end,
                         int64_t columns, float* y) {
  for (int64_t o = begin; o < end; ++o) {
    const uint16_t* row = w + o * columns;
    y[o] = SumOver(columns, [&](int64_t i) {
      const uint32_t bits = static_cast<uint32_t>(row[i]) << 16;
      float value;
      std::memcpy(&value, &bits, sizeof(value));
      return value * x[i];
    });
  }
}

GRAFT_SIMD void AdamW(const AdamWStep& s, const float* grad, int64_t count, float* value, float* m,
                      float* v) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = grad[i] * s.grad_scale;
    m[i] = m[i] + (1.0f - s.beta1) * (g - m[i]);
    v[i] = s.beta2 * v[i] + (1.0f - s.beta2) * g * g;
    const float denominator = std::sqrt(v[i]) / s.root_bias2 + s.epsilon;
    value[i] = value[i] * s.decay - s.step_size * m[i] / denominator;
  }
}

GRAFT_SIMD void Dropout(const float* x, uint64_t seed, int64_t first, float keep, int64_t count,
                        float* y) {
  const uint32_t low = static_cast<uint32_t>(seed);
  const uint32_t high = static_cast<uint32_t>(seed >> 32);
  const float scale = 1.0f / keep;
  for (int64_t i = 0; i < count; ++i) {
    // Two rounds of a 32-bit finaliser over the index, keyed by both halves of the seed.
    uint32_t h = static_cast<uint32_t>(first + i) * 0x9E3779B9u + low;
    h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
    h = ((h ^ (h >> 13)) + high) * 0xC2B2AE35u;
    h = (h ^ (h >> 16)) * 0x7FEB352Du;
    h ^= h >> 15;
    const float uniform = static_cast<float>(static_cast<int32_t>(h >> 8)) * 0x1.0p-24f;
    y[i] = uniform < keep ? x[i] * scale : 0.0f;
  }
}

GRAFT_SIMD double SumOfSquares(const float* x, int64_t count) {
  constexpr int64_t kBlock = 1 << 14;
  double sum = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const float* block = x + begin;
    sum += SumOver(std::min(kBlock, count - begin), [&](int64_t i) { return block[i] * block[i]; });
  }
  return sum;
}

}  // namespace graft::model::kernels
