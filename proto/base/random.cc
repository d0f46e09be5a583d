#include "base/random.h"

#include <sys/random.h>

#include <cstring>

#include "base/check.h"

namespace graft {

uint64_t Random::Uniform(uint64_t bound) {
  GRAFT_CHECK(bound > 0);
  // Values below this threshold would make the low remainders likelier.
  const uint64_t threshold = (0 - bound) % bound;
  for (;;) {
    const uint64_t value = Next();
    if (value >= threshold) return value % bound;
  }
}

std::string Random::Bytes(size_t bytes) {
  std::string out;
  out.reserve(bytes + 8);
  while (out.size() < bytes) {
    const uint64_t word = Next();
    out.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  out.resize(bytes);
  return out;
}

std::string Random::Id(size_t length) {
  constexpr char kAlphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789";
  std::string out;
  for (size_t i = 0; i < length; ++i) out.push_back(kAlphabet[Uniform(i == 0 ? 26 : 36)]);
  return out;
}

uint64_t SecureRandom::Next() {
  uint64_t value = 0;
  GRAFT_CHECK(getrandom(&value, sizeof(value), 0) == sizeof(value));
  return value;
}

uint64_t SeededRandom::Next() {
  MutexLock lock(mu_);
  uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

}  // namespace graft
