// Numbers in 8 bits each, in blocks of 256 that share a scale: what bitsandbytes keeps the states
// of its 8-bit optimizers in. A code stands for one of 256 values between -1 (or 0) and 1 that lie
// closer the smaller they are ("dynamic" quantisation); a number is that value times the largest
// magnitude of its block.
#pragma once

#include <array>
#include <cstdint>

namespace graft::trainer {

inline constexpr int64_t kBlockwiseBlock = 256;

class BlockwiseCode {
 public:
  // The signed code is for means, the unsigned one for squares.
  explicit BlockwiseCode(bool is_signed);
  float Value(uint8_t code) const { return values_[code]; }
  // The nearest code for x in [-1, 1]. With `keep_sign` a number does not change its sign by
  // rounding to zero or across it.
  uint8_t Nearest(float x, bool keep_sign) const;

  // A block of up to kBlockwiseBlock numbers.
  void Widen(const uint8_t* codes, float largest, int64_t count, float* out) const;
  // Returns the largest magnitude.
  float Narrow(const float* values, int64_t count, bool keep_sign, uint8_t* codes) const;

 private:
  std::array<float, 256> values_;
  std::array<float, 255> borders_;
};

}  // namespace graft::trainer
