#include "scheduler/service/model_service.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "graft/v1/job.pb.h"
#include "rpc/status.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/references.h"
#include "scheduler/service/standard.h"
#include "worker/spec/estimate.h"
#include "worker/spec/layout.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::Empty;

v1::Precision PrecisionOf(const spec::ModelFacts& facts) {
  static constexpr std::pair<absl::string_view, v1::Precision> kNames[] = {
      {"BF16", v1::PRECISION_BF16}, {"F16", v1::PRECISION_FP16}, {"F32", v1::PRECISION_FP32}};
  for (const auto& [name, precision] : kNames) {
    if (facts.precision == name) return precision;
  }
  if (absl::StartsWith(facts.precision, "Q4") || absl::StartsWith(facts.precision, "MXFP4")) {
    return v1::PRECISION_INT4;
  }
  if (absl::StartsWith(facts.precision, "Q8")) return v1::PRECISION_INT8;
  return v1::PRECISION_MIXED;
}

absl::Status CountAdapters(const Store& store, v1::Model& model) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(model.name(), "workspaces/*/models/*"));
  GRAFT_ASSIGN_OR_RETURN(
      const ListResult adapters,
      store.List({.prefix = absl::StrCat("adapter/", ids[0], "/", ids[1], "/")}));
  model.set_adapter_count(static_cast<int32_t>(adapters.records.size()));
  return absl::OkStatus();
}

// Why a model's files cannot be used, as the contract's reasons.
absl::Status Unusable(const absl::Status& status, const std::string& version) {
  const bool remote = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
  if (remote) return status;
  const bool code = absl::StrContains(status.message(), "auto_map");
  const bool unsupported = absl::IsUnimplemented(status);
  return rpc::ErrorBuilder(
             absl::StatusCode::kFailedPrecondition,
             absl::StrCat("the files of ", version, " cannot be used: ", status.message()))
      .Reason(code ? "MODEL_NEEDS_CODE" : (unsupported ? "MODEL_UNSUPPORTED" : "MODEL_UNREADABLE"))
      .Metadata("cause", status.message())
      .Build();
}

std::vector<std::string> TunedFrom(Turn& turn, const std::string& base) {
  std::vector<std::string> names;
  const auto models = turn.List("model/");
  for (const Record& record : models.ok() ? *models : std::vector<Record>()) {
    const auto model = ToResource<v1::Model>(record);
    if (model.ok() && model->base_model() == base) names.push_back(model->name());
  }
  return names;
}

// By suffix and shape, in the order of the first layer that has them.
void AddLinearLayers(const spec::ModelDescription& model, v1::ModelSpec& out) {
  for (const spec::HubLinear& linear : spec::HubLinears(model)) {
    const std::string name = linear.module.substr(linear.module.rfind('.') + 1);
    auto& known = *out.mutable_linear_layers();
    auto same = std::find_if(known.begin(), known.end(), [&](const auto& one) {
      return one.name() == name && one.in_features() == linear.in &&
             one.out_features() == linear.out;
    });
    if (same == known.end()) {
      v1::ModelSpec::LinearLayer& layer = *known.Add();
      layer.set_name(name);
      layer.set_in_features(linear.in);
      layer.set_out_features(linear.out);
      layer.set_count(1);
    } else {
      same->set_count(same->count() + 1);
    }
  }
}

// As many of an expert's width as every token passes.
int32_t SharedExperts(const spec::MoeSpec& moe) {
  if (moe.shared_ffn == 0) return 0;
  const bool even = moe.expert_ffn > 0 && moe.shared_ffn % moe.expert_ffn == 0;
  return even ? static_cast<int32_t>(moe.shared_ffn / moe.expert_ffn) : 1;
}

}  // namespace

