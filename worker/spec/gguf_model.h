// From a GGUF header to the configuration and the tensor names of the same model on the Hub.
#pragma once

#include "absl/status/statusor.h"
#include "base/json.h"
#include "worker/spec/gguf.h"
#include "worker/spec/tensor_names.h"

namespace graft::spec {

// The config.json that a Hub folder of this model would have. `source` is the file: a few numbers
// (llama3's frequency factors, phi3's) are kept as tensors. UNIMPLEMENTED for an architecture that
// is not known here, with the list of those that are.
absl::StatusOr<Json> ConfigOfGguf(const GgufHeader& gguf, const ByteSource& source);

// How the file names its tensors. `config` is what ConfigOfGguf gave.
TensorNames NamesOfGguf(const GgufHeader& gguf, const Json& config);

}  // namespace graft::spec
