#include "scheduler/service/model_service.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "graft/v1/job.pb.h"
#include "rpc/status.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"

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

absl::Status InUse(absl::string_view name, const std::vector<std::string>& holders) {
  rpc::ErrorBuilder error(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat(name, " is used by ", holders[0], holders.size() > 1 ? " and others" : ""));
  error.Reason("RESOURCE_IN_USE").Metadata("resource", name);
  std::string all;
  for (size_t i = 0; i < std::min<size_t>(holders.size(), 20); ++i) {
    absl::StrAppend(&all, i == 0 ? "" : ",", holders[i]);
  }
  return error.Metadata("holders", all).Build();
}

// Jobs that still need the model.
absl::StatusOr<std::vector<std::string>> HoldersOf(Turn& turn, const std::string& model) {
  std::vector<std::string> holders;
  for (const auto& [key, job] : turn.core().jobs()) {
    if (IsTerminal(job.state)) continue;
    const std::vector<std::string> ids = absl::StrSplit(key, '/');
    const auto body = ReadResource<v1::Job>(turn, JobRecordKey(ids[0], ids[1]), key);
    if (body.ok() && body->resolved_spec().model().base() == model) holders.push_back(body->name());
  }
  return holders;
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
  }
  out.set_chat_template(model.facts.chat_template);
  out.set_supports_tools(model.facts.supports_tools);
  out.set_weight_bytes(model.facts.weight_bytes);
  for (int tp = 1; tp <= decoder.attention.heads; ++tp) {
    if (decoder.attention.heads % tp == 0 && decoder.attention.kv_heads % tp == 0) {
      out.add_tensor_parallel_sizes(tp);
    }
  }
  return out;
}

rpc::Service ModelService::Bind() {
  rpc::Service service("graft.v1.ModelService");
  service.Async("CreateModel", this, &ModelService::CreateModel)
      .Unary("GetModel", this, &ModelService::GetModel)
      .Unary("ListModels", this, &ModelService::ListModels)
      .Async("DeleteModel", this, &ModelService::DeleteModel)
      .Unary("GetAdapter", this, &ModelService::GetAdapter)
      .Unary("ListAdapters", this, &ModelService::ListAdapters)
      .Async("DeleteAdapter", this, &ModelService::DeleteAdapter)
      .Async("EnableAdapter", this, &ModelService::EnableAdapter)
      .Async("DisableAdapter", this, &ModelService::DisableAdapter);
  return service;
}

absl::StatusOr<v1::Model> ModelService::Link(const rpc::Call& call,
                                             const v1::CreateModelRequest& request,
                                             std::string* digest) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*"));
  const std::string id = request.model_id().empty() ? absl::StrCat("model-", context_.random.Id(8))
                                                    : request.model_id();
  GRAFT_RETURN_IF_ERROR(CheckId(id, "model_id"));
  v1::Model model = request.model();
  model.set_name(absl::StrCat(request.parent(), "/models/", id));
  const std::vector<std::string> fileset = absl::StrSplit(model.fileset(), '/');
  if (fileset.size() < 4 || fileset[0] != "workspaces" || fileset[2] != "filesets") {
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                             "model.fileset names a fileset or one of its versions")
        .Reason("FIELD_REQUIRED")
        .Field("model.fileset", "workspaces/{workspace}/filesets/{fileset}[/versions/{version}]")
        .Build();
  }
  if (call.identity->RoleIn(fileset[1]) < rpc::Role::kViewer)
    return NoSuchResource(model.fileset());
  GRAFT_ASSIGN_OR_RETURN(const FilesetVersion version, context_.files.Resolve(model.fileset()));
  GRAFT_ASSIGN_OR_RETURN(const auto files, context_.files.OpenModel(version.name));
  const absl::StatusOr<spec::ModelDescription> read = spec::ReadModel(*files);
  if (!read.ok()) return Unusable(read.status(), version.name);
  *digest = version.digest;
  model.set_fileset(version.name);
  *model.mutable_spec() = ToApi(*read);
  model.set_state(v1::Model::STATE_READY);
  model.set_serving_state(v1::Model::SERVING_STATE_COLD);
  model.clear_reason();
  model.clear_message();
  model.clear_job();
  model.set_adapter_count(0);
  model.set_uid(context_.random.Id(24));
  model.set_creator(call.identity->subject);
  if (!request.validate_only()) {
    GRAFT_RETURN_IF_ERROR(context_.files.PutPin(version.name, model.name()));
  }
  return model;
}

