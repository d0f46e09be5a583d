#include "scheduler/service/start_from.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "google/protobuf/util/field_mask_util.h"
#include "google/protobuf/util/message_differencer.h"
#include "graft/v1/model.pb.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::util::FieldMaskUtil;
using google::protobuf::util::MessageDifferencer;

// What an adapter's numbers mean nothing without.
constexpr const char* kLoraFields[] = {"rank",
                                       "alpha",
                                       "target_modules",
                                       "exclude_modules",
                                       "layers_to_transform",
                                       "modules_to_save",
                                       "rslora",
                                       "dora",
                                       "bias"};
// Sections of a specification that a checkpoint's state does not depend on.
constexpr const char* kFreeSections[] = {"parallelism", "resources", "output", "evaluation",
                                         "integrations"};
// And fields of others.
constexpr const char* kFreeFields[] = {"schedule.val_check_interval",
                                       "schedule.checkpoint_interval",
                                       "schedule.keep_checkpoints",
                                       "schedule.log_interval",
                                       "schedule.early_stopping",
                                       "compute.threads",
                                       "strict",
                                       "template",
                                       "model.start_from"};

bool HasValue(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  return field.is_repeated() ? reflection.FieldSize(message, &field) > 0
                             : reflection.HasField(message, &field);
}

// Where it is set.
void CopyField(const v1::Lora& from, const std::string& name, v1::Lora& to) {
  google::protobuf::FieldMask mask;
  mask.add_paths(name);
  FieldMaskUtil::MergeMessageTo(from, mask, {}, &to);
}

// The path of the first field below `path` in which they differ, but for free ones.
std::string FirstOtherField(const Message& a, const Message& b, const std::string& path) {
  const Reflection& reflection = *a.GetReflection();
  for (int i = 0; i < a.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *a.GetDescriptor()->field(i);
    const std::string here =
        path.empty() ? std::string(field.name()) : absl::StrCat(path, ".", field.name());
    if (KeepsState(here)) continue;
    MessageDifferencer differencer;
    if (differencer.CompareWithFields(a, b, {&field}, {&field})) continue;
    const bool inside = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
                        !field.is_repeated() && reflection.HasField(a, &field) &&
                        reflection.HasField(b, &field);
    if (!inside) return here;
    const std::string below =
        FirstOtherField(reflection.GetMessage(a, &field), reflection.GetMessage(b, &field), here);
    if (!below.empty()) return below;
  }
  return "";
}

// Of an adapter that was made elsewhere less is known; its tensors are compared by the trainer.
std::vector<std::string> DifferingLora(const StartSource& source, const v1::Lora& ours) {
  const v1::Lora& theirs = source.tuning.lora();
  std::vector<std::string> names;
  for (const char* name : kLoraFields) {
    const FieldDescriptor& field = *v1::Lora::descriptor()->FindFieldByName(name);
    if (!source.made_by.has_value() && !HasValue(theirs, field)) continue;
    MessageDifferencer differencer;
    if (!differencer.CompareWithFields(theirs, ours, {&field}, {&field})) names.push_back(name);
  }
  return names;
}

absl::Status NoSuch(absl::string_view name) {
  return absl::NotFoundError(absl::StrCat("there is no ", name));
}

