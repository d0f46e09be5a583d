// Text as the bytes that C libraries and intrinsics take.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace graft {

inline const uint8_t* Bytes(absl::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

}  // namespace graft
