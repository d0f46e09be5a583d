// JobService: how a job comes into being.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "graft/v1/model.pb.h"
#include "graft/v1/queue.pb.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/estimates.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/job_service.h"
#include "scheduler/service/layout_choice.h"
#include "scheduler/service/names.h"
#include "scheduler/service/recipe_warnings.h"
#include "scheduler/service/standard.h"
#include "scheduler/service/start_from.h"
#include "scheduler/service/template_service.h"
#include "scheduler/service/validation_records.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
constexpr double kRoomForLora = 1.5;  // of the base model, as the worker asks for its own disk
constexpr double kRoomForAllWeights = 3;
constexpr size_t kMaxIdLength = 63;

void Violate(SpecCheck& check, absl::string_view field, v1::Reason reason,
             absl::string_view message) {
  auto& violation = check.violations.emplace_back();
  violation.set_field(std::string(field));
  violation.set_reason(reason);
  violation.set_message(std::string(message));
}

std::string IdOf(absl::string_view name, size_t part) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  return part < parts.size() ? parts[part] : "";
}

// `{base}-{dataset}-{tuning}-{job}`, shortened.
std::string DefaultOutputName(const v1::JobSpec& spec, const std::string& job) {
  const auto& sources = spec.dataset().training();
  std::string name = absl::StrCat(
      IdOf(spec.model().base(), 3), "-", sources.empty() ? "" : IdOf(sources[0].fileset(), 3), "-",
      ShortName(*v1::FinetuningType_descriptor(), spec.tuning().type()), "-");
  const size_t room = kMaxIdLength - std::min(job.size(), kMaxIdLength);
  return absl::StrCat(name.substr(0, room), job.substr(0, kMaxIdLength));
}

absl::Status OutputExists(absl::string_view name) {
  return rpc::ErrorBuilder(absl::StatusCode::kAlreadyExists,
                           absl::StrCat(name,
                                        " exists already; choose another spec.output.name, or "
                                        "set spec.output.new_version"))
      .Reason("OUTPUT_EXISTS")
      .Metadata("resource", name)
      .Build();
}

std::string OutputKey(const v1::JobSpec& spec, const std::string& workspace, std::string* name) {
  const std::string& base = spec.model().base();
  if (spec.tuning().type() == v1::FINETUNING_TYPE_LORA) {
    *name = absl::StrCat(base, "/adapters/", spec.output().name());
    return AdapterRecordKey(IdOf(base, 1), IdOf(base, 3), spec.output().name());
  }
  *name = absl::StrCat("workspaces/", workspace, "/models/", spec.output().name());
  return ModelRecordKey(workspace, spec.output().name());
}

absl::Status QueueRefuses(absl::string_view queue, absl::string_view why) {
  return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition, absl::StrCat(queue, " ", why))
      .Reason("QUEUE_CLOSED")
      .Metadata("queue", queue)
      .Build();
}

