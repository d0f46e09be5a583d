#include "worker/trainer/blockwise.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"

namespace graft::trainer {
namespace {

constexpr int kExponents = 7;

// The means of 2^n equal parts of [0.1, 1], times a power of ten, for each power: n grows with it.
std::vector<double> DynamicValues(bool is_signed) {
  std::vector<double> values = {0.0, 1.0};
  for (int i = 0; i < kExponents; ++i) {
    const int parts = 1 << (is_signed ? i : i + 1);
    const double power = std::pow(10.0, i - (kExponents - 1));
    for (int j = 0; j < parts; ++j) {
      const double mean = 0.1 + 0.9 * (j + 0.5) / parts;
      values.push_back(power * mean);
      if (is_signed) values.push_back(-power * mean);
    }
  }
  return values;
}

}  // namespace

BlockwiseCode::BlockwiseCode(bool is_signed) {
  std::vector<double> values = DynamicValues(is_signed);
  GRAFT_CHECK(values.size() == values_.size()) << values.size();
  std::sort(values.begin(), values.end());
  for (size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<float>(values[i]);
  for (size_t i = 0; i < borders_.size(); ++i) borders_[i] = 0.5f * (values_[i] + values_[i + 1]);
}

const BlockwiseCode& BlockwiseCode::Signed() {
  static const BlockwiseCode code(true);
  return code;
}

const BlockwiseCode& BlockwiseCode::Unsigned() {
  static const BlockwiseCode code(false);
  return code;
}

uint8_t BlockwiseCode::Nearest(float x, bool keep_sign) const {
  auto code =
      static_cast<int>(std::upper_bound(borders_.begin(), borders_.end(), x) - borders_.begin());
  if (keep_sign && std::signbit(values_[static_cast<size_t>(code)]) != std::signbit(x)) {
    code += x > 0 ? 1 : -1;
  }
  return static_cast<uint8_t>(code);
}

void BlockwiseCode::Widen(const uint8_t* codes, float largest, int64_t count, float* out) const {
  for (int64_t i = 0; i < count; ++i) out[i] = values_[codes[i]] * largest;
}

float BlockwiseCode::Narrow(const float* values, int64_t count, bool keep_sign,
                            uint8_t* codes) const {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
  const float scale = largest > 0 ? 1.0f / largest : 0.0f;
  for (int64_t i = 0; i < count; ++i) codes[i] = Nearest(values[i] * scale, keep_sign);
  return largest;
}

BlockwiseCode::Tables BlockwiseCode::TablesOn(at::Device device) const {
  return {at::tensor(at::ArrayRef<float>(values_), at::kFloat).to(device),
          at::tensor(at::ArrayRef<float>(borders_), at::kFloat).to(device)};
}

CodedNumbers CodedNumbers::Copy() const {
  const auto copy = [](const at::Tensor& x) {
    return x.defined() ? x.to(at::device(at::kCPU), false, /*copy=*/true) : at::Tensor();
  };
  return {copy(codes), copy(largest), code, keep_sign};
}

at::Tensor CodedNumbers::Wide() const {
  const CodedNumbers here = {codes.cpu().contiguous(), largest.defined() ? largest.cpu() : largest};
  if (code == nullptr) return here.codes;
  constexpr uint8_t kTop = 255;
  at::Tensor wide = at::empty({count()}, at::kFloat);
  const auto* from = here.codes.const_data_ptr<uint8_t>();
  const auto* scale = here.largest.const_data_ptr<float>();
  auto* to = wide.mutable_data_ptr<float>();
  for (int64_t begin = 0; begin < count(); begin += kBlockwiseBlock, ++scale) {
    const int64_t size = std::min(kBlockwiseBlock, count() - begin);
    code->Widen(from + begin, *scale, size, to + begin);
    if (std::find(from + begin, from + begin + size, kTop) != from + begin + size) continue;
    for (int64_t i = begin; i < begin + size; ++i) {
      if (from[i] == 0) to[i] = -*scale;
    }
  }
  return wide;
}

void CodedNumbers::Narrow(const at::Tensor& wide) {
  if (code == nullptr) {
    if (!wide.is_same(codes)) codes.copy_(wide);
    return;
  }
  at::Tensor to = at::empty({count()}, at::kByte);
  at::Tensor scales = at::empty(largest.sizes(), at::kFloat);
  const auto* from = wide.const_data_ptr<float>();
  auto* scale = scales.mutable_data_ptr<float>();
  for (int64_t begin = 0; begin < count(); begin += kBlockwiseBlock, ++scale) {
    *scale = code->Narrow(from + begin, std::min(kBlockwiseBlock, count() - begin), keep_sign,
                          to.mutable_data_ptr<uint8_t>() + begin);
  }
  codes.copy_(to);
  largest.copy_(scales);
}

}  // namespace graft::trainer
