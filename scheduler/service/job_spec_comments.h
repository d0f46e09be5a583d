// The contract's job_spec.proto as a descriptor set with its comments, which the build embeds.
#pragma once

#include <cstddef>

namespace graft::scheduler {

extern const unsigned char kJobSpecComments[];
extern const size_t kJobSpecCommentsSize;

}  // namespace graft::scheduler
