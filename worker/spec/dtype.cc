#include "worker/spec/dtype.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace graft::spec {
namespace {

struct TypeRow {
  DType type;
  const char* name;
  int64_t block_elements;
  int64_t block_bytes;
};

// In the order of the enum.
constexpr TypeRow kTypes[] = {
    {DType::kF64, "F64", 1, 8},        {DType::kF32, "F32", 1, 4},
    {DType::kF16, "F16", 1, 2},        {DType::kBF16, "BF16", 1, 2},
    {DType::kF8E4M3, "F8_E4M3", 1, 1}, {DType::kF8E5M2, "F8_E5M2", 1, 1},
    {DType::kI64, "I64", 1, 8},        {DType::kI32, "I32", 1, 4},
    {DType::kI16, "I16", 1, 2},        {DType::kI8, "I8", 1, 1},
    {DType::kU8, "U8", 1, 1},          {DType::kBool, "BOOL", 1, 1},
    {DType::kQ4_0, "Q4_0", 32, 18},    {DType::kQ4_1, "Q4_1", 32, 20},
    {DType::kQ5_0, "Q5_0", 32, 22},    {DType::kQ5_1, "Q5_1", 32, 24},
    {DType::kQ8_0, "Q8_0", 32, 34},    {DType::kQ4_K, "Q4_K", 256, 144},
    {DType::kQ5_K, "Q5_K", 256, 176},  {DType::kQ6_K, "Q6_K", 256, 210},
    {DType::kMxfp4, "MXFP4", 32, 17},
};

const TypeRow& Row(DType type) { return kTypes[static_cast<size_t>(type)]; }

template <typename T>
T Load(const char* in) {
  T value;
  std::memcpy(&value, in, sizeof(T));
  return value;
}

float LoadHalf(const char* in) { return HalfToFloat(Load<uint16_t>(in)); }
uint8_t Byte(const char* in, int64_t i) { return static_cast<uint8_t>(in[i]); }

float Float8E4M3(uint8_t bits) {
  const int exponent = (bits >> 3) & 15;
  const int mantissa = bits & 7;
  float value;
  if (exponent == 15 && mantissa == 7) {
    value = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    value = std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7);
  }
  return (bits & 0x80) != 0 ? -value : value;
}

void WidenQ4_0(const char* in, float* out) {
  const float d = LoadHalf(in);
  for (int j = 0; j < 16; ++j) {
    const int q = Byte(in, 2 + j);
    out[j] = d * static_cast<float>((q & 15) - 8);
    out[j + 16] = d * static_cast<float>((q >> 4) - 8);
  }
}

void WidenQ4_1(const char* in, float* out) {
  const float d = LoadHalf(in);
  const float m = LoadHalf(in + 2);
  for (int j = 0; j < 16; ++j) {
    const int q = Byte(in, 4 + j);
    out[j] = d * static_cast<float>(q & 15) + m;
    out[j + 16] = d * static_cast<float>(q >> 4) + m;
  }
}

// The fifth bits of numbers 0..31 are those of a 32-bit word.
void WidenQ5(const char* high_bits, const char* quants, float d, float m, int zero, float* out) {
  const uint32_t high = Load<uint32_t>(high_bits);
  for (int j = 0; j < 16; ++j) {
    const int q = Byte(quants, j);
    const int first = (q & 15) | (((high >> j) & 1) << 4);
    const int second = (q >> 4) | (((high >> (j + 16)) & 1) << 4);
    out[j] = d * static_cast<float>(first - zero) + m;
    out[j + 16] = d * static_cast<float>(second - zero) + m;
  }
}

void WidenQ5_0(const char* in, float* out) { WidenQ5(in + 2, in + 6, LoadHalf(in), 0, 16, out); }
void WidenQ5_1(const char* in, float* out) {
  WidenQ5(in + 4, in + 8, LoadHalf(in), LoadHalf(in + 2), 0, out);
}

void WidenQ8_0(const char* in, float* out) {
  const float d = LoadHalf(in);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(static_cast<int8_t>(in[2 + j]));
}

// 8 pairs of a 6-bit scale and a 6-bit minimum in 12 bytes: the first four pairs have a byte each,
// the others keep their low 4 bits together and their high 2 bits in the top of the first eight.
void ScaleAndMinimum(const char* packed, int pair, int* scale, int* minimum) {
  if (pair < 4) {
    *scale = Byte(packed, pair) & 63;
    *minimum = Byte(packed, pair + 4) & 63;
    return;
  }
  const int low = Byte(packed, pair + 4);
  *scale = (low & 15) | ((Byte(packed, pair - 4) >> 6) << 4);
  *minimum = (low >> 4) | ((Byte(packed, pair) >> 6) << 4);
}

void WidenQ4_K(const char* in, float* out) {
  const float d = LoadHalf(in);
  const float dmin = LoadHalf(in + 2);
  const char* quants = in + 16;
  for (int pair = 0; pair < 8; ++pair) {
    int scale, minimum;
    ScaleAndMinimum(in + 4, pair, &scale, &minimum);
    const float s = d * static_cast<float>(scale);
    const float m = dmin * static_cast<float>(minimum);
    const int shift = (pair & 1) * 4;
    for (int j = 0; j < 32; ++j) {
      const int q = (Byte(quants, (pair / 2) * 32 + j) >> shift) & 15;
      out[pair * 32 + j] = s * static_cast<float>(q) - m;
    }
  }
}

