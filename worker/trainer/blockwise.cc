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

}  // namespace graft::trainer
