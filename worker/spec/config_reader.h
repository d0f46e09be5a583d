// Reads numbers of a config.json, keeping the first complaint, so that a family file reads like a
// table:
//
//   ConfigReader c(json);
//   spec.hidden = c.Dimension("hidden_size");
//   spec.norm.eps = c.Double("rms_norm_eps", 1e-6);
//   return c.status();
//
// After a complaint the values returned are harmless placeholders. Borrows the Json.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/json.h"

namespace graft::spec {

// No model in use comes near; they keep the products of sizes within 64 bits.
inline constexpr int64_t kMaxDimension = int64_t{1} << 24;
inline constexpr int64_t kMaxHeads = 1 << 14;
inline constexpr int64_t kMaxHeadDim = 1 << 14;
inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxExperts = 4096;
inline constexpr int64_t kMaxExpertsTimesLayers = 1 << 17;
inline constexpr int64_t kMaxContext = int64_t{1} << 31;
inline constexpr int64_t kMaxParameters = int64_t{1} << 50;

class ConfigReader {
 public:
  explicit ConfigReader(const Json& json) : json_(json) {}

  const Json& json() const { return json_; }
  // Absent and null are the same.
  bool Has(absl::string_view key) const;
  // An integer within [min, max]; without `fallback` it must be there.
  int64_t Int(absl::string_view key, int64_t min, int64_t max);
  int64_t Int(absl::string_view key, int64_t min, int64_t max, int64_t fallback);
  // In [1, kMaxDimension].
  int64_t Dimension(absl::string_view key) { return Int(key, 1, kMaxDimension); }
  int64_t Dimension(absl::string_view key, int64_t fallback) {
    return Int(key, 1, kMaxDimension, fallback);
  }
  // A finite number.
  double Double(absl::string_view key, double fallback);
  bool Bool(absl::string_view key, bool fallback);
  std::string String(absl::string_view key, absl::string_view fallback);
  // An array of integers; empty where it is absent.
  std::vector<int64_t> Ints(absl::string_view key);
  // The same, where a single integer stands for an array of one.
  std::vector<int64_t> IntOrInts(absl::string_view key);
  std::vector<double> Doubles(absl::string_view key);
  std::vector<std::string> Strings(absl::string_view key);

  // Records a complaint of the caller's own, unless there is one.
  void Fail(absl::Status status);
  void FailInvalid(absl::string_view message);
  const absl::Status& status() const { return status_; }

 private:
  const Json* Find(absl::string_view key) const;

  const Json& json_;
  absl::Status status_;
};

}  // namespace graft::spec
