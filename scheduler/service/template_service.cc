#include "scheduler/service/template_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "rpc/status.h"
#include "scheduler/service/job_spec.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/standard.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::Empty;

constexpr char kTemplate[] = "workspaces/*/templates/*";
constexpr char kVersionName[] = "workspaces/*/templates/*/versions/*";

std::string TemplateKey(const std::vector<std::string>& ids) {
  return absl::StrCat("template/", ids[0], "/", ids[1]);
}
std::string VersionPrefix(const std::vector<std::string>& ids) {
  return absl::StrCat("template.version/", ids[0], "/", ids[1], "/");
}
std::string VersionKey(const std::vector<std::string>& ids, int64_t number) {
  return absl::StrCat(VersionPrefix(ids), absl::StrFormat("%016x", ~static_cast<uint64_t>(number)));
}

absl::StatusOr<v1::TemplateVersion> ReadVersion(const absl::StatusOr<Record>& record,
                                                absl::string_view name) {
  if (!record.ok()) return NoSuchResource(name);
  v1::TemplateVersion version;
  GRAFT_RETURN_IF_ERROR(DecodeResource(record->key, record->value, version));
  return version;
}

absl::StatusOr<std::pair<std::vector<std::string>, std::string>> ParseVersion(
    const std::string& name) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, kVersionName));
  int64_t number = 0;
  if (!absl::SimpleAtoi(ids[2], &number) || number <= 0) return NoSuchResource(name);
  return std::make_pair(ids, VersionKey(ids, number));
}

bool IsSharedWith(const v1::Template& shared, absl::string_view workspace) {
  const auto& with = shared.shared_with();
  return std::any_of(with.begin(), with.end(), [&](const std::string& name) {
    return name == "workspaces/-" || name == absl::StrCat("workspaces/", workspace);
  });
}

// Numbers the version, checks it and keeps it; `latest` is the template's.
absl::StatusOr<v1::TemplateVersion> AddVersion(Turn& turn, const rpc::Call& call,
                                               v1::Template& parent, v1::TemplateVersion version,
                                               bool validate_only) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(parent.name(), kTemplate));
  Violations violations;
  SpecCheck check = ResolveSpec(version.preset(), 0);
  CheckLimits(version.limits(), check.resolved, violations);
  if (!violations.empty()) return ViolationsStatus(violations);
  const int64_t number = parent.latest_version() + 1;
  ClearOutputOnly(version);
  version.clear_deprecated();
  version.set_name(absl::StrCat(parent.name(), "/versions/", number));
  StampNew(version, turn.now(), call.identity->subject, "");
  if (validate_only) return version;
  parent.set_latest_version(number);
  turn.Put(Family::kRecords, VersionKey(ids, number), EncodeResource(version));
  return version;
}

}  // namespace

rpc::Service TemplateService::Bind() {
  rpc::Service service("graft.v1.TemplateService");
  service.Async("CreateTemplate", this, &TemplateService::CreateTemplate)
      .Unary("GetTemplate", this, &TemplateService::GetTemplate)
      .Unary("ListTemplates", this, &TemplateService::ListTemplates)
      .Async("UpdateTemplate", this, &TemplateService::UpdateTemplate)
      .Async("DeleteTemplate", this, &TemplateService::DeleteTemplate)
      .Async("CreateTemplateVersion", this, &TemplateService::CreateTemplateVersion)
      .Unary("GetTemplateVersion", this, &TemplateService::GetTemplateVersion)
      .Unary("ListTemplateVersions", this, &TemplateService::ListTemplateVersions)
      .Async("DeprecateTemplateVersion", this, &TemplateService::DeprecateTemplateVersion);
  return service;
}

void TemplateService::CreateTemplate(CallPtr call, const v1::CreateTemplateRequest& request,
                                     rpc::Responder<v1::Template> responder) {
  Mutate<v1::Template>(
      context_.control, std::move(responder),
      [call, request](Turn& turn) -> absl::StatusOr<v1::Template> {
        GRAFT_ASSIGN_OR_RETURN(auto ids, ParseName(request.parent(), "workspaces/*"));
        GRAFT_RETURN_IF_ERROR(CheckId(request.template_id(), "template_id"));
        GRAFT_RETURN_IF_ERROR(CheckWorkspaceOpen(turn, ids[0]));
        ids.push_back(request.template_id());
        v1::Template made = request.template_();
        ClearOutputOnly(made);
        made.set_name(absl::StrCat(request.parent(), "/templates/", request.template_id()));
        const bool is_new = !Exists(turn, TemplateKey(ids));
        if (is_new && request.has_first_version()) {
          GRAFT_RETURN_IF_ERROR(
              AddVersion(turn, *call, made, request.first_version(), false).status());
        }
        return CreateIn(turn, *call, request, TemplateKey(ids), made, {});
      });
}

