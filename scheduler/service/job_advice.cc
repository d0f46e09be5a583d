// JobService: what is said of jobs that are not there yet: estimates and the schema.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "graft/v1/node.pb.h"
#include "rpc/status.h"
#include "scheduler/service/estimates.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/job_schema.h"
#include "scheduler/service/job_service.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"
#include "worker/spec/estimate.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

// The largest device of the cluster, of the kind that a job would run on.
DeviceNumbers LargestDevice(const Store& store, bool cpu) {
  DeviceNumbers largest;
  const auto nodes = store.List({.prefix = "node/", .limit = 10'000});
  for (const Record& record : nodes.ok() ? nodes->records : std::vector<Record>()) {
    const auto node = ToResource<v1::Node>(record);
    if (!node.ok()) continue;
    for (const v1::Device& device : node->devices()) {
      const bool is_cpu = device.kind() == v1::Device::KIND_CPU;
      if (is_cpu != cpu || device.memory_bytes() <= largest.memory_bytes) continue;
      largest = {device.memory_bytes(), device.tflops(), device.memory_bandwidth()};
    }
  }
  return largest;
}

}  // namespace

void JobService::EstimateJob(CallPtr call, const v1::EstimateJobRequest& request,
                             rpc::Responder<v1::EstimateJobResponse> responder) {
  auto answer = std::make_shared<rpc::Responder<v1::EstimateJobResponse>>(std::move(responder));
  const absl::Status posted = context_.background.Post(
      [this, call, request, answer] { answer->Answer(Estimate(*call, request)); });
  if (!posted.ok()) answer->Answer(posted);
}

absl::StatusOr<v1::EstimateJobResponse> JobService::Estimate(
    const rpc::Call& call, const v1::EstimateJobRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto parent, ParseName(request.parent(), "workspaces/*"));
  if (request.device_memory() < 0) {
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument, "device_memory is below 0")
        .Reason("FIELD_INVALID")
        .Field("device_memory", "is below 0")
        .Build();
  }
  Prepared prepared{.workspace = parent[0]};
  SpecCheck check = CheckSpec(call, request.spec(), prepared);
  // A dataset may be missing: what is asked is what the model needs.
  check.violations.erase(std::remove_if(check.violations.begin(), check.violations.end(),
                                        [](const auto& violation) {
                                          return violation.field().find("spec.dataset") == 0;
                                        }),
                         check.violations.end());
  if (!check.violations.empty()) return ViolationsStatus(check.violations);
  const std::string& base = check.resolved.model().base();
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(base, "workspaces/*/models/*"));
  GRAFT_ASSIGN_OR_RETURN(
      const v1::Model model,
      ReadResource<v1::Model>(context_.store, ModelRecordKey(ids[0], ids[1]), base));
  GRAFT_ASSIGN_OR_RETURN(const auto files, context_.files.OpenModel(model.fileset()));
  GRAFT_ASSIGN_OR_RETURN(const spec::ModelDescription described, spec::ReadModel(*files));
  v1::ResourcesSection& resources = *check.resolved.mutable_resources();
  const bool cpu = resources.device() == v1::ResourcesSection::DEVICE_CPU;
  DeviceNumbers device = LargestDevice(context_.store, cpu);
  if (device.memory_bytes == 0 && resources.device() != v1::ResourcesSection::DEVICE_GPU) {
    // A job would run on CPUs where there is no GPU.
    resources.set_device(v1::ResourcesSection::DEVICE_CPU);
    device = LargestDevice(context_.store, true);
  }
  if (request.device_memory() > 0) device.memory_bytes = request.device_memory();
  v1::EstimateJobResponse response;
  *response.mutable_estimate() =
      EstimateFor(described, check.resolved, device, prepared.dataset_bytes);
  const auto usable =
      static_cast<int64_t>(static_cast<double>(device.memory_bytes) * spec::kUsableShare);
  const int64_t needed = response.estimate().device_memory().total();
  response.set_fits(device.memory_bytes > 0 && needed <= usable);
  if (!response.fits()) {
    v1::Warning& warning = check.warnings.emplace_back();
    warning.set_code("DOES_NOT_FIT");
    warning.set_field("spec.parallelism");
    warning.set_message(
        device.memory_bytes == 0
            ? std::string("the cluster has no device of this kind; give device_memory")
            : absl::StrCat("a rank needs ", needed, " bytes and a device lets it use ", usable));
    warning.set_explanation(
        "More data-parallel ranks copy the model and do not make it fit; tensor or pipeline "
        "parallel ones divide it: see the alternatives.");
  }
  for (v1::Warning& warning : check.warnings) *response.add_warnings() = std::move(warning);
  return response;
}

absl::StatusOr<v1::GetJobSchemaResponse> JobService::GetJobSchema(
    const rpc::Call&, const v1::GetJobSchemaRequest& request) {
  if (!v1::Method_IsValid(request.method())) {
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument, "method is none that is known")
        .Reason("FIELD_INVALID")
        .Field("method", "is none that is known")
        .Build();
  }
  v1::GetJobSchemaResponse response;
  response.set_json_schema(JobSchema(request.method()));
  response.set_example_yaml(ExampleJobFile(request.method()));
  return response;
}

}  // namespace graft::scheduler
