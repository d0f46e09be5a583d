#include "worker/spec/rope.h"

#include <algorithm>
#include <cmath>

namespace graft::spec {
namespace {

constexpr double kPi = 3.14159265358979323846;

// theta ^ (2i / dim), in fp32 as torch computes it.
std::vector<float> Wavelengths(double theta, int64_t dim) {
  std::vector<float> out(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    out[i] = std::pow(static_cast<float>(theta), exponent);
  }
  return out;
}

std::vector<float> Plain(double theta, int64_t dim) {
  std::vector<float> out = Wavelengths(theta, dim);
  for (float& f : out) f = 1.0f / f;
  return out;
}

std::vector<float> Dynamic(const RopeSpec& rope, int64_t sequence_length) {
  const double length = static_cast<double>(std::max(sequence_length, rope.max_context));
  const double dim = static_cast<double>(rope.rotary_dim);
  const double stretch =
      rope.factor * length / static_cast<double>(rope.max_context) - (rope.factor - 1);
  return Plain(rope.theta * std::pow(stretch, dim / (dim - 2)), rope.rotary_dim);
}

std::vector<float> Llama3(const RopeSpec& rope) {
  std::vector<float> out = Plain(rope.theta, rope.rotary_dim);
  const float context = static_cast<float>(rope.original_context);
  const float factor = static_cast<float>(rope.factor);
  const float low = static_cast<float>(rope.low_freq_factor);
  const float high = static_cast<float>(rope.high_freq_factor);
  for (float& f : out) {
    const float wavelength = static_cast<float>(2 * kPi) / f;
    if (wavelength > context / low) {
      f /= factor;
    } else if (wavelength >= context / high) {
      const float smooth = (context / wavelength - low) / (high - low);
      f = (1 - smooth) * f / factor + smooth * f;
    }
  }
  return out;
}

// The dimension that turns `rotations` times within the original context.
double CorrectionDimension(const RopeSpec& rope, double rotations) {
  return static_cast<double>(rope.rotary_dim) *
         std::log(static_cast<double>(rope.original_context) / (rotations * 2 * kPi)) /
         (2 * std::log(rope.theta));
}

std::vector<float> Yarn(const RopeSpec& rope) {
  double low = CorrectionDimension(rope, rope.beta_fast);
  double high = CorrectionDimension(rope, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.rotary_dim - 1));
  if (low == high) high += 0.001;
  std::vector<float> out = Wavelengths(rope.theta, rope.rotary_dim);
  for (size_t i = 0; i < out.size(); ++i) {
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f,
        1.0f);
    const float kept = 1.0f / out[i];
    const float stretched = 1.0f / (static_cast<float>(rope.factor) * out[i]);
    const float keep = 1 - ramp;
    out[i] = stretched * (1 - keep) + kept * keep;
  }
  return out;
}

std::vector<float> LongRope(const RopeSpec& rope, int64_t sequence_length) {
  const std::vector<double>& factors =
      sequence_length > rope.original_context ? rope.long_factor : rope.short_factor;
  std::vector<float> out = Wavelengths(rope.theta, rope.rotary_dim);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = 1.0f / (static_cast<float>(factors[i]) * out[i]);
  }
  return out;
}

}  // namespace

std::vector<float> RopeInverseFrequencies(const RopeSpec& rope, int64_t sequence_length) {
  switch (rope.kind) {
    case RopeKind::kDefault:
      return Plain(rope.theta, rope.rotary_dim);
    case RopeKind::kLinear: {
      std::vector<float> out = Plain(rope.theta, rope.rotary_dim);
      for (float& f : out) f /= static_cast<float>(rope.factor);
      return out;
    }
    case RopeKind::kDynamic:
      return Dynamic(rope, sequence_length);
    case RopeKind::kLlama3:
      return Llama3(rope);
    case RopeKind::kYarn:
      return Yarn(rope);
    case RopeKind::kLongRope:
      return LongRope(rope, sequence_length);
  }
  return {};
}

bool RopeDependsOnLength(const RopeSpec& rope) {
  return rope.kind == RopeKind::kDynamic || rope.kind == RopeKind::kLongRope;
}

}  // namespace graft::spec
