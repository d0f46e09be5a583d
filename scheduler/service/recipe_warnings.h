// Recipes that are allowed and odd: each warning says what was found, why it matters and a better
// value. Nothing here refuses anything; `strict` turns warnings into refusals.
#pragma once

#include <cstdint>
#include <vector>

#include "graft/v1/common.pb.h"
#include "graft/v1/job_spec.pb.h"

namespace graft::scheduler {

// What is known of the training rows; 0: not known.
struct RowFacts {
  int64_t rows = 0;
  int64_t longest_tokens = 0;
};

std::vector<graft::v1::Warning> RecipeWarnings(const graft::v1::JobSpec& resolved,
                                               const RowFacts& rows);

}  // namespace graft::scheduler
