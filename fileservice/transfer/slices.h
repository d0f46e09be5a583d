// gRPC's slices as plain views. Used by both ends (service/ and transfer/).
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "grpcpp/support/slice.h"

namespace graft::fileservice {

// Valid as long as `slices` is.
inline std::vector<absl::string_view> Views(const std::vector<grpc::Slice>& slices) {
  std::vector<absl::string_view> views;
  views.reserve(slices.size());
  for (const grpc::Slice& slice : slices) {
    views.emplace_back(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return views;
}

}  // namespace graft::fileservice
