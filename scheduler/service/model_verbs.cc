// ModelService: what is changed of models and adapters, and adapters that were made elsewhere.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "rpc/status.h"
#include "scheduler/service/adapter_check.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/model_service.h"
#include "scheduler/service/names.h"
#include "scheduler/service/standard.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr char kModelName[] = "workspaces/*/models/*";
constexpr char kAdapterName[] = "workspaces/*/models/*/adapters/*";

template <typename Mask>
bool Names(const Mask& mask, absl::string_view path) {
  return std::find(mask.paths().begin(), mask.paths().end(), path) != mask.paths().end();
}

// Whether an update with this mask sets the fileset.
template <typename Resource, typename Mask>
bool SetsFileset(const Resource& sent, const Mask& mask) {
  return mask.paths().empty() ? !sent.fileset().empty() : Names(mask, "fileset");
}

}  // namespace

// The files are read before the turn, which then only puts in what was found.
void ModelService::UpdateModel(CallPtr call, const v1::UpdateModelRequest& request,
                               rpc::Responder<v1::Model> responder) {
  auto answer = std::make_shared<rpc::Responder<v1::Model>>(std::move(responder));
  const absl::Status posted = context_.background.Post([this, call, request, answer] {
    LinkedModel linked;
    if (SetsFileset(request.model(), request.update_mask())) {
      auto read = ReadFiles(*call, request.model().fileset(), request.model().name(),
                            request.validate_only());
      if (!read.ok()) return answer->Answer(read.status());
      linked = *std::move(read);
    }
    Mutate<v1::Model>(
        context_.control, std::move(*answer),
        [call, request, linked](Turn& turn) -> absl::StatusOr<v1::Model> {
          GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.model().name(), kModelName));
          const auto keep = [&](v1::Model& model) {
            if (linked.version.empty()) return absl::OkStatus();
            model.set_fileset(linked.version);
            *model.mutable_spec() = linked.spec;
            turn.Put(Family::kRecords, absl::StrCat("version.digest/", linked.version),
                     linked.digest);
            return absl::OkStatus();
          };
          return UpdateIn<v1::Model>(turn, *call, ModelRecordKey(ids[0], ids[1]), request.model(),
                                     request.update_mask(), keep, request.validate_only());
        });
  });
  if (!posted.ok()) answer->Answer(posted);
}

// --- Adapters ---

absl::StatusOr<ModelService::LinkedAdapter> ModelService::CheckFiles(const rpc::Call& call,
                                                                     const std::string& base_name,
                                                                     const std::string& fileset) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(base_name, kModelName));
  GRAFT_ASSIGN_OR_RETURN(
      const v1::Model base,
      ReadResource<v1::Model>(context_.store, ModelRecordKey(ids[0], ids[1]), base_name));
  GRAFT_ASSIGN_OR_RETURN(const FilesetVersion version, ResolveFor(call, fileset, "adapter"));
  GRAFT_ASSIGN_OR_RETURN(const auto base_files, context_.files.OpenModel(base.fileset()));
  GRAFT_ASSIGN_OR_RETURN(const spec::ModelDescription described, spec::ReadModel(*base_files));
  GRAFT_ASSIGN_OR_RETURN(const auto files, context_.files.OpenModel(version.name));
  GRAFT_ASSIGN_OR_RETURN(const AdapterFacts facts, CheckAdapter(*files, described));
  LinkedAdapter linked{.version = version.name, .digest = version.digest};
  linked.facts.set_fileset(version.name);
  linked.facts.set_finetuning_type(v1::FINETUNING_TYPE_LORA);
  linked.facts.set_rank(facts.rank);
  linked.facts.set_alpha(facts.alpha);
  for (const std::string& module : facts.target_modules) linked.facts.add_target_modules(module);
  linked.facts.set_rslora(facts.rslora);
  linked.facts.set_dora(facts.dora);
  linked.facts.set_base_version(base.fileset());
  return linked;
}