absl::StatusOr<v1::Template> TemplateService::GetTemplate(const rpc::Call&,
                                                          const v1::GetTemplateRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), kTemplate));
  return ReadResource<v1::Template>(context_.store, TemplateKey(ids), request.name());
}

absl::StatusOr<v1::ListTemplatesResponse> TemplateService::ListTemplates(
    const rpc::Call& call, const v1::ListTemplatesRequest& request) {
  static const ListFields kFields{.filter = {{"name"}, {"labels"}, {"creator"}, {"create_time"}}};
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*", true));
  const auto own = VisibleTo(call);
  // Those of other workspaces count where they are shared.
  GRAFT_ASSIGN_OR_RETURN(
      auto page, ListLoaded<v1::Template>(
                     context_.store, context_.page_tokens, QueryOf(call, request, "template/"),
                     kFields, [&](const Record& record) -> absl::StatusOr<MessagePtr> {
                       GRAFT_ASSIGN_OR_RETURN(v1::Template one, ToResource<v1::Template>(record));
                       const bool inside =
                           ids[0] == "-" ? own(record)
                                         : absl::StartsWith(one.name(), request.parent() + "/");
                       const bool shared = ids[0] != "-" && IsSharedWith(one, ids[0]);
                       if (!inside && !shared) return nullptr;
                       return std::make_unique<v1::Template>(std::move(one));
                     }));
  v1::ListTemplatesResponse response;
  for (v1::Template& one : page.resources) *response.add_templates() = std::move(one);
  response.set_next_page_token(page.next_page_token);
  return response;
}

void TemplateService::UpdateTemplate(CallPtr call, const v1::UpdateTemplateRequest& request,
                                     rpc::Responder<v1::Template> responder) {
  Mutate<v1::Template>(context_.control, std::move(responder),
                       [call, request](Turn& turn) -> absl::StatusOr<v1::Template> {
                         GRAFT_ASSIGN_OR_RETURN(const auto ids,
                                                ParseName(request.template_().name(), kTemplate));
                         return UpdateIn<v1::Template>(turn, *call, TemplateKey(ids),
                                                       request.template_(), request.update_mask());
                       });
}

void TemplateService::DeleteTemplate(CallPtr call, const v1::DeleteTemplateRequest& request,
                                     rpc::Responder<Empty> responder) {
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), kTemplate));
        GRAFT_RETURN_IF_ERROR(
            DeleteIn<v1::Template>(turn, *call, TemplateKey(ids), request.name(), request.etag())
                .status());
        GRAFT_ASSIGN_OR_RETURN(const auto versions, turn.List(VersionPrefix(ids)));
        for (const Record& record : versions) turn.Remove(Family::kRecords, record.key);
        return Empty();
      });
}

void TemplateService::CreateTemplateVersion(CallPtr call,
                                            const v1::CreateTemplateVersionRequest& request,
                                            rpc::Responder<v1::TemplateVersion> responder) {
  Mutate<v1::TemplateVersion>(
      context_.control, std::move(responder),
      [call, request](Turn& turn) -> absl::StatusOr<v1::TemplateVersion> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), kTemplate));
        v1::TemplateVersion version;
        GRAFT_ASSIGN_OR_RETURN(const bool replayed,
                               Replay(turn, call->identity->subject, call->method,
                                      request.request_id(), request, version));
        if (replayed) return version;
        GRAFT_ASSIGN_OR_RETURN(v1::Template parent, ReadResource<v1::Template>(
                                                        turn, TemplateKey(ids), request.parent()));
        GRAFT_ASSIGN_OR_RETURN(version, AddVersion(turn, *call, parent, request.template_version(),
                                                   request.validate_only()));
        if (request.validate_only()) return version;
        StampUpdate(parent, turn.now());
        PutResource(turn, TemplateKey(ids), parent);
        RememberRequest(turn, call->identity->subject, call->method, request.request_id(), request,
                        version);
        AuditCall(turn, *call, version.name());
        return version;
      });
}

absl::StatusOr<v1::TemplateVersion> TemplateService::GetTemplateVersion(
    const rpc::Call&, const v1::GetTemplateVersionRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto place, ParseVersion(request.name()));
  return ReadVersion(context_.store.Get(Family::kRecords, place.second), request.name());
}

