// Whether an adapter's files fit a base model, tensor by tensor, from headers alone.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/spec/load.h"

namespace graft::scheduler {

// What an adapter in PEFT's layout says of itself.
struct AdapterFacts {
  int rank = 0;
  double alpha = 0;
  std::vector<std::string> target_modules;  // as the configuration lists them
  bool rslora = false;
  bool dora = false;
};

// FAILED_PRECONDITION (ADAPTER_MISMATCH) names the tensor or module that does not fit;
// INVALID_ARGUMENT or UNIMPLEMENTED where the files are no LoRA adapter that is known.
absl::StatusOr<AdapterFacts> CheckAdapter(const spec::ModelFiles& adapter,
                                          const spec::ModelDescription& base);

}  // namespace graft::scheduler
