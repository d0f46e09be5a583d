#include "worker/model/cross_entropy.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "worker/model/accelerator.h"
#include "worker/model/kernels.h"
#include "worker/model/rows.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Logits held at a time. Every chunk reads and packs the whole weight again, so few rows cost speed
// (measured with 49,152 x 576: 128 rows 133 GFLOP/s, 512 rows 180), many cost memory.
constexpr int64_t kChunkBytes = 100 << 20;
constexpr int64_t kMinChunkRows = 64;

at::Tensor Wide(const Head& head, at::ScalarType type) {
  return head.weight.scalar_type() == type ? head.weight : head.weight.to(type);
}

// Losses of a chunk of logits, which become their gradient times 1 / denominator.
double ChunkLossOnKernels(const Head& head, at::Tensor& logits, const int64_t* targets,
                          float grad_scale) {
  const int64_t vocab = logits.size(1);
  std::vector<double> losses(logits.size(0));
  at::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      losses[r] =
          kernels::CrossEntropyRow(logits.mutable_data_ptr<float>() + r * vocab, vocab, targets[r],
                                   static_cast<float>(head.logit_scale), grad_scale);
    }
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

double ChunkLossOnAten(const Head& head, at::Tensor& logits, const at::Tensor& targets,
                       double grad_scale, double smoothing) {
  at::Tensor z = logits.to(at::kFloat) * head.logit_scale;
  at::Tensor tanh;
  if (head.logit_softcap > 0) {
    tanh = at::tanh(z / head.logit_softcap);
    z = tanh * head.logit_softcap;
  }
  const at::Tensor log_p = at::log_softmax(z, -1);
  const at::Tensor index = targets.unsqueeze(1);
  double loss = -(1 - smoothing) * log_p.gather(1, index).sum().to(at::kDouble).item<double>();
  if (smoothing > 0) loss -= smoothing * log_p.mean(1).sum().to(at::kDouble).item<double>();
  if (grad_scale != 0) {
    at::Tensor d = log_p.exp();
    d.scatter_add_(1, index, at::full_like(index, smoothing - 1, d.options()));
    if (smoothing > 0) d.sub_(smoothing / static_cast<double>(d.size(1)));
    if (tanh.defined()) d = d * (1 - tanh.square());
    logits.copy_(d * (grad_scale * head.logit_scale));
  }
  return loss;
}

// The same where each rank has the logits of its part of the vocabulary: the largest logit, the sum
// of exponentials and the target's logit go over all ranks. Every rank gets the whole loss.
double ChunkLossDivided(const Head& head, at::Tensor& logits, const at::Tensor& targets,
                        double grad_scale, double smoothing) {
  at::Tensor z = logits.to(at::kFloat);
  if (head.logit_scale != 1) z.mul_(head.logit_scale);
  at::Tensor tanh;
  if (head.logit_softcap > 0) {
    tanh = at::tanh(z / head.logit_softcap);
    z = tanh * head.logit_softcap;
  }
  at::Tensor largest = z.amax(1);
  head.exchange->Max(largest, "largest logits");
  z.sub_(largest.unsqueeze(1));
  const at::Tensor local = targets - head.vocab_begin;
  const at::Tensor here = local.ge(0).logical_and(local.lt(z.size(1)));
  const at::Tensor index = local.clamp(0, z.size(1) - 1).unsqueeze(1);
  const at::Tensor mask = here.to(at::kFloat);
  const at::Tensor own = z.gather(1, index).squeeze(1) * mask;
  const at::Tensor all = z.sum(1), columns = at::full_like(own, z.size(1));
  z.exp_();
  at::Tensor sums = at::stack({z.sum(1), own, all, columns});
  head.exchange->Sum(sums, "sums of exponentials");
  const at::Tensor wanted = (1 - smoothing) * sums[1] + smoothing * sums[2] / sums[3];
  const double loss = (sums[0].log() - wanted).to(at::kDouble).sum().item<double>();
  if (grad_scale != 0) {
    z.div_(sums[0].unsqueeze(1));
    z.scatter_add_(1, index, mask.unsqueeze(1) * (smoothing - 1));
    if (smoothing > 0) z.sub_(smoothing / sums[3].unsqueeze(1));
    if (tanh.defined()) z.mul_(1 - tanh.square());
    logits.copy_(z.mul_(grad_scale * head.logit_scale));
  }
  return loss;
}