absl::StatusOr<v1::ListTemplateVersionsResponse> TemplateService::ListTemplateVersions(
    const rpc::Call& call, const v1::ListTemplateVersionsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), kTemplate));
  GRAFT_RETURN_IF_ERROR(
      ReadResource<v1::Template>(context_.store, TemplateKey(ids), request.parent()).status());
  GRAFT_ASSIGN_OR_RETURN(
      auto page,
      ListLoaded<v1::TemplateVersion>(
          context_.store, context_.page_tokens, QueryOf(call, request, "template.version/", ids),
          {}, [](const Record& record) -> absl::StatusOr<MessagePtr> {
            auto version = std::make_unique<v1::TemplateVersion>();
            GRAFT_RETURN_IF_ERROR(DecodeResource(record.key, record.value, *version));
            return version;
          }));
  v1::ListTemplateVersionsResponse response;
  for (v1::TemplateVersion& one : page.resources) {
    *response.add_template_versions() = std::move(one);
  }
  response.set_next_page_token(page.next_page_token);
  return response;
}

void TemplateService::DeprecateTemplateVersion(CallPtr call,
                                               const v1::DeprecateTemplateVersionRequest& request,
                                               rpc::Responder<v1::TemplateVersion> responder) {
  Mutate<v1::TemplateVersion>(
      context_.control, std::move(responder),
      [call, request](Turn& turn) -> absl::StatusOr<v1::TemplateVersion> {
        GRAFT_ASSIGN_OR_RETURN(const auto place, ParseVersion(request.name()));
        GRAFT_ASSIGN_OR_RETURN(
            v1::TemplateVersion version,
            ReadVersion(turn.Get(Family::kRecords, place.second), request.name()));
        if (version.deprecated()) return version;
        version.set_deprecated(true);
        turn.Put(Family::kRecords, place.second, EncodeResource(version));
        AuditCall(turn, *call, request.name());
        return version;
      });
}

// --- What a template does to a job ---

namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

void Violate(Violations& violations, absl::string_view field, v1::Reason reason,
             std::string message) {
  auto& violation = violations.emplace_back();
  violation.set_field(std::string(field));
  violation.set_reason(reason);
  violation.set_message(std::move(message));
}

// Takes over what is absent; messages field by field, lists and oneofs as a whole.
void FillAbsent(const Message& preset, Message& spec) {
  const auto& reflection = *preset.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(preset, &fields);
  for (const FieldDescriptor* field : fields) {
    const auto* oneof = field->real_containing_oneof();
    const FieldDescriptor* set =
        oneof == nullptr ? nullptr : reflection.GetOneofFieldDescriptor(spec, oneof);
    if (set != nullptr && set != field) continue;
    const bool present = field->is_repeated() ? reflection.FieldSize(spec, field) > 0
                                              : reflection.HasField(spec, field);
    const bool message =
        !field->is_repeated() && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (message && present) {
      FillAbsent(reflection.GetMessage(preset, field), *reflection.MutableMessage(&spec, field));
    } else if (!present) {
      const std::unique_ptr<Message> from(preset.New());
      from->CopyFrom(preset);
      reflection.SwapFields(&spec, from.get(), {field});
    }
  }
}

bool IsSet(const Message& message, absl::string_view path) {
  const std::pair<absl::string_view, absl::string_view> split =
      absl::StrSplit(path, absl::MaxSplits('.', 1));
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(std::string(split.first));
  if (field == nullptr) return false;
  const auto& reflection = *message.GetReflection();
  if (field->is_repeated()) return reflection.FieldSize(message, field) > 0;
  if (!reflection.HasField(message, field)) return false;
  if (split.second.empty()) return true;
  return field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
         IsSet(reflection.GetMessage(message, field), split.second);
}

// The versions that a job may name, newest first.
std::vector<std::string> UsableVersions(const Store& store, const std::vector<std::string>& ids) {
  std::vector<std::string> names;
  const auto records = store.List({.prefix = VersionPrefix(ids), .limit = 100});
  if (!records.ok()) return names;
  for (const Record& record : records->records) {
    const auto version = ReadVersion(record, record.key);
    if (version.ok() && !version->deprecated()) names.push_back(version->name());
  }
  return names;
}

