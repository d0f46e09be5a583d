#include "fileservice/service/credentials.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "graft/v1/auth.grpc.pb.h"
#include "rpc/client.h"

namespace graft::fileservice {
namespace {

constexpr absl::Duration kRefresh = absl::Minutes(1);
constexpr absl::Duration kFetchDeadline = absl::Seconds(10);

// --no-auth: every caller is the administrator of everything, and the scheduler.
class Everyone final : public rpc::Authenticator {
 public:
  Everyone() {
    auto identity = std::make_shared<rpc::Identity>();
    identity->kind = rpc::IdentityKind::kScheduler;
    identity->subject = "users/local";
    identity->roles[std::string(rpc::kCluster)] = rpc::Role::kAdmin;
    identity_ = std::move(identity);
  }
  absl::StatusOr<std::shared_ptr<const rpc::Identity>> Authenticate(
      const rpc::Credentials&) override {
    return identity_;
  }

 private:
  std::shared_ptr<const rpc::Identity> identity_;  // shared with every call
};

std::string KeysPath(const Settings& settings) {
  return JoinPath(settings.data(), "public_keys.json");
}

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  if (path.empty()) return std::string();
  return ReadFile(path, 1 << 20);
}

}  // namespace

absl::StatusOr<rpc::TlsIdentity> ReadTlsIdentity(const Settings& settings) {
  rpc::TlsIdentity identity;
  GRAFT_ASSIGN_OR_RETURN(identity.certificate_chain, ReadPem(settings.tls_certificate()));
  GRAFT_ASSIGN_OR_RETURN(identity.private_key, ReadPem(settings.tls_key()));
  return identity;
}

ServerCredentials::ServerCredentials(const Settings& settings, Clock& clock) : settings_(settings) {
  if (settings.no_auth()) {
    everyone_ = std::make_unique<Everyone>();
    return;
  }
  rpc::TokenVerifier::Options options;
  options.issuer = "graft-scheduler";
  options.audiences = {"graft", "fileservice"};
  rpc::Identity scheduler;
  scheduler.kind = rpc::IdentityKind::kScheduler;
  scheduler.subject = settings.scheduler_name();
  scheduler.roles[std::string(rpc::kCluster)] = rpc::Role::kAdmin;
  options.peers[settings.scheduler_name()] = scheduler;
  verifier_ = std::make_unique<rpc::TokenVerifier>(clock, std::move(options));
}

absl::StatusOr<std::unique_ptr<ServerCredentials>> ServerCredentials::Load(const Settings& settings,
                                                                           Clock& clock) {
  if (settings.no_auth() && !settings.insecure()) {
    return absl::FailedPreconditionError(
        "no_auth is for loopback without TLS alone: add --insecure, or drop --no-auth");
  }
  if (!settings.insecure() && settings.tls_certificate().empty()) {
    return absl::FailedPreconditionError(
        "set tls_certificate and tls_key, or --insecure on a loopback address");
  }
  if (!settings.no_auth() && settings.scheduler().empty()) {
    return absl::FailedPreconditionError(
        "set scheduler: the keys that tokens are checked with come from there");
  }
  auto result = std::unique_ptr<ServerCredentials>(new ServerCredentials(settings, clock));
  if (result->verifier_ != nullptr) {
    const absl::Status kept = result->ReadKeys();
    if (!kept.ok() && !absl::IsNotFound(kept)) return kept;
    result->refresher_ = std::thread([raw = result.get()] { raw->RefreshKeys(); });
  }
  return result;
}

ServerCredentials::~ServerCredentials() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    wake_.SignalAll();
  }
  if (refresher_.joinable()) refresher_.join();
}

absl::Status ServerCredentials::Apply(rpc::ServerOptions& options) const {
  options.insecure = settings_.insecure();
  GRAFT_ASSIGN_OR_RETURN(options.tls, ReadTlsIdentity(settings_));
  GRAFT_ASSIGN_OR_RETURN(options.client_ca, ReadPem(settings_.client_ca()));
  options.authenticator = &authenticator();
  return absl::OkStatus();
}

rpc::Authenticator& ServerCredentials::authenticator() const {
  if (everyone_ != nullptr) return *everyone_;
  return *verifier_;
}

absl::Status ServerCredentials::ReadKeys() {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(KeysPath(settings_), 1 << 20));
  GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  if (!json.is_array()) return absl::DataLossError("public_keys.json is no list");
  std::vector<rpc::PublicKey> keys;
  for (const Json& entry : json.as_array()) {
    rpc::PublicKey key;
    key.id = entry.GetString("id");
    if (!absl::Base64Unescape(entry.GetString("key"), &key.raw) || key.raw.size() != 32) {
      return absl::DataLossError(absl::StrCat(KeysPath(settings_), " holds a key that is none"));
    }
    keys.push_back(std::move(key));
  }
  keys_ = keys;
  verifier_->SetKeys(std::move(keys));
  return absl::OkStatus();
}

absl::Status ServerCredentials::FetchKeys() {
  rpc::DialOptions dial;
  dial.address = settings_.scheduler();
  GRAFT_ASSIGN_OR_RETURN(dial.server_ca, ReadPem(settings_.scheduler_ca()));
  dial.insecure = settings_.insecure() && dial.server_ca.empty();
  GRAFT_ASSIGN_OR_RETURN(const auto connection, rpc::Connection::Dial(dial));
  const auto stub = v1::AuthService::NewStub(connection->channel());
  GRAFT_ASSIGN_OR_RETURN(
      const auto response,
      connection->Call<v1::GetPublicKeysResponse>(
          *stub, &v1::AuthService::Stub::GetPublicKeys, v1::GetPublicKeysRequest(),
          {.deadline = kFetchDeadline, .idempotent = true}));
  std::vector<rpc::PublicKey> keys;
  Json kept = Json::MakeArray();
  for (const v1::PublicKey& key : response.keys()) {
    keys.push_back({key.key_id(), key.key()});
    kept.Append(
        Json::MakeObject().Set("id", key.key_id()).Set("key", absl::Base64Escape(key.key())));
  }
  if (keys.empty()) return absl::UnavailableError("the scheduler answered no keys");
  if (keys == keys_) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(KeysPath(settings_), kept.Dump(), {.mode = 0600}));
  keys_ = keys;
  verifier_->SetKeys(std::move(keys));
  return absl::OkStatus();
}

void ServerCredentials::RefreshKeys() {
  while (true) {
    const absl::Status status = FetchKeys();
    if (!status.ok()) {
      LOG_WARNING("the scheduler's keys could not be fetched; the last known ones stay in use",
                  {{"status", status.ToString()}});
    }
    MutexLock lock(mu_);
    // Sooner while there is none at all.
    if (!stopping_) wake_.WaitFor(mu_, keys_.empty() ? absl::Seconds(1) : kRefresh);
    if (stopping_) return;
  }
}

}  // namespace graft::fileservice
