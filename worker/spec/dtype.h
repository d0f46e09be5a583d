// The types of stored numbers, of safetensors and of GGUF alike. A quantised type packs
// `block_elements` consecutive numbers of a row into `block_bytes`; a plain one has blocks of one.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::spec {

enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E5M2,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  // Blocks of GGUF.
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kMxfp4,
};

// "F32", "BF16", "Q4_K", as safetensors and GGUF write them.
absl::string_view DTypeName(DType type);
int64_t BlockElements(DType type);
int64_t BlockBytes(DType type);
inline double BytesPerNumber(DType type) {
  return static_cast<double>(BlockBytes(type)) / static_cast<double>(BlockElements(type));
}
bool IsQuantized(DType type);
// Whether ToFloat knows it: every floating and quantised type, no integer.
bool IsFloating(DType type);
// Of a whole number of blocks; elements must be a multiple of BlockElements.
int64_t BytesOf(DType type, int64_t elements);
// INVALID_ARGUMENT for a name that safetensors does not have.
absl::StatusOr<DType> DTypeFromSafetensors(absl::string_view name);

// Widens `elements` (a multiple of the block's) stored at `in` to floats. IsFloating types alone.
void ToFloat(DType type, const char* in, int64_t elements, float* out);
// Rounds to nearest even into kF32, kF16 or kBF16.
void FromFloat(DType type, const float* in, int64_t elements, char* out);

float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);
float Bfloat16ToFloat(uint16_t bits);
uint16_t FloatToBfloat16(float value);

}  // namespace graft::spec
