// Numbers in 8 bits each, in blocks of 256 that share a scale: what bitsandbytes keeps the states
// of its 8-bit optimizers in. A code stands for one of 256 values between -1 (or 0) and 1 that lie
// closer the smaller they are ("dynamic" quantisation); a number is that value times the largest
// magnitude of its block.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>

namespace graft::trainer {

inline constexpr int64_t kBlockwiseBlock = 256;

class BlockwiseCode {
 public:
  // For means, and for squares.
  static const BlockwiseCode& Signed();
  static const BlockwiseCode& Unsigned();
  float Value(uint8_t code) const { return values_[code]; }
  // The nearest code for x in [-1, 1]. With `keep_sign` a number does not change its sign by
  // rounding to zero or across it.
  uint8_t Nearest(float x, bool keep_sign) const;

  // A block of up to kBlockwiseBlock numbers.
  void Widen(const uint8_t* codes, float largest, int64_t count, float* out) const;
  // Returns the largest magnitude.
  float Narrow(const float* values, int64_t count, bool keep_sign, uint8_t* codes) const;

  // For a device's lookups: what each code stands for, and the borders between neighbours.
  struct Tables {
    at::Tensor values, borders;
  };
  Tables TablesOn(at::Device device) const;

 private:
  explicit BlockwiseCode(bool is_signed);

  std::array<float, 256> values_;
  std::array<float, 255> borders_;
};

// Numbers as codes, with the largest magnitude of each block; without a code they are fp32.
struct CodedNumbers {
  at::Tensor codes;    // [N], or fp32
  at::Tensor largest;  // [blocks]
  const BlockwiseCode* code = nullptr;
  bool keep_sign = false;

  int64_t count() const { return codes.numel(); }
  // Anew, in the CPU's memory.
  CodedNumbers Copy() const;
  // fp32 in the CPU's memory; the numbers themselves where they are that. Narrow makes of it these
  // codes and magnitudes again: a number whose code is the lowest for want of a lower one comes as
  // the magnitude itself.
  at::Tensor Wide() const;
  void Narrow(const at::Tensor& wide);
};

}  // namespace graft::trainer