v1::ModelSpec ToApi(const spec::ModelDescription& model) {
  const spec::DecoderSpec& decoder = model.spec;
  v1::ModelSpec out;
  out.set_family(decoder.model_type);
  out.set_architecture(model.facts.architecture);
  out.set_format(model.format == spec::FileFormat::kGguf ? v1::ModelSpec::FORMAT_GGUF
                                                         : v1::ModelSpec::FORMAT_SAFETENSORS);
  out.set_parameters(model.facts.parameters);
  out.set_layers(static_cast<int32_t>(decoder.num_layers()));
  out.set_hidden_size(decoder.hidden);
  if (!decoder.layers.empty()) {
    out.set_intermediate_size(decoder.layers[0].ffn);
    out.set_sliding_window(decoder.layers[0].sliding_window);
  }
  out.set_attention_heads(static_cast<int32_t>(decoder.attention.heads));
  out.set_kv_heads(static_cast<int32_t>(decoder.attention.kv_heads));
  out.set_head_dim(static_cast<int32_t>(decoder.attention.head_dim));
  out.set_context_length(decoder.context);
  out.set_vocabulary_size(decoder.vocab);
  out.set_precision(PrecisionOf(model.facts));
  out.set_tied_embeddings(decoder.tied_embeddings);
  if (decoder.is_moe()) {
    out.mutable_experts()->set_count(static_cast<int32_t>(decoder.moe.experts));
    out.mutable_experts()->set_per_token(static_cast<int32_t>(decoder.moe.experts_per_token));
    out.mutable_experts()->set_intermediate_size(decoder.moe.expert_ffn);
    out.mutable_experts()->set_active_parameters(model.facts.active_parameters);
    out.mutable_experts()->set_shared(SharedExperts(decoder.moe));
  }
  AddLinearLayers(model, out);
  if (!decoder.ropes.empty()) out.set_rope(spec::RopeKindName(decoder.ropes[0].kind));
  out.set_tokenizer(model.facts.tokenizer);
  out.set_chat_template(model.facts.chat_template);
  out.set_supports_tools(model.facts.supports_tools);
  out.set_supports_system(model.facts.supports_system);
  out.set_weight_bytes(model.facts.weight_bytes);
  const spec::CostModel cost(model);
  for (const spec::CardSize& card : spec::CardSizes()) {
    v1::ModelSpec::DeviceNeed& need = *out.add_device_needs();
    need.set_memory_gib(static_cast<int32_t>(card.gigabytes));
    const auto least = [&](spec::Tuning tuning) {
      return static_cast<int32_t>(cost.FindLeastGpus(tuning, card.bytes).gpus);
    };
    need.set_lora(least(spec::Tuning::kLora));
    need.set_all_weights(least(spec::Tuning::kAllWeights));
  }
  for (int tp = 1; tp <= decoder.attention.heads; ++tp) {
    if (spec::TensorParallelDivides(decoder, tp)) out.add_tensor_parallel_sizes(tp);
  }
  return out;
}

rpc::Service ModelService::Bind() {
  rpc::Service service("graft.v1.ModelService");
  service.Async("CreateModel", this, &ModelService::CreateModel)
      .Unary("GetModel", this, &ModelService::GetModel)
      .Unary("ListModels", this, &ModelService::ListModels)
      .Async("UpdateModel", this, &ModelService::UpdateModel)
      .Async("CreateAdapter", this, &ModelService::CreateAdapter)
      .Async("UpdateAdapter", this, &ModelService::UpdateAdapter)
      .Async("DeleteModel", this, &ModelService::DeleteModel)
      .Unary("GetAdapter", this, &ModelService::GetAdapter)
      .Unary("ListAdapters", this, &ModelService::ListAdapters)
      .Async("DeleteAdapter", this, &ModelService::DeleteAdapter)
      .Async("EnableAdapter", this, &ModelService::EnableAdapter)
      .Async("DisableAdapter", this, &ModelService::DisableAdapter);
  return service;
}

absl::StatusOr<FilesetVersion> ModelService::ResolveFor(const rpc::Call& call,
                                                        const std::string& fileset,
                                                        absl::string_view what) {
  const std::vector<std::string> parts = absl::StrSplit(fileset, '/');
  if (parts.size() < 4 || parts[0] != "workspaces" || parts[2] != "filesets") {
    const std::string field = absl::StrCat(what, ".fileset");
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                             absl::StrCat(field, " names a fileset or one of its versions"))
        .Reason("FIELD_REQUIRED")
        .Field(field, "workspaces/{workspace}/filesets/{fileset}[/versions/{version}]")
        .Build();
  }
  if (call.identity->RoleIn(parts[1]) < rpc::Role::kViewer) return NoSuchResource(fileset);
  return context_.files.Resolve(fileset);
}

absl::StatusOr<ModelService::LinkedModel> ModelService::ReadFiles(const rpc::Call& call,
                                                                  const std::string& fileset,
                                                                  const std::string& holder,
                                                                  bool validate_only) {
  GRAFT_ASSIGN_OR_RETURN(const FilesetVersion version, ResolveFor(call, fileset, "model"));
  GRAFT_ASSIGN_OR_RETURN(const auto files, context_.files.OpenModel(version.name));
  const absl::StatusOr<spec::ModelDescription> read = spec::ReadModel(*files);
  if (!read.ok()) return Unusable(read.status(), version.name);
  if (!validate_only) GRAFT_RETURN_IF_ERROR(context_.files.PutPin(version.name, holder));
  return LinkedModel{version.name, version.digest, ToApi(*read)};
}