void ModelService::CreateModel(CallPtr call, const v1::CreateModelRequest& request,
                               rpc::Responder<v1::Model> responder) {
  auto answer = std::make_shared<rpc::Responder<v1::Model>>(std::move(responder));
  const absl::Status posted = context_.background.Post([this, call, request, answer] {
    std::string digest;
    absl::StatusOr<v1::Model> linked = Link(*call, request, &digest);
    if (!linked.ok()) return answer->Answer(linked.status());
    Mutate<v1::Model>(context_.control, std::move(*answer),
                      [call, request, model = *std::move(linked),
                       digest](Turn& turn) mutable -> absl::StatusOr<v1::Model> {
                        GRAFT_ASSIGN_OR_RETURN(const bool replayed,
                                               Replay(turn, call->identity->subject, call->method,
                                                      request.request_id(), request, model));
                        if (replayed) return model;
                        const std::vector<std::string> ids = absl::StrSplit(model.name(), '/');
                        const std::string key = ModelRecordKey(ids[1], ids[3]);
                        if (!Exists(turn, absl::StrCat("workspace/", ids[1]))) {
                          return NoSuchResource(request.parent());
                        }
                        if (Exists(turn, key)) return ResourceExists(model.name());
                        *model.mutable_create_time() = ToTimestamp(turn.now());
                        *model.mutable_update_time() = model.create_time();
                        if (request.validate_only()) return model;
                        turn.Put(Family::kRecords, absl::StrCat("version.digest/", model.fileset()),
                                 digest);
                        PutResource(turn, key, model);
                        RememberRequest(turn, call->identity->subject, call->method,
                                        request.request_id(), request, model);
                        AuditCall(turn, *call, model.name());
                        return model;
                      });
  });
  if (!posted.ok()) answer->Answer(posted);
}

absl::StatusOr<v1::Model> ModelService::GetModel(const rpc::Call&,
                                                 const v1::GetModelRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "workspaces/*/models/*"));
  GRAFT_ASSIGN_OR_RETURN(
      v1::Model model,
      ReadResource<v1::Model>(context_.store, ModelRecordKey(ids[0], ids[1]), request.name()));
  GRAFT_ASSIGN_OR_RETURN(
      const ListResult adapters,
      context_.store.List({.prefix = absl::StrCat("adapter/", ids[0], "/", ids[1], "/")}));
  model.set_adapter_count(static_cast<int32_t>(adapters.records.size()));
  return model;
}

absl::StatusOr<v1::ListModelsResponse> ModelService::ListModels(
    const rpc::Call& call, const v1::ListModelsRequest& request) {
  GRAFT_RETURN_IF_ERROR(NoFilters(request.filter(), request.order_by()));
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*", true));
  const bool all = ids[0] == "-";
  GRAFT_ASSIGN_OR_RETURN(
      const Page page,
      ReadPage(context_.store,
               {.prefix = all ? "model/" : absl::StrCat("model/", ids[0], "/"),
                .page_size = request.page_size(),
                .token = request.page_token()},
               [&](const Record& record) {
                 const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
                 return !all || call.identity->RoleIn(parts[1]) >= rpc::Role::kViewer;
               }));
  v1::ListModelsResponse response;
  for (const Record& record : page.records) {
    GRAFT_ASSIGN_OR_RETURN(v1::Model model, ToResource<v1::Model>(record));
    model.mutable_spec()->clear_linear_layers();
    model.mutable_spec()->clear_chat_template();
    *response.add_models() = std::move(model);
  }
  response.set_next_page_token(page.next_token);
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
        GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> holders,
                               HoldersOf(turn, request.name()));
        if (!holders.empty()) return InUse(request.name(), holders);
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
  GRAFT_RETURN_IF_ERROR(NoFilters(request.filter(), request.order_by()));
  GRAFT_ASSIGN_OR_RETURN(const auto ids,
                         ParseName(request.parent(), "workspaces/*/models/*", true));
  std::string prefix = "adapter/";
  if (ids[0] != "-") absl::StrAppend(&prefix, ids[0], "/");
  if (ids[0] != "-" && ids[1] != "-") absl::StrAppend(&prefix, ids[1], "/");
  GRAFT_ASSIGN_OR_RETURN(
      const Page page,
      ReadPage(context_.store,
               {.prefix = prefix, .page_size = request.page_size(), .token = request.page_token()},
               [&](const Record& record) {
                 const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
                 return call.identity->RoleIn(parts[1]) >= rpc::Role::kViewer;
               }));
  v1::ListAdaptersResponse response;
  for (const Record& record : page.records) {
    GRAFT_ASSIGN_OR_RETURN(*response.add_adapters(), ToResource<v1::Adapter>(record));
  }
  response.set_next_page_token(page.next_token);
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
