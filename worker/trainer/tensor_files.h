// Named tensors to and from safetensors files, streamed one at a time.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/spec/safetensors.h"

namespace graft::trainer {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// folder/stem.safetensors (or shards and an index), written beside and renamed. Returns the names
// of the files.
absl::StatusOr<std::vector<std::string>> WriteTensors(const std::string& folder,
                                                      const std::string& stem,
                                                      const NamedTensors& tensors);

// Copies every tensor of `tensors` from path. INVALID_ARGUMENT where one is missing or has another
// shape, naming it.
absl::Status ReadTensors(const std::string& path, const NamedTensors& tensors);

// The names and shapes in the file.
absl::StatusOr<spec::TensorIndex> ListTensors(const std::string& path);

}  // namespace graft::trainer
