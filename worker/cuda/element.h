// The arithmetic of our CUDA kernels, a number at a time: plain functions that compile for the host
// as well, where element_test.cc holds them to ATen. Everything is fp32; kernels widen and round.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define GRAFT_HOST_DEVICE __host__ __device__ inline
#else
#define GRAFT_HOST_DEVICE inline
#endif

namespace graft::cuda {

struct Pair {
  float first, second;
};

// A pair of a head's dimensions turned by an angle; `sin` negated turns it back.
GRAFT_HOST_DEVICE Pair Turn(float a, float b, float cos, float sin) {
  return {a * cos - b * sin, b * cos + a * sin};
}

GRAFT_HOST_DEVICE float RmsScale(float sum_of_squares, int columns, float eps) {
  return 1.0f / sqrtf(sum_of_squares / static_cast<float>(columns) + eps);
}

// Of the sum over a row of dy * w * x, what each x takes from its gradient.
GRAFT_HOST_DEVICE float RmsPull(float dot, float rstd, int columns) {
  return dot * rstd * rstd * rstd / static_cast<float>(columns);
}

GRAFT_HOST_DEVICE float RmsGradient(float dy, float x, float w, float rstd, float pull) {
  return dy * w * rstd - x * pull;
}

enum class Gate { kSilu, kGeluTanh };

constexpr float kGeluRoot = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCube = 0.044715f;

GRAFT_HOST_DEVICE float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// act(gate) * up.
GRAFT_HOST_DEVICE float Gated(Gate kind, float gate, float up) {
  if (kind == Gate::kSilu) return gate * Sigmoid(gate) * up;
  const float t = tanhf(kGeluRoot * (gate + kGeluCube * gate * gate * gate));
  return 0.5f * gate * (1.0f + t) * up;
}

// The gradients of gate and up.
GRAFT_HOST_DEVICE Pair GatedGradient(Gate kind, float gate, float up, float dy) {
  if (kind == Gate::kSilu) {
    const float s = Sigmoid(gate);
    return {dy * up * s * (1.0f + gate * (1.0f - s)), dy * gate * s};
  }
  const float square = gate * gate;
  const float t = tanhf(kGeluRoot * (gate + kGeluCube * square * gate));
  const float slope = kGeluRoot * (1.0f + 3.0f * kGeluCube * square) * (1.0f - t * t);
  return {dy * up * 0.5f * (1.0f + t + gate * slope), dy * 0.5f * gate * (1.0f + t)};
}

// Whether dropout leaves the number at `index`: a hash of it, keyed by both halves of the seed,
// falls below `keep`. The same as the CPU's kernel has, so that a mask does not depend on the
// device.
GRAFT_HOST_DEVICE bool Keeps(uint32_t index, uint32_t low, uint32_t high, float keep) {
  uint32_t h = index * 0x9E3779B9u + low;
  h = (h ^ (h >> 16)) * 0x85EBCA6Bu;
  h = ((h ^ (h >> 13)) + high) * 0xC2B2AE35u;
  h = (h ^ (h >> 16)) * 0x7FEB352Du;
  h ^= h >> 15;
  return static_cast<float>(h >> 8) * 0x1.0p-24f < keep;
}

// A sum of exponentials kept beside its largest term, so that parts of a row can be joined.
struct ExpSum {
  float most;
  float sum;
};

GRAFT_HOST_DEVICE ExpSum Joined(ExpSum a, ExpSum b) {
  const float most = a.most > b.most ? a.most : b.most;
  // Nothing joined to nothing stays nothing.
  if (most == -INFINITY) return {most, 0.0f};
  return {most, a.sum * expf(a.most - most) + b.sum * expf(b.most - most)};
}

// (softmax - onehot) * scale of one logit.
GRAFT_HOST_DEVICE float CrossEntropyGradient(float logit, ExpSum row, bool target, float scale) {
  const float p = expf(logit - row.most) / row.sum;
  return (p - (target ? 1.0f : 0.0f)) * scale;
}

}  // namespace graft::cuda