// What the queue says of a new job; its default time limit is filled in.
absl::Status CheckQueue(Turn& turn, const rpc::Call& call, const std::string& workspace,
                        v1::JobSpec& spec) {
  v1::ResourcesSection& resources = *spec.mutable_resources();
  const std::string& name = resources.queue();
  GRAFT_ASSIGN_OR_RETURN(
      const v1::Queue queue,
      ReadResource<v1::Queue>(turn, absl::StrCat("queue/", IdOf(name, 1)), name));
  if (queue.state() == v1::Queue::STATE_CLOSED) return QueueRefuses(name, "takes no jobs now");
  const bool admits =
      queue.shares().empty() ||
      std::any_of(queue.shares().begin(), queue.shares().end(), [&](const v1::Share& share) {
        return share.workspace() == absl::StrCat("workspaces/", workspace);
      });
  if (!admits) return QueueRefuses(name, "does not admit this workspace");
  for (const auto& [label, value] : queue.node_selector()) {
    const auto [asked, added] = resources.mutable_node_selector()->insert({label, value});
    if (added || asked->second == value) continue;
    return InvalidField("spec.resources.node_selector",
                        absl::StrCat("asks for ", label, "=", asked->second, "; ", name, " has ",
                                     label, "=", value));
  }
  const int priority = resources.priority();
  const bool inside = priority >= queue.min_job_priority() && priority <= queue.max_job_priority();
  if (!inside && call.identity->RoleInCluster() < rpc::Role::kOperator) {
    return rpc::ErrorBuilder(
               absl::StatusCode::kPermissionDenied,
               absl::StrCat("priority ", priority, " is outside of ", queue.min_job_priority(),
                            " to ", queue.max_job_priority(), ", which ", name,
                            " leaves to users; operators may go beyond"))
        .Reason("ROLE_MISSING")
        .Metadata("role", "operator")
        .Field("spec.resources.priority", "outside of the queue's bounds")
        .Build();
  }
  if (!resources.has_time_limit() && queue.has_default_time_limit()) {
    *resources.mutable_time_limit() = queue.default_time_limit();
  }
  const int64_t longest = queue.max_time_limit().seconds();
  const int64_t asked = resources.time_limit().seconds();
  if (longest == 0 || (asked > 0 && asked <= longest)) return absl::OkStatus();
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                           absl::StrCat(name, " lets jobs run for ", longest, " s at most"))
      .Reason("FIELD_INVALID")
      .Field("spec.resources.time_limit", absl::StrCat("must be set, and at most ", longest, " s"))
      .Build();
}

// Whether any device at all is of the kind that the gang wants.
bool HasDevices(const ClusterView& cluster, const GangRequest& gang) {
  const auto& pools = cluster.empty().pools();
  return std::any_of(pools.begin(), pools.end(), [&](const Topology::Pool& pool) {
    return pool.kind == gang.device_kind && pool.total > 0;
  });
}

struct Misfit {
  absl::string_view field;
  absl::string_view reason = "NEVER_FITS";
};

// What keeps a gang from ever starting.
Misfit MisfitOf(const ClusterView& cluster, const GangRequest& gang) {
  if (OnlyTpKeepsOut(cluster, gang)) {
    return {"spec.parallelism.tensor_parallel_size", "TP_ACROSS_DOMAINS"};
  }
  GangRequest loose = gang;
  loose.only_nodes.clear();
  if (!gang.only_nodes.empty() && FitsEmptyCluster(cluster, loose).ok()) {
    return {"spec.resources.nodes"};
  }
  loose = gang;
  loose.nodes = 0;
  if (gang.nodes == 0 || !FitsEmptyCluster(cluster, loose).ok()) return {"spec.parallelism"};
  const Funnel funnel = Measure(cluster, gang);
  return {funnel.nodes_large_enough == 0 ? "spec.parallelism.gpus_per_node"
                                         : "spec.parallelism.nodes"};
}

// The jobs that it is to start after are of its workspace, and may still complete.
void CheckAfter(const Store& store, const std::string& workspace, SpecCheck& check) {
  const v1::ResourcesSection& resources = check.resolved.resources();
  for (int i = 0; i < resources.after_size(); ++i) {
    const std::string& name = resources.after(i);
    const std::string field = absl::StrCat("spec.resources.after[", i, "]");
    const auto ids = ParseName(name, "workspaces/*/jobs/*");
    if (!ids.ok() || (*ids)[0] != workspace) {
      Violate(check, field, v1::REASON_FIELD_INVALID,
              absl::StrCat("is no job of workspaces/", workspace));
      continue;
    }
    const auto job = ReadResource<v1::Job>(store, JobRecordKey((*ids)[0], (*ids)[1]), name);
    if (!job.ok()) {
      Violate(check, field, v1::REASON_REFERENCE_NOT_FOUND, absl::StrCat("there is no ", name));
    } else if (job->status().state() == v1::JOB_STATE_FAILED ||
               job->status().state() == v1::JOB_STATE_CANCELLED) {
      Violate(check, field, v1::REASON_STATE_CONFLICT,
              absl::StrCat(name, " is ", v1::JobState_Name(job->status().state()).substr(10)));
    }
  }
}