// The same without a softcap: one exchange of a row's largest logit, sum of exponentials above it
// and target's logit, and no pass over the logits more than on one rank.
double ChunkLossDividedOnKernels(const Head& head, at::Tensor& logits, const int64_t* targets,
                                 float grad_scale) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  const auto scale = static_cast<float>(head.logit_scale);
  float* data = logits.mutable_data_ptr<float>();
  const auto column = [&](int64_t row) {  // of the target; negative where another rank has it
    const int64_t local = targets[row] - head.vocab_begin;
    return local < vocab ? local : -1;
  };
  at::Tensor own = at::empty({1, 3, rows}, logits.options());
  auto mine = own.accessor<float, 3>();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto sum = kernels::SumExponentials(data + r * vocab, vocab, scale);
      mine[0][0][r] = sum.largest;
      mine[0][1][r] = sum.sum;
      mine[0][2][r] = column(r) < 0 ? 0.0f : data[r * vocab + column(r)] * scale;
    }
  });
  const at::Tensor gathered = head.exchange->GatherRows(own, "sums of exponentials");
  const auto all = gathered.accessor<float, 3>();
  std::vector<double> losses(static_cast<size_t>(rows));
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      kernels::ExponentialSum sum = {all[0][0][r], 0};
      for (int64_t m = 0; m < gathered.size(0); ++m)
        sum.largest = std::max(sum.largest, all[m][0][r]);
      float target = 0;
      for (int64_t m = 0; m < gathered.size(0); ++m) {
        sum.sum += all[m][1][r] * std::exp(all[m][0][r] - sum.largest);
        target += all[m][2][r];
      }
      losses[static_cast<size_t>(r)] = static_cast<double>(sum.largest) +
                                       std::log(static_cast<double>(sum.sum)) -
                                       static_cast<double>(target);
      if (grad_scale == 0) continue;
      kernels::SoftmaxGradientRow(data + r * vocab, vocab, sum, scale, grad_scale);
      if (column(r) >= 0) data[r * vocab + column(r)] -= grad_scale * scale;
    }
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

at::Tensor TargetsOf(const LossTargets& t, int64_t begin, int64_t count, at::Device device) {
  return at::tensor(at::ArrayRef<int64_t>(t.targets.data() + begin, count), at::kLong).to(device);
}

// logits += scale x A^T B^T; `inner` becomes x A^T.
void AddHeadAdapter(const Adapter& adapter, const at::Tensor& x, at::Tensor& logits,
                    at::Tensor* inner) {
  *inner = at::mm(x, adapter.a->value.t().to(x.scalar_type()));
  logits.addmm_(*inner, adapter.b->value.t().to(x.scalar_type()), 1, adapter.scale);
}

void HeadAdapterBackward(const Adapter& adapter, const at::Tensor& d_logits, const at::Tensor& x,
                         const at::Tensor& inner, at::Tensor& dx) {
  const at::Tensor d = d_logits.to(at::kFloat);
  adapter.b->grad.addmm_(d.t(), inner.to(at::kFloat), 1, adapter.scale);
  const at::Tensor d_inner = at::mm(d, adapter.b->value) * adapter.scale;
  adapter.a->grad.addmm_(d_inner.t(), x.to(at::kFloat));
  dx.add_(at::mm(d_inner, adapter.a->value).to(dx.scalar_type()));
}

struct ChunkedLoss {
  double loss = 0;
  at::Tensor d_xn;  // [N, H]; undefined without gradients
};

ChunkedLoss LossOfRows(const Head& head, const at::Tensor& xn, const LossTargets& t, bool grads) {
  ChunkedLoss result;
  const at::Tensor weight = Wide(head, xn.scalar_type());
  const int64_t vocab = weight.size(0);
  const int64_t rows = xn.size(0);
  const int64_t chunk =
      std::max(kMinChunkRows, kChunkBytes / (vocab * static_cast<int64_t>(xn.element_size())));
  const double grad_scale = grads ? t.gradient_scale / t.denominator : 0.0;
  if (grads) result.d_xn = at::empty_like(xn);
  at::Tensor buffer = at::empty({std::min(chunk, rows), vocab}, xn.options());
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    at::Tensor logits = buffer.narrow(0, 0, count);
    const at::Tensor x = xn.narrow(0, begin, count);
    at::mm_out(logits, x, weight.t());
    at::Tensor inner;
    if (head.adapter.rank > 0) AddHeadAdapter(head.adapter, x, logits, &inner);
    const bool plain = head.logit_softcap <= 0 && t.label_smoothing <= 0;
    const bool on_kernels = OnKernels(logits) && plain && head.logit_scale > 0;
    const int64_t* targets = t.targets.data() + begin;
    if (head.exchange != nullptr && on_kernels) {
      result.loss +=
          ChunkLossDividedOnKernels(head, logits, targets, static_cast<float>(grad_scale));
    } else if (head.exchange != nullptr) {
      result.loss += ChunkLossDivided(head, logits, TargetsOf(t, begin, count, xn.device()),
                                      grad_scale, t.label_smoothing);
    } else if (on_kernels) {
      result.loss += ChunkLossOnKernels(head, logits, targets, static_cast<float>(grad_scale));
    } else if (const DeviceKernels* device = KernelsFor(logits); device != nullptr && plain) {
      result.loss +=
          device
              ->CrossEntropy(logits, TargetsOf(t, begin, count, xn.device()),
                             static_cast<float>(head.logit_scale), static_cast<float>(grad_scale))
              .to(at::kDouble)
              .item<double>();
    } else {
      result.loss += ChunkLossOnAten(head, logits, TargetsOf(t, begin, count, xn.device()),
                                     grad_scale, t.label_smoothing);
    }
    if (!grads) continue;
    at::Tensor dx = result.d_xn.narrow(0, begin, count);
    at::mm_out(dx, logits, weight);
    if (inner.defined()) HeadAdapterBackward(head.adapter, logits, x, inner, dx);
    if (head.weight_grad != nullptr) {
      head.weight_grad->grad.addmm_(logits.t().to(at::kFloat), x.to(at::kFloat));
    }
  }
  return result;
}

