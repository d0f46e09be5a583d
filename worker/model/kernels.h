// Elementwise and row-wise arithmetic on plain float rows, for CPUs: one pass where ATen needs
// several, and vector code for the processor at hand. Free of torch and of threads; callers split
// the rows. Everything is fp32, row-major and contiguous unless a stride is named.
//
// Legend: T tokens (rows), H columns of a row, F columns of an MLP's inside, V vocabulary.
#pragma once

#include <cstdint>

namespace graft::model::kernels {

// y = x * rstd * (w + offset), rstd = 1 / sqrt(mean(x^2) + eps). `rstd` [rows] is written unless
// nullptr.
void RmsNorm(const float* x, const float* w, float offset, float eps, int64_t rows, int64_t columns,
             float* y, float* rstd);
// y = x * rstd * (w + offset) with known rstd.
void RmsNormAgain(const float* x, const float* rstd, const float* w, float offset, int64_t rows,
                  int64_t columns, float* y);
// dx from dy; may run in place (dx == dy).
void RmsNormBackward(const float* dy, const float* x, const float* rstd, const float* w,
                     float offset, int64_t rows, int64_t columns, float* dx);

// Rotates `heads` heads of `head_dim` in each row, in place; the first 2 * half dimensions of each.
// Row r uses cos and sin at [r * half]. `sign` is 1, or -1 to undo it (the backward).
struct RopeLayout {
  int64_t row_stride;
  int64_t heads;
  int64_t head_dim;
  int64_t half;
  bool interleaved;
};
void Rope(float* x, const RopeLayout& layout, const float* cos, const float* sin, float sign,
          int64_t rows);

enum class Gate { kSilu, kGeluTanh };
// y[r, f] = act(gate[r, f]) * up[r, f]; gate and up stand side by side in rows of 2 * columns.
void Gated(Gate kind, const float* gate_up, int64_t rows, int64_t columns, float* y);
void GatedBackward(Gate kind, const float* gate_up, const float* dy, int64_t rows, int64_t columns,
                   float* d_gate_up);

// Scores of one query become probabilities; returns the logarithm of their sum. `softcap` 0: none.
// `sink` joins the sum, where there is one.
float AttentionRow(float* scores, int64_t count, float softcap, const float* sink);
// scores -> probabilities, d (of the probabilities) -> gradients of the scores. `lse` is what
// AttentionRow returned, `pull` the sum of output times its gradient.
void AttentionRowBackward(float* scores, float* d, int64_t count, float softcap, float lse,
                          float pull);
float Dot(const float* a, const float* b, int64_t count);

// Cross entropy of one row of logits, times `logit_scale` (> 0), against `target`. Returns
// logsumexp - logit[target]; with `grad_scale` != 0 the row becomes
// (softmax - onehot(target)) * grad_scale * logit_scale.
double CrossEntropyRow(float* logits, int64_t vocab, int64_t target, float logit_scale,
                       float grad_scale);

// Its halves, for a row whose logits are cut over ranks: the largest of logit_scale * logits with
// the sum of exp(logit_scale * logits - largest); and the row as softmax * grad_scale * logit_scale
// by those of all parts, before the target's own term.
struct ExponentialSum {
  float largest = 0;
  float sum = 0;
};
ExponentialSum SumExponentials(const float* logits, int64_t vocab, float logit_scale);
void SoftmaxGradientRow(float* logits, int64_t vocab, ExponentialSum all, float logit_scale,
                        float grad_scale);

// y[o] = dot(w[o, :], x) for rows [begin, end) of a bfloat16 matrix.
void GemvBf16(const uint16_t* w, const float* x, int64_t begin, int64_t end, int64_t columns,
              float* y);

// One AdamW update of `count` numbers. `step_size` = lr / bias1, `root_bias2` = sqrt(bias2),
// `decay` = 1 - lr * weight_decay; gradients are multiplied by `grad_scale` first.
struct AdamWStep {
  float beta1, beta2, epsilon, decay, step_size, root_bias2, grad_scale;
};
void AdamW(const AdamWStep& s, const float* grad, int64_t count, float* value, float* m, float* v);

// y[i] = x[i] / keep where a hash of (seed, first + i) falls below `keep`, else 0: dropout whose
// mask is not stored but made again. y = x is allowed.
void Dropout(const float* x, uint64_t seed, int64_t first, float keep, int64_t count, float* y);

// Sum of squares, in fp64 across blocks of fixed size.
double SumOfSquares(const float* x, int64_t count);

}  // namespace graft::model::kernels