// What a job leaves behind goes to the fileservice's disk: checkpoints, and the output. Blocking,
// now and then.
void WarnOfDisk(FileserviceLink& files, int64_t base_bytes, int64_t dataset_bytes,
                SpecCheck& check) {
  const bool all = check.resolved.tuning().type() == v1::FINETUNING_TYPE_ALL_WEIGHTS;
  const double factor = all ? kRoomForAllWeights : kRoomForLora;
  const double wanted =
      factor * static_cast<double>(base_bytes) + static_cast<double>(dataset_bytes);
  const absl::StatusOr<int64_t> free = files.FreeBytes();
  if (!free.ok() || static_cast<double>(*free) >= wanted) return;
  v1::Warning& warning = check.warnings.emplace_back();
  warning.set_code("DISK_TIGHT");
  warning.set_field("spec.output");
  warning.set_message(absl::StrFormat(
      "the fileservice's disk has %.2f GB free; %.1f times the base model and the dataset are "
      "%.2f GB",
      static_cast<double>(*free) / 1e9, factor, wanted / 1e9));
  warning.set_explanation(
      "Checkpoints and the output may not find room; delete old versions or keep fewer "
      "checkpoints.");
}

}  // namespace

SpecCheck JobService::CheckSpec(const rpc::Call& call, const v1::JobSpec& spec,
                                Prepared& prepared) {
  v1::JobSpec asked = spec;
  Violations template_violations;
  const auto used = ApplyTemplate(context_.store, prepared.workspace, asked, template_violations);
  const auto may_see = [&](const std::string& name) {
    return call.identity->RoleIn(IdOf(name, 1)) >= rpc::Role::kViewer;
  };
  absl::StatusOr<StartSource> start = absl::NotFoundError("");
  if (asked.model().has_start_from()) {
    start = FindStart(context_.store, may_see, *asked.mutable_model()->mutable_start_from());
    if (start.ok()) InheritFrom(*start, asked);
  }
  SpecCheck check = ResolveSpec(asked, static_cast<int64_t>(context_.random.Next() & 0x7fffffff));
  prepared.asked = asked.parallelism();
  if (used != nullptr) CheckLimits(used->limits(), check.resolved, template_violations);
  for (auto& violation : template_violations) check.violations.push_back(std::move(violation));
  const std::string& base = check.resolved.model().base();
  if (ParseName(base, "workspaces/*/models/*").ok()) {
    const auto model =
        ReadResource<v1::Model>(context_.store, ModelRecordKey(IdOf(base, 1), IdOf(base, 3)), base);
    if (!model.ok() || !may_see(base)) {
      Violate(check, "spec.model.base", v1::REASON_REFERENCE_NOT_FOUND,
              absl::StrCat("there is no ", base));
    } else if (model->state() != v1::Model::STATE_READY) {
      Violate(check, "spec.model.base", v1::REASON_STATE_CONFLICT,
              absl::StrCat(base, " is ", v1::Model::State_Name(model->state()).substr(6), ": ",
                           model->message()));
    } else {
      CheckAgainstModel(model->spec(), check);
      if (prepared.asked.has_expert_parallel_size()) {
        prepared.asked.set_expert_parallel_size(
            check.resolved.parallelism().expert_parallel_size());
      }
      prepared.model = model->spec();
    }
  }
  const auto resolve = [&](auto* sources, absl::string_view field) {
    for (int i = 0; i < sources->size(); ++i) {
      std::string& name = *(*sources)[i].mutable_fileset();
      if (!absl::StartsWith(name, "workspaces/")) continue;  // told already
      absl::StatusOr<FilesetVersion> version = absl::NotFoundError("");
      if (may_see(name)) version = context_.files.Resolve(name);
      if (!version.ok()) {
        const bool missing = absl::IsNotFound(version.status());
        Violate(check, absl::StrCat(field, "[", i, "].fileset"),
                missing ? v1::REASON_REFERENCE_NOT_FOUND : v1::REASON_DEPENDENCY_UNAVAILABLE,
                missing ? absl::StrCat("there is no ", name, ", or it has no version yet")
                        : std::string(version.status().message()));
        continue;
      }
      prepared.digests.emplace_back(version->name, version->digest);
      prepared.dataset_bytes += version->size_bytes;
      name = version->name;
    }
  };
  resolve(check.resolved.mutable_dataset()->mutable_training(), "spec.dataset.training");
  resolve(check.resolved.mutable_dataset()->mutable_validation(), "spec.dataset.validation");
  CheckAfter(context_.store, prepared.workspace, check);
  if (asked.model().has_start_from()) TakeStart(start, check, prepared);
  WarnOfDisk(context_.files, prepared.model.weight_bytes(), prepared.dataset_bytes, check);
  for (v1::Warning& warning : RecipeWarnings(check.resolved, {})) {
    check.warnings.push_back(std::move(warning));
  }
  if (check.resolved.strict()) {
    for (const v1::Warning& warning : check.warnings) {
      Violate(check, warning.field(), v1::REASON_STRICT_WARNING, warning.message());
    }
  }
  return check;
}