// As Q4_K, with a fifth bit of number j of each 32 in bit `pair` of byte j.
void WidenQ5_K(const char* in, float* out) {
  const float d = LoadHalf(in);
  const float dmin = LoadHalf(in + 2);
  const char* high = in + 16;
  const char* quants = in + 48;
  for (int pair = 0; pair < 8; ++pair) {
    int scale, minimum;
    ScaleAndMinimum(in + 4, pair, &scale, &minimum);
    const float s = d * static_cast<float>(scale);
    const float m = dmin * static_cast<float>(minimum);
    const int shift = (pair & 1) * 4;
    for (int j = 0; j < 32; ++j) {
      const int low = (Byte(quants, (pair / 2) * 32 + j) >> shift) & 15;
      const int fifth = (Byte(high, j) >> pair) & 1;
      out[pair * 32 + j] = s * static_cast<float>(low | (fifth << 4)) - m;
    }
  }
}

void WidenQ6_K(const char* in, float* out) {
  const char* low = in;
  const char* high = in + 128;
  const char* scales = in + 192;
  const float d = LoadHalf(in + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = (i % 128) / 32, j = i % 32;
    const int low_bits =
        (Byte(low, half * 64 + (quarter & 1) * 32 + j) >> ((quarter / 2) * 4)) & 15;
    const int high_bits = (Byte(high, half * 32 + j) >> (quarter * 2)) & 3;
    const int scale = static_cast<int8_t>(scales[i / 16]);
    out[i] = d * static_cast<float>(scale) * static_cast<float>((low_bits | (high_bits << 4)) - 32);
  }
}

constexpr float kFp4[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0f, -0.5, -1, -1.5, -2, -3, -4, -6};

void WidenMxfp4(const char* in, float* out) {
  const float scale = std::ldexp(1.0f, static_cast<int>(Byte(in, 0)) - 127);
  for (int j = 0; j < 16; ++j) {
    const int q = Byte(in, 1 + j);
    out[j] = scale * kFp4[q & 15];
    out[j + 16] = scale * kFp4[q >> 4];
  }
}

using WidenBlock = void (*)(const char*, float*);

WidenBlock BlockWidener(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return WidenQ4_0;
    case DType::kQ4_1:
      return WidenQ4_1;
    case DType::kQ5_0:
      return WidenQ5_0;
    case DType::kQ5_1:
      return WidenQ5_1;
    case DType::kQ8_0:
      return WidenQ8_0;
    case DType::kQ4_K:
      return WidenQ4_K;
    case DType::kQ5_K:
      return WidenQ5_K;
    case DType::kQ6_K:
      return WidenQ6_K;
    case DType::kMxfp4:
      return WidenMxfp4;
    default:
      return nullptr;
  }
}

}  // namespace

absl::string_view DTypeName(DType type) { return Row(type).name; }
int64_t BlockElements(DType type) { return Row(type).block_elements; }
int64_t BlockBytes(DType type) { return Row(type).block_bytes; }
bool IsQuantized(DType type) { return Row(type).block_elements > 1; }

bool IsFloating(DType type) { return IsQuantized(type) || type <= DType::kF8E5M2; }

int64_t BytesOf(DType type, int64_t elements) {
  GRAFT_CHECK(elements % BlockElements(type) == 0) << elements << " numbers of " << Row(type).name;
  return elements / BlockElements(type) * BlockBytes(type);
}

absl::StatusOr<DType> DTypeFromSafetensors(absl::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (row.block_elements == 1 && name == row.name) return row.type;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the type \"", name,
                   "\" is not one of F64, F32, F16, BF16, F8_E4M3, F8_E5M2, "
                   "I64, I32, I16, I8, U8, BOOL"));
}

void ToFloat(DType type, const char* in, int64_t elements, float* out) {
  if (const WidenBlock widen = BlockWidener(type); widen != nullptr) {
    const int64_t block = BlockElements(type);
    GRAFT_CHECK(elements % block == 0) << elements << " numbers of " << Row(type).name;
    for (int64_t i = 0; i < elements; i += block, in += BlockBytes(type)) widen(in, out + i);
    return;
  }
  switch (type) {
    case DType::kF64:
      for (int64_t i = 0; i < elements; ++i) out[i] = static_cast<float>(Load<double>(in + 8 * i));
      return;
    case DType::kF32:
      std::memcpy(out, in, static_cast<size_t>(elements) * 4);
      return;
    case DType::kF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = LoadHalf(in + 2 * i);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = Bfloat16ToFloat(Load<uint16_t>(in + 2 * i));
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < elements; ++i) out[i] = Float8E4M3(Byte(in, i));
      return;
    case DType::kF8E5M2:
      for (int64_t i = 0; i < elements; ++i) {
        out[i] = HalfToFloat(static_cast<uint16_t>(Byte(in, i) << 8));
      }
      return;
    default:
      GRAFT_CHECK(false) << Row(type).name << " holds no floating numbers";
  }
}

void FromFloat(DType type, const float* in, int64_t elements, char* out) {
  if (type == DType::kF32) {
    std::memcpy(out, in, static_cast<size_t>(elements) * 4);
    return;
  }
  GRAFT_CHECK(type == DType::kF16 || type == DType::kBF16) << "cannot round to " << Row(type).name;
  for (int64_t i = 0; i < elements; ++i) {
    const uint16_t bits = type == DType::kF16 ? FloatToHalf(in[i]) : FloatToBfloat16(in[i]);
    std::memcpy(out + 2 * i, &bits, 2);
  }
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t mantissa = half & 0x3ff;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -value : value;
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint16_t FloatToHalf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // rounds to 65536 or more
  if (magnitude < 0x38800000) {                       // subnormal: a multiple of 2^-24
    const float scaled = std::ldexp(std::fabs(value), 24);
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(scaled)));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + odd) >> 13));
}

float Bfloat16ToFloat(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

uint16_t FloatToBfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace graft::spec