namespace {

// What the files say replaces what the adapter said of them.
void TakeFacts(const v1::Adapter& facts, v1::Adapter& adapter) {
  adapter.set_fileset(facts.fileset());
  adapter.set_finetuning_type(facts.finetuning_type());
  adapter.set_rank(facts.rank());
  adapter.set_alpha(facts.alpha());
  *adapter.mutable_target_modules() = facts.target_modules();
  adapter.set_rslora(facts.rslora());
  adapter.set_dora(facts.dora());
  adapter.set_base_version(facts.base_version());
}

}  // namespace

void ModelService::CreateAdapter(CallPtr call, const v1::CreateAdapterRequest& request,
                                 rpc::Responder<v1::Adapter> responder) {
  auto answer = std::make_shared<rpc::Responder<v1::Adapter>>(std::move(responder));
  const std::string id = request.adapter_id().empty()
                             ? absl::StrCat("adapter-", context_.random.Id(8))
                             : request.adapter_id();
  const absl::Status posted = context_.background.Post([this, call, request, answer, id] {
    if (absl::Status ok = CheckId(id, "adapter_id"); !ok.ok()) return answer->Answer(ok);
    auto linked = CheckFiles(*call, request.parent(), request.adapter().fileset());
    if (!linked.ok()) return answer->Answer(linked.status());
    v1::Adapter adapter = request.adapter();
    ClearOutputOnly(adapter);
    adapter.set_name(absl::StrCat(request.parent(), "/adapters/", id));
    if (!adapter.has_enabled()) adapter.set_enabled(true);
    TakeFacts(linked->facts, adapter);
    if (!request.validate_only()) {
      const absl::Status pinned = context_.files.PutPin(linked->version, adapter.name());
      if (!pinned.ok()) return answer->Answer(pinned);
    }
    Mutate<v1::Adapter>(
        context_.control, std::move(*answer),
        [call, request, adapter, linked = *linked,
         uid = context_.random.Id(24)](Turn& turn) -> absl::StatusOr<v1::Adapter> {
          const std::vector<std::string> parts = absl::StrSplit(adapter.name(), '/');
          GRAFT_RETURN_IF_ERROR(CheckWorkspaceOpen(turn, parts[1]));
          if (!Exists(turn, ModelRecordKey(parts[1], parts[3]))) {
            return NoSuchResource(request.parent());
          }
          return CreateIn(
              turn, *call, request, AdapterRecordKey(parts[1], parts[3], parts[5]), adapter,
              {.uid = uid, .validate_only = request.validate_only(), .on_new = [&](Turn& now) {
                 now.Put(Family::kRecords, absl::StrCat("version.digest/", linked.version),
                         linked.digest);
               }});
        });
  });
  if (!posted.ok()) answer->Answer(posted);
}

void ModelService::UpdateAdapter(CallPtr call, const v1::UpdateAdapterRequest& request,
                                 rpc::Responder<v1::Adapter> responder) {
  auto answer = std::make_shared<rpc::Responder<v1::Adapter>>(std::move(responder));
  const absl::Status posted = context_.background.Post([this, call, request, answer] {
    LinkedAdapter linked;
    const std::string& name = request.adapter().name();
    if (SetsFileset(request.adapter(), request.update_mask())) {
      auto read =
          CheckFiles(*call, name.substr(0, name.find("/adapters/")), request.adapter().fileset());
      if (!read.ok()) return answer->Answer(read.status());
      linked = *std::move(read);
      const absl::Status pinned = context_.files.PutPin(linked.version, name);
      if (!pinned.ok()) return answer->Answer(pinned);
    }
    Mutate<v1::Adapter>(
        context_.control, std::move(*answer),
        [call, request, linked](Turn& turn) -> absl::StatusOr<v1::Adapter> {
          GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.adapter().name(), kAdapterName));
          const auto keep = [&](v1::Adapter& adapter) {
            if (linked.version.empty()) return absl::OkStatus();
            TakeFacts(linked.facts, adapter);
            turn.Put(Family::kRecords, absl::StrCat("version.digest/", linked.version),
                     linked.digest);
            return absl::OkStatus();
          };
          return UpdateIn<v1::Adapter>(turn, *call, AdapterRecordKey(ids[0], ids[1], ids[2]),
                                       request.adapter(), request.update_mask(), keep);
        });
  });
  if (!posted.ok()) answer->Answer(posted);
}

}  // namespace graft::scheduler