template <typename List, typename Value>
bool Allows(const List& list, const Value& value) {
  return list.empty() || std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

std::unique_ptr<v1::TemplateVersion> ApplyTemplate(const Store& store, const std::string& workspace,
                                                   v1::JobSpec& spec, Violations& violations) {
  const std::string& name = spec.template_();
  if (name.empty()) return nullptr;
  const bool versioned = absl::StrContains(name, "/versions/");
  const auto ids = ParseName(name, versioned ? kVersionName : kTemplate);
  if (!ids.ok()) {
    Violate(violations, "spec.template", v1::REASON_NAME_INVALID,
            absl::StrCat("'", name, "' is no name of the form ", kVersionName));
    return nullptr;
  }
  const auto parent = ReadResource<v1::Template>(store, TemplateKey(*ids), name);
  if (!parent.ok() || ((*ids)[0] != workspace && !IsSharedWith(*parent, workspace))) {
    Violate(violations, "spec.template", v1::REASON_REFERENCE_NOT_FOUND,
            absl::StrCat("there is no ", name));
    return nullptr;
  }
  const std::vector<std::string> usable = UsableVersions(store, *ids);
  const std::string choices = usable.empty()
                                  ? "it has no version that may be used yet"
                                  : absl::StrCat("valid are: ", absl::StrJoin(usable, ", "));
  if (!versioned) {
    Violate(violations, "spec.template", v1::REASON_TEMPLATE_VERSION_MISSING,
            absl::StrCat("Version is not specified in the config URN; ", choices));
    return nullptr;
  }
  const auto place = ParseVersion(name);
  auto version = place.ok() ? ReadVersion(store.Get(Family::kRecords, place->second), name)
                            : absl::StatusOr<v1::TemplateVersion>(place.status());
  if (!version.ok() || version->deprecated()) {
    Violate(violations, "spec.template",
            version.ok() ? v1::REASON_TEMPLATE_VIOLATION : v1::REASON_REFERENCE_NOT_FOUND,
            absl::StrCat(version.ok() ? "is deprecated; " : "there is no such version; ", choices));
    return nullptr;
  }
  for (const std::string& path : version->limits().locked_fields()) {
    if (!IsSet(spec, path)) continue;
    Violate(violations, absl::StrCat("spec.", path), v1::REASON_TEMPLATE_VIOLATION,
            absl::StrCat("is locked by ", name, "; leave it out"));
  }
  FillAbsent(version->preset(), spec);
  return std::make_unique<v1::TemplateVersion>(*std::move(version));
}

void CheckLimits(const v1::TemplateLimits& limits, const v1::JobSpec& spec,
                 Violations& violations) {
  const auto outside = [&](absl::string_view field, const std::string& what) {
    Violate(violations, field, v1::REASON_TEMPLATE_VIOLATION, what);
  };
  const auto most = [&](bool bounded, double value, double bound, absl::string_view field) {
    if (!bounded || value <= bound) return;
    outside(field, absl::StrCat("is ", value, "; the template allows at most ", bound));
  };
  if (!spec.model().base().empty() && !Allows(limits.models(), spec.model().base())) {
    outside("spec.model.base", absl::StrCat("is ", spec.model().base(), "; the template allows ",
                                            absl::StrJoin(limits.models(), ", ")));
  }
  const int method = spec.method().method_case();
  if (!Allows(limits.methods(), method)) {
    outside("spec.method", "is not one of the template's methods");
  }
  if (!Allows(limits.tunings(), static_cast<int>(spec.tuning().type()))) {
    std::vector<std::string> names;
    for (int tuning : limits.tunings()) {
      names.push_back(ShortName(*v1::FinetuningType_descriptor(), tuning));
    }
    outside("spec.tuning.type",
            absl::StrCat("is ", ShortName(*v1::FinetuningType_descriptor(), spec.tuning().type()),
                         "; the template allows ", absl::StrJoin(names, ", ")));
  }
  most(limits.has_max_gpus(), LayoutOf(spec).world(), limits.max_gpus(), "spec.parallelism");
  most(limits.has_max_tensor_parallel_size(), LayoutOf(spec).tp, limits.max_tensor_parallel_size(),
       "spec.parallelism.tensor_parallel_size");
  most(limits.has_max_seq_length(), spec.batch().max_seq_length(), limits.max_seq_length(),
       "spec.batch.max_seq_length");
  most(limits.has_max_lora_rank(), spec.tuning().lora().rank(), limits.max_lora_rank(),
       "spec.tuning.lora.rank");
  most(limits.has_max_epochs(), spec.schedule().epochs(), limits.max_epochs(),
       "spec.schedule.epochs");
  if (limits.has_max_time_limit()) {
    const int64_t bound = limits.max_time_limit().seconds();
    const int64_t asked = spec.resources().time_limit().seconds();
    if (asked == 0 || asked > bound) {
      outside("spec.resources.time_limit",
              absl::StrCat(asked == 0 ? "is not set" : absl::StrCat("is ", asked, " s"),
                           "; the template allows at most ", bound, " s"));
    }
  }
  if (!Allows(limits.queues(), spec.resources().queue())) {
    outside("spec.resources.queue",
            absl::StrCat("is ", spec.resources().queue(), "; the template allows ",
                         absl::StrJoin(limits.queues(), ", ")));
  }
}

}  // namespace graft::scheduler
