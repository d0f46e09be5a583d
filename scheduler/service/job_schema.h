// The live schema of job files, made from the contract itself: fields, defaults, ranges and
// comments are those that the server checks by.
#pragma once

#include <string>

#include "graft/v1/job_spec.pb.h"

namespace graft::scheduler {

// JSON schema, draft 2020-12. Of `method.*` only this method's section; METHOD_UNSPECIFIED has all.
std::string JobSchema(graft::v1::Method method);
// A job file in YAML with every default, each with its comment.
std::string ExampleJobFile(graft::v1::Method method);

}  // namespace graft::scheduler