void ModelService::CreateModel(CallPtr call, const v1::CreateModelRequest& request,
                               rpc::Responder<v1::Model> responder) {
  auto answer = std::make_shared<rpc::Responder<v1::Model>>(std::move(responder));
  const std::string id = request.model_id().empty() ? absl::StrCat("model-", context_.random.Id(8))
                                                    : request.model_id();
  const absl::Status posted = context_.background.Post([this, call, request, answer, id] {
    if (absl::Status ok = CheckId(id, "model_id"); !ok.ok()) return answer->Answer(ok);
    v1::Model model = request.model();
    ClearOutputOnly(model);
    model.set_name(absl::StrCat(request.parent(), "/models/", id));
    const auto linked = ReadFiles(*call, model.fileset(), model.name(), request.validate_only());
    if (!linked.ok()) return answer->Answer(linked.status());
    model.set_fileset(linked->version);
    *model.mutable_spec() = linked->spec;
    model.set_state(v1::Model::STATE_READY);
    model.set_serving_state(v1::Model::SERVING_STATE_COLD);
    Mutate<v1::Model>(
        context_.control, std::move(*answer),
        [call, request, model, linked = *linked,
         uid = context_.random.Id(24)](Turn& turn) -> absl::StatusOr<v1::Model> {
          GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(model.name(), "workspaces/*/models/*"));
          GRAFT_RETURN_IF_ERROR(CheckWorkspaceOpen(turn, ids[0]));
          return CreateIn(
              turn, *call, request, ModelRecordKey(ids[0], ids[1]), model,
              {.uid = uid, .validate_only = request.validate_only(), .on_new = [&](Turn& now) {
                 now.Put(Family::kRecords, absl::StrCat("version.digest/", linked.version),
                         linked.digest);
               }});
        });
  });
  if (!posted.ok()) answer->Answer(posted);
}

absl::StatusOr<v1::Model> ModelService::GetModel(const rpc::Call&,
                                                 const v1::GetModelRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "workspaces/*/models/*"));
  GRAFT_RETURN_IF_ERROR(CheckReadMask(request.read_mask(), *v1::Model::descriptor()));
  GRAFT_ASSIGN_OR_RETURN(
      v1::Model model,
      ReadResource<v1::Model>(context_.store, ModelRecordKey(ids[0], ids[1]), request.name()));
  GRAFT_RETURN_IF_ERROR(CountAdapters(context_.store, model));
  ApplyReadMask(request.read_mask(), model);
  return model;
}

absl::StatusOr<v1::ListModelsResponse> ModelService::ListModels(
    const rpc::Call& call, const v1::ListModelsRequest& request) {
  static const ListFields kFields{.filter = {{"name"},
                                             {"state"},
                                             {"project"},
                                             {"creator"},
                                             {"labels"},
                                             {"base_model"},
                                             {"finetuning_type"},
                                             {"spec.family"},
                                             {"spec.parameters"},
                                             {"create_time"},
                                             {"update_time"}},
                                  .order = {"name", "create_time", "update_time"}};
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*", true));
  GRAFT_RETURN_IF_ERROR(CheckReadMask(request.read_mask(), *v1::Model::descriptor()));
  GRAFT_ASSIGN_OR_RETURN(auto page, ListResources<v1::Model>(context_.store, context_.page_tokens,
                                                             QueryOf(call, request, "model/", ids),
                                                             kFields, VisibleTo(call)));
  v1::ListModelsResponse response;
  for (v1::Model& model : page.resources) {
    GRAFT_RETURN_IF_ERROR(CountAdapters(context_.store, model));
    if (request.read_mask().paths().empty()) {
      model.mutable_spec()->clear_linear_layers();
      model.mutable_spec()->clear_chat_template();
    }
    ApplyReadMask(request.read_mask(), model);
    *response.add_models() = std::move(model);
  }
  response.set_next_page_token(page.next_page_token);
  response.set_revision(page.revision);
  return response;
}

