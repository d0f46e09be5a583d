#include "scheduler/service/pins.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "graft/v1/job.pb.h"
#include "graft/v1/model.pb.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
// "version.given-up/{version}/{holder}" -> holder
constexpr absl::string_view kGivenUpPrefix = "version.given-up/";
constexpr int kGivenUpAtATime = 1000;
using Pin = std::pair<std::string, std::string>;  // version, holder

void Need(std::set<Pin>& needed, const std::string& version, const std::string& holder) {
  if (!version.empty()) needed.insert({version, holder});
}

void AddJob(const v1::Job& job, std::set<Pin>& needed) {
  const v1::DatasetSection& dataset = job.resolved_spec().dataset();
  for (const auto& source : dataset.training()) Need(needed, source.fileset(), job.name());
  for (const auto& source : dataset.validation()) Need(needed, source.fileset(), job.name());
  Need(needed, job.resolved_spec().model().start_from().fileset_version(), job.name());
  for (const v1::JobResult& result : job.status().results()) {
    Need(needed, result.fileset_version(), job.name());
  }
}

template <typename T, typename Add>
absl::Status ForEach(const Store& store, const std::string& prefix, const Add& add) {
  return ForEachRecord(store, {.prefix = prefix}, [&](const Record& record, int64_t) {
    T resource;
    GRAFT_RETURN_IF_ERROR(DecodeResource(record.key, record.value, resource));
    add(resource);
    return absl::OkStatus();
  });
}

// Every pin that the records stand for.
absl::StatusOr<std::set<Pin>> NeededPins(const Store& store) {
  std::set<Pin> needed;
  GRAFT_RETURN_IF_ERROR(
      ForEach<v1::Job>(store, "job/", [&](const v1::Job& job) { AddJob(job, needed); }));
  GRAFT_RETURN_IF_ERROR(ForEach<v1::Checkpoint>(store, "checkpoint/", [&](const auto& checkpoint) {
    const std::string& name = checkpoint.name();
    Need(needed, checkpoint.fileset_version(), name.substr(0, name.find("/checkpoints/")));
  }));
  GRAFT_RETURN_IF_ERROR(ForEach<v1::Model>(store, "model/", [&](const v1::Model& model) {
    Need(needed, model.fileset(), model.name());
  }));
  GRAFT_RETURN_IF_ERROR(ForEach<v1::Adapter>(store, "adapter/", [&](const v1::Adapter& adapter) {
    Need(needed, adapter.fileset(), adapter.name());
  }));
  return needed;
}

absl::Status Reconcile(const ServiceContext& context) {
  // The pins are read before the records: a pin whose record comes in between is needed below.
  GRAFT_ASSIGN_OR_RETURN(const auto pins, context.files.ListPins());
  GRAFT_ASSIGN_OR_RETURN(const std::set<Pin> needed, NeededPins(context.store));
  std::set<Pin> there;
  const absl::Time old = context.clock.WallNow() - kPinGrace;
  for (const FileserviceLink::PinInfo& pin : pins) {
    const Pin one{pin.version, pin.holder};
    there.insert(one);
    if (needed.contains(one) || pin.created > old) continue;
    GRAFT_RETURN_IF_ERROR(context.files.DeletePin(pin.version, pin.holder));
    LOG_INFO("took away a pin that nothing needs",
             {{"version", pin.version}, {"holder", pin.holder}});
  }
  for (const Pin& one : needed) {
    if (there.contains(one)) continue;
    const absl::Status put = context.files.PutPin(one.first, one.second);
    if (!put.ok() && !absl::IsNotFound(put)) return put;
  }
  return absl::OkStatus();
}

absl::Status DeleteGivenUp(const ServiceContext& context) {
  GRAFT_ASSIGN_OR_RETURN(const auto page, context.store.List({.prefix = std::string(kGivenUpPrefix),
                                                              .limit = kGivenUpAtATime}));
  std::vector<std::string> done;
  absl::Status first;
  for (const Record& record : page.records) {
    const size_t end = record.key.size() - record.value.size() - 1;
    const std::string version =
        record.key.substr(kGivenUpPrefix.size(), end - kGivenUpPrefix.size());
    absl::Status status = context.files.DeletePin(version, record.value);
    if (status.ok()) status = context.files.DeleteVersion(version);
    // Whoever else holds it gives it up in turn.
    if (status.ok() || absl::IsNotFound(status) || absl::IsFailedPrecondition(status)) {
      done.push_back(record.key);
    } else {
      first.Update(status);
    }
  }
  if (done.empty()) return first;
  context.control.Submit({.work = [done](Turn& turn) {
    for (const std::string& key : done) turn.Remove(Family::kRecords, key);
    return absl::OkStatus();
  }});
  return first;
}

}  // namespace

void GiveUpVersion(Turn& turn, const std::string& version, const std::string& holder) {
  if (version.empty()) return;
  turn.Put(Family::kRecords, absl::StrCat(kGivenUpPrefix, version, "/", holder), holder);
}

void ReconcilePins(const ServiceContext& context) {
  if (context.fileservice_address.empty()) return;
  absl::Status status = DeleteGivenUp(context);
  status.Update(Reconcile(context));
  if (!status.ok()) {
    LOG_WARNING("pins were not reconciled; it is tried again", {{"why", status.message()}});
  }
}

}  // namespace graft::scheduler