absl::StatusOr<v1::Job> ReadJob(const Store& store, const MaySee& may_see,
                                const std::string& name) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*/jobs/*"));
  auto job = ReadResource<v1::Job>(store, JobRecordKey(ids[0], ids[1]), name);
  if (!job.ok() || !may_see(name)) return NoSuch(name);
  return job;
}

void MadeBy(const v1::Job& job, StartSource& source) {
  source.made_by = job.resolved_spec();
  source.base = job.resolved_spec().model().base();
  source.tuning = job.resolved_spec().tuning();
}

absl::StatusOr<StartSource> FromAdapter(const Store& store, const MaySee& may_see,
                                        const std::string& name) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*/models/*/adapters/*"));
  const auto adapter =
      ReadResource<v1::Adapter>(store, AdapterRecordKey(ids[0], ids[1], ids[2]), name);
  if (!adapter.ok() || !may_see(name)) return NoSuch(name);
  StartSource source{
      .name = name, .base = name.substr(0, name.find("/adapters/")), .version = adapter->fileset()};
  if (const auto job = ReadJob(store, may_see, adapter->job()); job.ok()) {
    source.tuning = job->resolved_spec().tuning();
    return source;
  }
  source.tuning.set_type(v1::FINETUNING_TYPE_LORA);
  v1::Lora& lora = *source.tuning.mutable_lora();
  lora.set_rank(adapter->rank());
  lora.set_alpha(adapter->alpha());
  lora.set_rslora(adapter->rslora());
  lora.set_dora(adapter->dora());
  *lora.mutable_target_modules() = adapter->target_modules();
  return source;
}

absl::StatusOr<StartSource> FromJob(const Store& store, const MaySee& may_see,
                                    v1::StartFrom& from) {
  GRAFT_ASSIGN_OR_RETURN(const v1::Job job, ReadJob(store, may_see, from.job()));
  for (const v1::JobResult& result : job.status().results()) {
    if (result.kind() == v1::JobResult::KIND_ADAPTER) {
      from.set_adapter(result.resource());
      return FromAdapter(store, may_see, from.adapter());
    }
    if (result.kind() == v1::JobResult::KIND_MODEL) {
      StartSource source{
          .name = result.resource(), .version = result.fileset_version(), .model = true};
      MadeBy(job, source);
      return source;
    }
  }
  return absl::FailedPreconditionError(
      absl::StrCat(job.name(), " has made nothing yet; name one of its checkpoints"));
}

absl::StatusOr<StartSource> FromCheckpoint(const Store& store, const MaySee& may_see,
                                           v1::StartFrom& from) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids,
                         ParseName(from.checkpoint(), "workspaces/*/jobs/*/checkpoints/*"));
  GRAFT_ASSIGN_OR_RETURN(
      const v1::Job job,
      ReadJob(store, may_see, absl::StrCat("workspaces/", ids[0], "/jobs/", ids[1])));
  GRAFT_ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, FindCheckpoint(store, job, ids[2]));
  from.set_checkpoint(checkpoint.name());
  StartSource source{.name = checkpoint.name(),
                     .version = checkpoint.fileset_version(),
                     .checkpoint = true,
                     .step = checkpoint.step()};
  MadeBy(job, source);
  return source;
}

}  // namespace

bool TakesWeights(const v1::StartFrom& from) {
  return from.has_adapter() || (from.has_checkpoint() && !from.with_optimizer_state());
}

bool StartsFromModel(const v1::StartFrom& from) {
  return from.source_case() == v1::StartFrom::kJob;
}

absl::StatusOr<v1::Checkpoint> FindCheckpoint(const Store& store, const v1::Job& job,
                                              const std::string& point) {
  std::string name = absl::StrCat(job.name(), "/checkpoints/", point);
  if (point == "latest") name = job.status().latest_checkpoint();
  if (point == "best") name = job.status().best_checkpoint();
  int64_t step = 0;
  if (absl::SimpleAtoi(name.substr(name.rfind('/') + 1), &step)) {
    v1::Checkpoint checkpoint;
    const auto record =
        store.Get(Family::kRecords, CheckpointRecordKey(JobKeyOf(job.name()), step));
    if (record.ok() && DecodeResource(record->key, record->value, checkpoint).ok()) {
      return checkpoint;
    }
  }
  return absl::NotFoundError(absl::StrCat(job.name(), " has no checkpoint '", point,
                                          "'; `graft job checkpoints` (ListCheckpoints) shows "
                                          "their steps; best and latest name one, too"));
}

absl::StatusOr<StartSource> FindStart(const Store& store, const MaySee& may_see,
                                      v1::StartFrom& from) {
  absl::StatusOr<StartSource> source =
      absl::InvalidArgumentError("names nothing; set adapter, job or checkpoint");
  if (from.has_adapter()) source = FromAdapter(store, may_see, from.adapter());
  if (from.has_job()) source = FromJob(store, may_see, from);
  if (from.has_checkpoint()) source = FromCheckpoint(store, may_see, from);
  if (!source.ok()) return source;
  if (from.with_optimizer_state() && !source->checkpoint) {
    return absl::InvalidArgumentError(
        absl::StrCat("with_optimizer_state: ", source->name, " has none; only a checkpoint has"));
  }
  if (!from.fileset_version().empty()) {  // as an earlier job resolved it
    GRAFT_RETURN_IF_ERROR(
        ParseName(from.fileset_version(), "workspaces/*/filesets/*/versions/*").status());
    if (!may_see(from.fileset_version())) return NoSuch(from.fileset_version());
    source->version = from.fileset_version();
  }
  from.set_fileset_version(source->version);
  return source;
}

void InheritFrom(const StartSource& source, v1::JobSpec& asked) {
  v1::TuningSection& tuning = *asked.mutable_tuning();
  if (!tuning.has_type()) tuning.set_type(source.tuning.type());
  if (asked.model().start_from().with_optimizer_state() && !asked.schedule().has_seed()) {
    asked.mutable_schedule()->set_seed(source.made_by->schedule().seed());
  }
  if (source.model || tuning.type() == v1::FINETUNING_TYPE_ALL_WEIGHTS) return;
  v1::Lora& lora = *tuning.mutable_lora();
  for (const char* name : kLoraFields) {
    const FieldDescriptor& field = *v1::Lora::descriptor()->FindFieldByName(name);
    if (!HasValue(lora, field)) CopyField(source.tuning.lora(), name, lora);
  }
}

void CheckStart(const StartSource& source, SpecCheck& check) {
  const v1::JobSpec& spec = check.resolved;
  const auto violate = [&check](absl::string_view field, const std::string& message) {
    auto& violation = check.violations.emplace_back();
    violation.set_field(std::string(field));
    violation.set_reason(v1::REASON_FIELD_INVALID);
    violation.set_message(message);
  };
  constexpr char kField[] = "spec.model.start_from";
  if (spec.model().base() != source.base) {
    return violate(kField, absl::StrCat("is of ", source.base, ", not of ", spec.model().base()));
  }
  if (source.model && spec.tuning().type() == v1::FINETUNING_TYPE_LORA) {
    return violate(kField, absl::StrCat("made ", source.name, ", a whole model: an adapter of it ",
                                        "needs it as spec.model.base"));
  }
  if (source.model) return;
  const bool all = spec.tuning().type() == v1::FINETUNING_TYPE_ALL_WEIGHTS;
  if (all != (source.tuning.type() == v1::FINETUNING_TYPE_ALL_WEIGHTS)) {
    return violate("spec.tuning.type",
                   all ? absl::StrCat("is all_weights; ", source.name, " holds an adapter alone")
                       : absl::StrCat("is not all_weights, which ", source.name, " is of"));
  }
  for (const std::string& name :
       all ? std::vector<std::string>() : DifferingLora(source, spec.tuning().lora())) {
    violate(absl::StrCat("spec.tuning.lora.", name),
            absl::StrCat("must be as ", source.name, " was made; left out it is taken from there"));
  }
  if (!spec.model().start_from().with_optimizer_state()) return;
  const std::string differs = FirstOtherField(*source.made_by, spec, "");
  if (differs.empty()) return;
  violate(absl::StrCat("spec.", differs),
          absl::StrCat("is not that of ", source.name, ", whose optimizer state goes on under the ",
                       "same alone; without with_optimizer_state its weights are taken"));
}

bool KeepsState(absl::string_view path) {
  const auto covers = [path](absl::string_view free) {
    return path == free || absl::StartsWith(path, absl::StrCat(free, "."));
  };
  return std::any_of(std::begin(kFreeSections), std::end(kFreeSections), covers) ||
         std::any_of(std::begin(kFreeFields), std::end(kFreeFields), covers);
}

}  // namespace graft::scheduler
