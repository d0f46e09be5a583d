// From a job's specification as it was sent to the one that is run: defaults filled in, everything
// checked, and from there to what the core decides on.
//
//   SpecCheck check = ResolveSpec(request.job().spec(), seed);
//   if (!check.violations.empty()) return ViolationsStatus(check.violations);
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "graft/v1/job.pb.h"
#include "graft/v1/job_spec.pb.h"
#include "graft/v1/model.pb.h"
#include "scheduler/core/job.h"

namespace graft::scheduler {

struct SpecCheck {
  graft::v1::JobSpec resolved;
  std::vector<graft::v1::ValidateJobResponse::Violation> violations;
  std::vector<graft::v1::Warning> warnings;
};

// Fills in every default that the contract states and checks every range and rule that needs
// nothing but the specification. All violations, not the first.
SpecCheck ResolveSpec(const graft::v1::JobSpec& spec, int64_t seed);

// What the model says about the specification: divisibility, context length, chat template.
void CheckAgainstModel(const graft::v1::ModelSpec& model, SpecCheck& check);

// INVALID_ARGUMENT with one field violation each; the reason is the first's.
absl::Status ViolationsStatus(
    const std::vector<graft::v1::ValidateJobResponse::Violation>& violations);

Layout LayoutOf(const graft::v1::JobSpec& resolved);
// What is divided over the data-parallel ranks: 0 nothing, 1 optimizer states, 3 weights and
// gradients too.
int ZeroOf(const graft::v1::JobSpec& resolved, const Layout& layout);
void SetLayout(const Layout& layout, graft::v1::Layout& out);

// What the core decides on. `device` is "gpu" or "cpu".
JobRequest ToJobRequest(const graft::v1::JobSpec& resolved, const JobKey& key,
                        const std::string& workspace, const std::string& device);

// "lora" of FINETUNING_TYPE_LORA: the enum's value in lower case without its prefix.
std::string ShortName(const google::protobuf::EnumDescriptor& type, int value);

}  // namespace graft::scheduler
