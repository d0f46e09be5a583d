// Which layouts the parity tests take: by hand for what divides differently, and, beyond the
// default tier, a spread over every valid layout of up to eight ranks.
#pragma once

#include <vector>

#include "tests/parity/parallel/layout_run.h"

namespace graft::trainer {

std::vector<LayoutCase> LayoutCases();

}  // namespace graft::trainer