void JobService::TakeStart(const absl::StatusOr<StartSource>& start, SpecCheck& check,
                           Prepared& prepared) {
  constexpr char kField[] = "spec.model.start_from";
  if (!start.ok()) {
    const absl::Status& status = start.status();
    return Violate(check, kField,
                   absl::IsNotFound(status)             ? v1::REASON_REFERENCE_NOT_FOUND
                   : absl::IsFailedPrecondition(status) ? v1::REASON_STATE_CONFLICT
                                                        : v1::REASON_FIELD_INVALID,
                   status.message());
  }
  CheckStart(*start, check);
  const absl::StatusOr<FilesetVersion> version = context_.files.Resolve(start->version);
  if (!version.ok()) {
    return Violate(check, kField,
                   absl::IsNotFound(version.status()) ? v1::REASON_REFERENCE_NOT_FOUND
                                                      : v1::REASON_DEPENDENCY_UNAVAILABLE,
                   absl::StrCat("the files of ", start->name, ": ", version.status().message()));
  }
  prepared.digests.emplace_back(version->name, version->digest);
  if (check.resolved.model().start_from().with_optimizer_state()) {
    prepared.start = {.version = start->version, .step = start->step};
  }
}

absl::StatusOr<JobService::Prepared> JobService::Prepare(const rpc::Call& call,
                                                         const v1::CreateJobRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*"));
  const std::string id =
      request.job_id().empty() ? absl::StrCat("job-", context_.random.Id(8)) : request.job_id();
  GRAFT_RETURN_IF_ERROR(CheckId(id, "job_id"));
  Prepared prepared{.workspace = ids[0], .key = absl::StrCat(ids[0], "/", id)};
  SpecCheck check = CheckSpec(call, request.job().spec(), prepared);
  if (!check.violations.empty()) return ViolationsStatus(check.violations);
  if (check.resolved.output().name().empty()) {
    check.resolved.mutable_output()->set_name(DefaultOutputName(check.resolved, id));
  }
  v1::Job& body = prepared.body;
  body.set_name(JobNameOf(prepared.key));
  body.set_uid(context_.random.Id(24));
  body.set_creator(call.identity->subject);
  body.set_traceparent(call.traceparent);
  body.set_description(request.job().description());
  *body.mutable_labels() = request.job().labels();
  body.set_project(request.job().project());
  *body.mutable_spec() = request.job().spec();
  *body.mutable_resolved_spec() = check.resolved;
  for (v1::Warning& warning : check.warnings) *body.add_warnings() = std::move(warning);
  SetLayout(LayoutOf(check.resolved), *body.mutable_estimate()->mutable_layout());
  if (request.validate_only()) return prepared;
  // Pinned before the record that refers to them is committed.
  for (const auto& [version, digest] : prepared.digests) {
    GRAFT_RETURN_IF_ERROR(context_.files.PutPin(version, body.name()));
  }
  return prepared;
}

