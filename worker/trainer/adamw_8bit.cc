#include "worker/trainer/adamw_8bit.h"

#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace graft::trainer {
namespace {

constexpr int64_t kLeast8bit = 4096;
constexpr int64_t kBlocksOfThread = 64;
constexpr int64_t kChunkBlocks = 1 << 14;  // 4 million numbers: some 100 MB while they are wide

// Small ones, which stay fp32, are always on the device.
CodedNumbers Zeros(int64_t count, const BlockwiseCode& code, bool keep_sign,
                   const at::TensorOptions& where, at::Device device) {
  if (count < kLeast8bit) return {at::zeros({count}, at::device(device))};
  const int64_t blocks = (count + kBlockwiseBlock - 1) / kBlockwiseBlock;
  return {at::zeros({count}, where.dtype(at::kByte)), at::zeros({blocks}, where), &code, keep_sign};
}

// Blocks of `width` numbers of a state, wide on `device` while they are stepped.
class WideBlocks {
 public:
  WideBlocks(CodedNumbers& numbers, const BlockwiseCode::Tables& tables, int64_t first_block,
             int64_t blocks, int64_t width)
      : keep_sign_(numbers.keep_sign),
        tables_(tables),
        codes_(numbers.codes.narrow(0, first_block * kBlockwiseBlock, blocks * width)),
        largest_(numbers.largest.narrow(0, first_block, blocks)) {
    const at::Device device = tables.values.device();
    const at::Tensor codes = codes_.to(device, /*non_blocking=*/true).to(at::kInt);
    wide = tables.values.index_select(0, codes).view({blocks, width});
    wide.mul_(largest_.to(device, /*non_blocking=*/true).unsqueeze(1));
  }

  void Narrow() {
    const at::Tensor largest = wide.abs().amax(1, /*keepdim=*/true);
    const at::Tensor x = wide * at::where(largest > 0, largest.reciprocal(), 0);
    at::Tensor codes = at::bucketize(x, tables_.borders, /*out_int32=*/true, /*right=*/true);
    if (keep_sign_) {
      const at::Tensor nearest =
          tables_.values.index_select(0, codes.view({-1})).view(codes.sizes());
      const at::Tensor crossed = nearest.signbit().logical_xor(x.signbit());
      codes = codes + crossed.mul(at::where(x > 0, 1, -1)).to(at::kInt);
    }
    codes_.copy_(codes.to(at::kByte).view({-1}), /*non_blocking=*/true);
    largest_.copy_(largest.view({-1}), /*non_blocking=*/true);
  }

  at::Tensor wide;

 private:
  const bool keep_sign_;
  const BlockwiseCode::Tables& tables_;
  at::Tensor codes_, largest_;
};

}  // namespace

void AdamW8bitRule::Apply(const float* grad, int64_t count, float* value, float* m,
                          float* v) const {
  for (int64_t i = 0; i < count; ++i) {
    const float g = grad[i] * grad_scale;
    m[i] = m[i] * beta1 + (1 - beta1) * g;
    v[i] = v[i] * beta2 + (1 - beta2) * g * g;
    value[i] = (value[i] + step * (m[i] / (std::sqrt(v[i]) + epsilon))) * keep;
  }
}

void StepByBlock(const AdamW8bitRule& rule, at::Tensor value_N, const at::Tensor& grad_N,
                 CodedNumbers& m, CodedNumbers& v) {
  float* value = value_N.mutable_data_ptr<float>();
  const float* grad = grad_N.const_data_ptr<float>();
  const int64_t count = value_N.numel();
  if (m.code == nullptr) {
    rule.Apply(grad, count, value, m.codes.mutable_data_ptr<float>(),
               v.codes.mutable_data_ptr<float>());
    return;
  }
  auto* m_codes = m.codes.mutable_data_ptr<uint8_t>();
  auto* v_codes = v.codes.mutable_data_ptr<uint8_t>();
  auto* m_largest = m.largest.mutable_data_ptr<float>();
  auto* v_largest = v.largest.mutable_data_ptr<float>();
  at::parallel_for(0, m.largest.numel(), kBlocksOfThread, [&](int64_t first, int64_t last) {
    float wide_m[kBlockwiseBlock], wide_v[kBlockwiseBlock];
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = b * kBlockwiseBlock;
      const int64_t size = std::min(kBlockwiseBlock, count - begin);
      m.code->Widen(m_codes + begin, m_largest[b], size, wide_m);
      v.code->Widen(v_codes + begin, v_largest[b], size, wide_v);
      rule.Apply(grad + begin, size, value + begin, wide_m, wide_v);
      m_largest[b] = m.code->Narrow(wide_m, size, m.keep_sign, m_codes + begin);
      v_largest[b] = v.code->Narrow(wide_v, size, v.keep_sign, v_codes + begin);
    }
  });
}