void ModelService::DeleteModel(CallPtr call, const v1::DeleteModelRequest& request,
                               rpc::Responder<Empty> responder) {
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "workspaces/*/models/*"));
        const std::string key = ModelRecordKey(ids[0], ids[1]);
        const absl::StatusOr<v1::Model> model = ReadResource<v1::Model>(turn, key, request.name());
        if (absl::IsNotFound(model.status()) && request.allow_missing()) return Empty();
        if (!model.ok()) return model.status();
        GRAFT_RETURN_IF_ERROR(CheckEtag(request.name(), request.etag(), model->etag()));
        const std::vector<std::string> holders = LiveJobsThat(turn, [&](const v1::Job& job) {
          return job.resolved_spec().model().base() == request.name();
        });
        if (!holders.empty()) return InUse(request.name(), holders);
        const std::vector<std::string> tuned = TunedFrom(turn, request.name());
        if (!tuned.empty()) return InUse(request.name(), tuned);
        GRAFT_ASSIGN_OR_RETURN(const std::vector<Record> adapters,
                               turn.List(absl::StrCat("adapter/", ids[0], "/", ids[1], "/")));
        if (!adapters.empty() && !request.force()) {
          const std::vector<std::string> parts = absl::StrSplit(adapters[0].key, '/');
          return InUse(request.name(), {absl::StrCat(request.name(), "/adapters/", parts[3])});
        }
        for (const Record& adapter : adapters) turn.Remove(Family::kRecords, adapter.key);
        turn.Remove(Family::kRecords, key);
        AuditCall(turn, *call, request.name());
        return Empty();
      });
}

absl::StatusOr<v1::Adapter> ModelService::GetAdapter(const rpc::Call&,
                                                     const v1::GetAdapterRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids,
                         ParseName(request.name(), "workspaces/*/models/*/adapters/*"));
  return ReadResource<v1::Adapter>(context_.store, AdapterRecordKey(ids[0], ids[1], ids[2]),
                                   request.name());
}

absl::StatusOr<v1::ListAdaptersResponse> ModelService::ListAdapters(
    const rpc::Call& call, const v1::ListAdaptersRequest& request) {
  static const ListFields kFields{.filter = {{"name"},
                                             {"enabled"},
                                             {"project"},
                                             {"creator"},
                                             {"labels"},
                                             {"rank"},
                                             {"job"},
                                             {"create_time"},
                                             {"update_time"}},
                                  .order = {"name", "create_time", "update_time"}};
  GRAFT_ASSIGN_OR_RETURN(const auto ids,
                         ParseName(request.parent(), "workspaces/*/models/*", true));
  GRAFT_ASSIGN_OR_RETURN(
      auto page, ListResources<v1::Adapter>(context_.store, context_.page_tokens,
                                            QueryOf(call, request, "adapter/", ids), kFields,
                                            VisibleTo(call)));
  v1::ListAdaptersResponse response;
  for (v1::Adapter& adapter : page.resources) *response.add_adapters() = std::move(adapter);
  response.set_next_page_token(page.next_page_token);
  response.set_revision(page.revision);
  return response;
}

void ModelService::DeleteAdapter(CallPtr call, const v1::DeleteAdapterRequest& request,
                                 rpc::Responder<Empty> responder) {
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids,
                               ParseName(request.name(), "workspaces/*/models/*/adapters/*"));
        const std::string key = AdapterRecordKey(ids[0], ids[1], ids[2]);
        const absl::StatusOr<v1::Adapter> adapter =
            ReadResource<v1::Adapter>(turn, key, request.name());
        if (absl::IsNotFound(adapter.status()) && request.allow_missing()) return Empty();
        if (!adapter.ok()) return adapter.status();
        GRAFT_RETURN_IF_ERROR(CheckEtag(request.name(), request.etag(), adapter->etag()));
        turn.Remove(Family::kRecords, key);
        AuditCall(turn, *call, request.name());
        return Empty();
      });
}

void ModelService::SetEnabled(CallPtr call, const std::string& name, const std::string& etag,
                              bool enabled, rpc::Responder<v1::Adapter> responder) {
  Mutate<v1::Adapter>(
      context_.control, std::move(responder), [=](Turn& turn) -> absl::StatusOr<v1::Adapter> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*/models/*/adapters/*"));
        const std::string key = AdapterRecordKey(ids[0], ids[1], ids[2]);
        GRAFT_ASSIGN_OR_RETURN(v1::Adapter adapter, ReadResource<v1::Adapter>(turn, key, name));
        GRAFT_RETURN_IF_ERROR(CheckEtag(name, etag, adapter.etag()));
        if (adapter.enabled() == enabled) return adapter;
        adapter.set_enabled(enabled);
        *adapter.mutable_update_time() = ToTimestamp(turn.now());
        PutResource(turn, key, adapter);
        AuditCall(turn, *call, name);
        return adapter;
      });
}

void ModelService::EnableAdapter(CallPtr call, const v1::EnableAdapterRequest& request,
                                 rpc::Responder<v1::Adapter> responder) {
  SetEnabled(std::move(call), request.name(), request.etag(), true, std::move(responder));
}

void ModelService::DisableAdapter(CallPtr call, const v1::DisableAdapterRequest& request,
                                  rpc::Responder<v1::Adapter> responder) {
  SetEnabled(std::move(call), request.name(), request.etag(), false, std::move(responder));
}

}  // namespace graft::scheduler