absl::StatusOr<JobRequest> JobService::RequestFor(const Core& core, Prepared& prepared) {
  v1::Job& body = prepared.body;
  const auto device = body.resolved_spec().resources().device();
  const ClusterView& cluster = core.cluster();
  const bool cpu = device == v1::ResourcesSection::DEVICE_CPU;
  JobRequest job =
      ToJobRequest(body.resolved_spec(), prepared.key, prepared.workspace, cpu ? "cpu" : "gpu");
  job.start_version = prepared.start.version;
  job.start_step = prepared.start.step;
  absl::Status fits = cpu ? FitsEmptyCluster(cluster, job.gang) : FitGpus(cluster, prepared, job);
  if (!fits.ok() && device <= v1::ResourcesSection::DEVICE_AUTO) {
    const bool had_gpus = HasDevices(cluster, job.gang);
    job.gang.device_kind = "cpu";
    const absl::Status on_cpus = FitsEmptyCluster(cluster, job.gang);
    if (on_cpus.ok() || !had_gpus) {
      fits = on_cpus;
      v1::Warning& warning = *body.add_warnings();
      warning.set_code("CPU_CHOSEN");
      warning.set_field("spec.resources.device");
      warning.set_message("no GPU of this cluster fits; the job runs on CPUs");
      warning.set_explanation(
          "Training on CPUs is slow; set device to gpu to wait for GPUs instead.");
    } else {
      job.gang.device_kind = "gpu";  // of which the error tells
    }
  }
  if (fits.ok() || cluster.nodes().empty()) return job;
  const Misfit misfit = MisfitOf(cluster, job.gang);
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                           absl::StrCat("the job can never start: ", fits.message()))
      .Reason(misfit.reason)
      .Field(misfit.field, fits.message())
      .Build();
}

// Chooses the layout where the user leaves it open and the model's facts are known.
absl::Status JobService::FitGpus(const ClusterView& cluster, Prepared& prepared, JobRequest& job) {
  const v1::ModelSpec& model = prepared.model;
  const bool known = model.parameters() > 0 && model.layers() > 0 && model.attention_heads() > 0;
  const bool tp_too_large =
      prepared.asked.has_tensor_parallel_size() && OnlyTpKeepsOut(cluster, job.gang);
  if (!known || tp_too_large || !LeavesLayoutOpen(prepared.asked) ||
      !HasDevices(cluster, job.gang)) {
    return FitsEmptyCluster(cluster, job.gang);
  }
  GRAFT_ASSIGN_OR_RETURN(
      ShapeChoice choice,
      ChooseLayout(prepared.asked, prepared.body.resolved_spec(), model, cluster, job.gang));
  // One that could never start is no choice.
  absl::Status first = absl::OkStatus();
  const auto misfit = [&](const Shape& shape) {
    GangRequest gang = job.gang;
    gang.layout = shape.layout;
    const absl::Status fits = FitsEmptyCluster(cluster, gang);
    first.Update(fits);
    return !fits.ok();
  };
  choice.shapes.erase(std::remove_if(choice.shapes.begin(), choice.shapes.end(), misfit),
                      choice.shapes.end());
  if (choice.shapes.empty()) return first;
  ApplyLayout(choice, job, prepared.body);
  return absl::OkStatus();
}

absl::StatusOr<v1::Job> JobService::Insert(Turn& turn, const rpc::Call& call,
                                           const v1::CreateJobRequest& request, Prepared prepared) {
  v1::Job& body = prepared.body;
  GRAFT_ASSIGN_OR_RETURN(const bool replayed, Replay(turn, call.identity->subject, call.method,
                                                     request.request_id(), request, body));
  if (replayed) return body;
  const std::vector<std::string> ids = absl::StrSplit(prepared.key, '/');
  const std::string key = JobRecordKey(ids[0], ids[1]);
  const v1::JobSpec& spec = body.resolved_spec();
  GRAFT_RETURN_IF_ERROR(CheckWorkspaceOpen(turn, ids[0]));
  if (Exists(turn, key)) return ResourceExists(body.name());
  GRAFT_RETURN_IF_ERROR(CheckQueue(turn, call, ids[0], *body.mutable_resolved_spec()));
  std::string output;
  const std::string output_key = OutputKey(spec, ids[0], &output);
  if (!spec.output().new_version() && Exists(turn, output_key)) return OutputExists(output);

  GRAFT_ASSIGN_OR_RETURN(JobRequest job, RequestFor(turn.core(), prepared));
  *body.mutable_create_time() = ToTimestamp(turn.now());
  *body.mutable_update_time() = body.create_time();
  if (request.validate_only()) return body;
  for (const auto& [version, digest] : prepared.digests) {
    turn.Put(Family::kRecords, absl::StrCat("version.digest/", version), digest);
  }
  job.needs_validation = !TakeFindings(turn, body) && context_.rows_first;
  job.expected_run_time = ExpectedRunTime(body);
  body.mutable_status()->set_state(job.needs_validation ? v1::JOB_STATE_CREATED
                                                        : v1::JOB_STATE_QUEUED);
  body.mutable_status()->set_message(
      job.needs_validation ? "waits for a worker to read its inputs through" : "waits for devices");
  *body.mutable_status()->mutable_state_time() = body.create_time();
  PutResource(turn, key, body);
  for (const std::string& index :
       {JobTimeKey(ids[0], ids[1], turn.now()), JobNewestKey(ids[0], ids[1], turn.now())}) {
    turn.Put(Family::kRecords, index, "");
  }
  RememberRequest(turn, call.identity->subject, call.method, request.request_id(), request, body);
  AuditCall(turn, call, body.name());
  GRAFT_RETURN_IF_ERROR(turn.Step(JobSubmitted{std::move(job)}));
  return body;
}