void StepByLookup(const AdamW8bitRule& rule, const AdamW8bitTables& tables, at::Tensor value,
                  const at::Tensor& grad, CodedNumbers& m, CodedNumbers& v) {
  const auto apply = [&rule](at::Tensor x, const at::Tensor& gradient, at::Tensor& mean,
                             at::Tensor& square) {
    const at::Tensor g = gradient * rule.grad_scale;
    mean.mul_(rule.beta1).add_(g, 1 - rule.beta1);
    square.mul_(rule.beta2).addcmul_(g, g, 1 - rule.beta2);
    x.add_(mean / (square.sqrt() + rule.epsilon), rule.step).mul_(rule.keep);
  };
  if (m.code == nullptr) return apply(value, grad, m.codes, v.codes);
  const auto step = [&](int64_t first_block, int64_t blocks, int64_t width) {
    const int64_t begin = first_block * kBlockwiseBlock;
    const auto rows = [&](const at::Tensor& x) {
      return x.narrow(0, begin, blocks * width).view({blocks, width});
    };
    WideBlocks mean(m, tables.m, first_block, blocks, width);
    WideBlocks square(v, tables.v, first_block, blocks, width);
    apply(rows(value), rows(grad), mean.wide, square.wide);
    mean.Narrow();
    square.Narrow();
  };
  const int64_t full = value.numel() / kBlockwiseBlock;
  for (int64_t first = 0; first < full; first += kChunkBlocks) {
    step(first, std::min(kChunkBlocks, full - first), kBlockwiseBlock);
  }
  if (const int64_t rest = value.numel() % kBlockwiseBlock; rest > 0) step(full, 1, rest);
}

AdamW8bit::AdamW8bit(const OptimizerConfig& config, model::ParameterStore& store)
    : config_(config),
      store_(store),
      device_(store.values().device()),
      paged_(config.kind == OptimizerKind::kPagedAdamW8bit && !device_.is_cpu()),
      tables_{BlockwiseCode::Signed().TablesOn(device_),
              BlockwiseCode::Unsigned().TablesOn(device_)} {
  const at::TensorOptions where =
      paged_ ? at::TensorOptions().pinned_memory(true) : at::TensorOptions().device(device_);
  for (const model::Trained& t : store.trained()) {
    states_.push_back({Zeros(t.elements(), BlockwiseCode::Signed(), true, where, device_),
                       Zeros(t.elements(), BlockwiseCode::Unsigned(), false, where, device_)});
  }
}

void AdamW8bit::Step(double learning_rate, double grad_scale) {
  ++steps_;
  const double bias1 = 1 - std::pow(config_.beta1, static_cast<double>(steps_));
  const double root_bias2 = std::sqrt(1 - std::pow(config_.beta2, static_cast<double>(steps_)));
  AdamW8bitRule rule;
  rule.beta1 = static_cast<float>(config_.beta1);
  rule.beta2 = static_cast<float>(config_.beta2);
  rule.step = static_cast<float>(-learning_rate * root_bias2 / bias1);
  rule.epsilon = static_cast<float>(config_.epsilon * root_bias2);
  rule.grad_scale = static_cast<float>(grad_scale);
  size_t i = 0;
  for (model::Trained& t : store_.trained()) {
    rule.keep = static_cast<float>(1 - (t.decay ? learning_rate * config_.weight_decay : 0.0));
    State& state = states_[i++];
    const at::Tensor value = t.value.view({-1}), grad = t.grad.view({-1});
    if (device_.is_cpu()) {
      StepByBlock(rule, value, grad, state.m, state.v);
    } else {
      StepByLookup(rule, tables_, value, grad, state.m, state.v);
    }
  }
  if (!paged_) return;
  // What came back to the host's memory may be read there now.
  c10::impl::VirtualGuardImpl(device_.type()).getStream(device_).synchronize();
}

std::vector<OptimizerState> AdamW8bit::states() {
  std::vector<OptimizerState> all;
  for (size_t i = 0; i < states_.size(); ++i) {
    const model::Trained& t = store_.trained()[i];
    all.push_back({"exp_avg", states_[i].m, &t});
    all.push_back({"exp_avg_sq", states_[i].v, &t});
  }
  return all;
}

}  // namespace graft::trainer
