#include "scheduler/service/secret_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "base/seal.h"
#include "graft/v1/job.pb.h"
#include "rpc/status.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/references.h"
#include "scheduler/service/standard.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::Empty;

constexpr size_t kMaxValue = 64 << 10;

std::string SecretKey(const std::vector<std::string>& ids) {
  return absl::StrCat("secret/", ids[0], "/", ids[1]);
}
std::string ValueKey(const std::vector<std::string>& ids) {
  return absl::StrCat("secret.value/", ids[0], "/", ids[1]);
}

absl::Status CheckValue(const std::string& value) {
  if (!value.empty() && value.size() <= kMaxValue) return absl::OkStatus();
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                           value.empty() ? "a secret needs a value"
                                         : absl::StrCat("a secret's value has ", value.size(),
                                                        " bytes; at most ", kMaxValue))
      .Reason(value.empty() ? "FIELD_REQUIRED" : "TOO_LARGE")
      .Field("secret.value", value.empty() ? "is missing" : "is too large")
      .Build();
}

}  // namespace

rpc::Service SecretService::Bind() {
  rpc::Service service("graft.v1.SecretService");
  service.Async("CreateSecret", this, &SecretService::CreateSecret)
      .Unary("GetSecret", this, &SecretService::GetSecret)
      .Unary("ListSecrets", this, &SecretService::ListSecrets)
      .Async("UpdateSecret", this, &SecretService::UpdateSecret)
      .Async("DeleteSecret", this, &SecretService::DeleteSecret);
  return service;
}

void SecretService::CreateSecret(CallPtr call, const v1::CreateSecretRequest& request,
                                 rpc::Responder<v1::Secret> responder) {
  // What is remembered of the request must not hold the value.
  v1::CreateSecretRequest remembered = request;
  remembered.mutable_secret()->set_value(HmacSha256(context_.data_key, request.secret().value()));
  const std::string nonce = context_.random.Bytes(kSealNonceBytes);
  Mutate<v1::Secret>(
      context_.control, std::move(responder),
      [this, call, remembered, nonce,
       value = request.secret().value()](Turn& turn) -> absl::StatusOr<v1::Secret> {
        GRAFT_ASSIGN_OR_RETURN(const auto parent, ParseName(remembered.parent(), "workspaces/*"));
        GRAFT_RETURN_IF_ERROR(CheckId(remembered.secret_id(), "secret_id"));
        GRAFT_RETURN_IF_ERROR(CheckValue(value));
        GRAFT_RETURN_IF_ERROR(CheckWorkspaceOpen(turn, parent[0]));
        v1::Secret secret = remembered.secret();
        ClearOutputOnly(secret);
        secret.clear_value();
        secret.set_name(absl::StrCat(remembered.parent(), "/secrets/", remembered.secret_id()));
        *secret.mutable_rotate_time() = ToTimestamp(turn.now());
        const std::vector<std::string> ids = {parent[0], remembered.secret_id()};
        return CreateIn(turn, *call, remembered, SecretKey(ids), secret, {.on_new = [&](Turn& now) {
                          now.Put(Family::kRecords, ValueKey(ids),
                                  Seal(context_.data_key, nonce, value, secret.name()));
                        }});
      });
}

absl::StatusOr<v1::Secret> SecretService::GetSecret(const rpc::Call&,
                                                    const v1::GetSecretRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "workspaces/*/secrets/*"));
  return ReadResource<v1::Secret>(context_.store, SecretKey(ids), request.name());
}

absl::StatusOr<v1::ListSecretsResponse> SecretService::ListSecrets(
    const rpc::Call& call, const v1::ListSecretsRequest& request) {
  static const ListFields kFields{
      .filter = {{"name"}, {"creator"}, {"create_time"}, {"rotate_time"}}};
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*", true));
  GRAFT_ASSIGN_OR_RETURN(
      auto page,
      ListResources<v1::Secret>(context_.store, context_.page_tokens,
                                QueryOf(call, request, "secret/", ids), kFields, VisibleTo(call)));
  v1::ListSecretsResponse response;
  for (v1::Secret& secret : page.resources) *response.add_secrets() = std::move(secret);
  response.set_next_page_token(page.next_page_token);
  return response;
}

void SecretService::UpdateSecret(CallPtr call, const v1::UpdateSecretRequest& request,
                                 rpc::Responder<v1::Secret> responder) {
  const std::string nonce = context_.random.Bytes(kSealNonceBytes);
  Mutate<v1::Secret>(
      context_.control, std::move(responder),
      [this, call, request, nonce](Turn& turn) -> absl::StatusOr<v1::Secret> {
        const std::string& name = request.secret().name();
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*/secrets/*"));
        const auto& paths = request.update_mask().paths();
        const bool named = std::find(paths.begin(), paths.end(), "value") != paths.end();
        const auto keep = [&](v1::Secret& secret) -> absl::Status {
          const std::string value = secret.value();
          secret.clear_value();
          if (value.empty() && !named) return absl::OkStatus();
          GRAFT_RETURN_IF_ERROR(CheckValue(value));
          *secret.mutable_rotate_time() = ToTimestamp(turn.now());
          turn.Put(Family::kRecords, ValueKey(ids), Seal(context_.data_key, nonce, value, name));
          return absl::OkStatus();
        };
        return UpdateIn<v1::Secret>(turn, *call, SecretKey(ids), request.secret(),
                                    request.update_mask(), keep);
      });
}

void SecretService::DeleteSecret(CallPtr call, const v1::DeleteSecretRequest& request,
                                 rpc::Responder<Empty> responder) {
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "workspaces/*/secrets/*"));
        const auto holders = LiveJobsThat(turn, [&](const v1::Job& job) {
          return Mentions(job.resolved_spec().integrations(), request.name());
        });
        if (!holders.empty()) return InUse(request.name(), holders);
        GRAFT_RETURN_IF_ERROR(
            DeleteIn<v1::Secret>(turn, *call, SecretKey(ids), request.name(), request.etag())
                .status());
        turn.Remove(Family::kRecords, ValueKey(ids));
        return Empty();
      });
}

absl::StatusOr<std::string> OpenSecret(const Store& store, absl::string_view data_key,
                                       const std::string& name) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*/secrets/*"));
  const absl::StatusOr<Record> sealed = store.Get(Family::kRecords, ValueKey(ids));
  if (!sealed.ok()) return NoSuchResource(name);
  return Unseal(data_key, sealed->value, name);
}

}  // namespace graft::scheduler