// The supervised rows: of x, or of the normalised tokens of all ranks.
struct PickedRows {
  at::Tensor xn;      // [N, H], what the logits are made of
  at::Tensor before;  // what the norm saw
  NormStats stats;
};

PickedRows Pick(const Head& head, const at::Tensor& x, const at::Tensor& rows) {
  PickedRows picked;
  picked.before = head.exchange == nullptr ? x.index_select(0, rows) : x;
  picked.xn =
      head.norm.present ? NormForward(head.norm, picked.before, &picked.stats) : picked.before;
  if (head.exchange == nullptr) return picked;
  picked.xn = head.exchange->GatherRows(picked.xn, "tp gather for the head").index_select(0, rows);
  return picked;
}

// From the gradient of `xn` to that of x.
at::Tensor UnPick(const Head& head, const PickedRows& picked, at::Tensor d, const at::Tensor& rows,
                  int64_t tokens) {
  const bool divided = head.exchange != nullptr;
  const auto spread = [&](const at::Tensor& from, int64_t total) {
    at::Tensor all = at::zeros({total, from.size(1)}, from.options());
    all.index_copy_(0, rows, from);
    return all;
  };
  if (divided) {
    d = head.exchange->SumScatterRows(spread(d, tokens * head.exchange->size()),
                                      "tp sum for the head");
  }
  if (head.norm.present) d = NormBackward(head.norm, d, picked.before, picked.stats);
  return divided ? d : spread(d, tokens);
}

struct HeadFunction : torch::autograd::Function<HeadFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const Head* head,
                            const LossTargets* t, double* loss) {
    const bool grads = x.requires_grad();
    const at::Tensor rows = at::tensor(at::ArrayRef<int64_t>(t->rows), at::kLong).to(x.device());
    const PickedRows picked = Pick(*head, x, rows);
    const ChunkedLoss result = LossOfRows(*head, picked.xn, *t, grads);
    *loss = result.loss / t->denominator;
    if (grads) {
      ctx->save_for_backward({UnPick(*head, picked, result.d_xn, rows, x.size(0))});
    }
    return at::full({}, *loss, x.options().dtype(at::kFloat));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {ctx->get_saved_variables()[0], at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor HeadLoss(const Head& head, const at::Tensor& x, const LossTargets& targets,
                    double* loss) {
  return HeadFunction::apply(x, &head, &targets, loss);
}

at::Tensor HeadLogits(const Head& head, const at::Tensor& x) {
  NormStats stats;
  const at::Tensor xn = head.norm.present ? NormForward(head.norm, x, &stats) : x;
  at::Tensor logits;
  if (xn.size(0) == 1 && head.weight.scalar_type() == at::kBFloat16 && OnKernels(xn)) {
    logits = at::empty({1, head.weight.size(0)}, xn.options());
    const int64_t columns = xn.size(1);
    ForRows(head.weight.size(0), columns, [&](int64_t begin, int64_t end) {
      kernels::GemvBf16(reinterpret_cast<const uint16_t*>(head.weight.const_data_ptr()),
                        xn.const_data_ptr<float>(), begin, end, columns,
                        logits.mutable_data_ptr<float>());
    });
  } else {
    logits = at::mm(xn, Wide(head, xn.scalar_type()).t());
  }
  if (head.adapter.rank > 0) {
    at::Tensor inner;
    AddHeadAdapter(head.adapter, xn, logits, &inner);
  }
  logits = logits.to(at::kFloat);
  if (head.logit_scale != 1) logits.mul_(head.logit_scale);
  if (head.logit_softcap > 0) logits = at::tanh(logits / head.logit_softcap) * head.logit_softcap;
  return logits;
}

}  // namespace graft::model
