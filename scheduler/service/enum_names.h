// Values of the contract's enums as people write them: RUNNING for JOB_STATE_RUNNING.
#pragma once

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"

namespace graft::scheduler {

// The value's name without the enum's prefix; a number that the enum lacks in digits.
inline std::string EnumShort(const google::protobuf::EnumDescriptor& type, int value) {
  const auto* named = type.FindValueByNumber(value);
  if (named == nullptr) return absl::StrCat(value);
  const std::string& zero = type.value(0)->name();
  const std::string prefix = zero.substr(0, zero.size() - std::string("UNSPECIFIED").size());
  return absl::StartsWith(named->name(), prefix) ? named->name().substr(prefix.size())
                                                 : named->name();
}

}  // namespace graft::scheduler