void JobService::Create(CallPtr call, v1::CreateJobRequest request, std::string forked_from,
                        rpc::Responder<v1::Job> responder) {
  // Shared with the closure that a std::function copies.
  auto answer = std::make_shared<rpc::Responder<v1::Job>>(std::move(responder));
  const absl::Status posted = context_.background.Post([=, this] {
    absl::StatusOr<Prepared> prepared = Prepare(*call, request);
    if (!prepared.ok()) return answer->Answer(prepared.status());
    prepared->body.set_forked_from(forked_from);
    prepared->body.set_fake_trainer(context_.fake_trainer);
    Mutate<v1::Job>(context_.control, std::move(*answer),
                    [this, call, request, prepared = *std::move(prepared)](Turn& turn) {
                      return Insert(turn, *call, request, prepared);
                    });
  });
  if (!posted.ok()) answer->Answer(posted);
}

void JobService::CreateJob(CallPtr call, const v1::CreateJobRequest& request,
                           rpc::Responder<v1::Job> responder) {
  Create(std::move(call), request, "", std::move(responder));
}

absl::StatusOr<SpecCheck> JobService::PrepareUnsubmitted(const rpc::Call& call,
                                                         const std::string& parent,
                                                         const v1::JobSpec& spec,
                                                         Prepared& prepared) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(parent, "workspaces/*"));
  prepared.workspace = ids[0];
  SpecCheck check = CheckSpec(call, spec, prepared);
  *prepared.body.mutable_resolved_spec() = check.resolved;
  SetLayout(LayoutOf(check.resolved), *prepared.body.mutable_estimate()->mutable_layout());
  return check;
}

void JobService::ValidateJob(CallPtr call, const v1::ValidateJobRequest& request,
                             rpc::Responder<v1::ValidateJobResponse> responder) {
  auto answer = std::make_shared<rpc::Responder<v1::ValidateJobResponse>>(std::move(responder));
  const absl::Status posted = context_.background.Post([this, call, request, answer] {
    Prepared prepared;
    auto check = PrepareUnsubmitted(*call, request.parent(), request.spec(), prepared);
    if (!check.ok()) return answer->Answer(check.status());
    // What the cluster says of it is asked on the loop.
    context_.control.Inspect(
        [answer, prepared, check = *std::move(check)](const Core& core) mutable {
          if (check.violations.empty()) {
            const auto fits = RequestFor(core, prepared);
            if (!fits.ok())
              Violate(check, "spec.parallelism", v1::REASON_NEVER_FITS, fits.status().message());
          }
          v1::ValidateJobResponse response;
          for (auto& violation : check.violations)
            *response.add_violations() = std::move(violation);
          for (auto& warning : check.warnings) *response.add_warnings() = std::move(warning);
          response.mutable_warnings()->MergeFrom(prepared.body.warnings());
          *response.mutable_resolved_spec() = prepared.body.resolved_spec();
          *response.mutable_estimate() = prepared.body.estimate();
          answer->Answer(std::move(response));
        });
  });
  if (!posted.ok()) answer->Answer(posted);
}

}  // namespace graft::scheduler
