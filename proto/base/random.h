// Random bits, as a capability that is handed in. `SecureRandom` is the kernel's and serves ids,
// tokens and seeds; `SeededRandom` repeats itself and serves simulation and tests.
#pragma once

#include <cstdint>
#include <string>

#include "base/mutex.h"

namespace graft {

// Thread-safe.
class Random {
 public:
  virtual ~Random() = default;
  virtual uint64_t Next() = 0;

  // Uniform in [0, bound). `bound` must not be 0.
  uint64_t Uniform(uint64_t bound);
  // Uniform in [0, 1).
  double UniformDouble() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }
  // `bytes` random bytes.
  std::string Bytes(size_t bytes);
  // An unguessable name: `length` characters of [a-z0-9], starting with a letter.
  std::string Id(size_t length = 16);
};

class SecureRandom final : public Random {
 public:
  uint64_t Next() override;
};

// SplitMix64.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next() override;

 private:
  Mutex mu_;
  uint64_t state_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft
