// graft-scheduler: the control plane. This file wires; nothing is decided here.
#include <signal.h>

#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "rpc/access_token.h"
#include "scheduler/service/auth_service.h"
#include "scheduler/service/engine.h"
#include "scheduler/service/fileservice_link.h"
#include "scheduler/service/scheduler_server.h"
#include "scheduler/store/rocks_store.h"

namespace graft::scheduler {
namespace {

constexpr absl::Duration kDrainTime = absl::Seconds(10);
constexpr int64_t kMaxSettingsBytes = 1 << 20;

constexpr absl::string_view kUsage =
    R"(usage: graft-scheduler [serve] [--config FILE] [OPTIONS]
       graft-scheduler check   --data DIR
       graft-scheduler backup  --data DIR --to DIR
       graft-scheduler restore --data DIR --from DIR

  --config FILE            settings as JSON: the options' names with '_'; options stand above it
  --data DIR               the store and the keys
  --listen HOST:PORT       port 0 takes a free one, which --port-file tells (127.0.0.1:7600)
  --port-file FILE         the port in use, written when it serves
  --metrics HOST:PORT      /metrics and /healthz
  --fileservice HOST:PORT  where filesets are; also told to clients and workers
  --tls-certificate FILE   PEM; with --tls-key
  --tls-key FILE
  --client-ca FILE         PEM; client certificates are verified with it
  --server-ca FILE         PEM; the fileservice's certificate is verified with it
  --insecure               plaintext; loopback addresses only
  --no-auth                callers without a token are administrators; with --insecure only
  --accept-loss            serve a store that is known to have lost acknowledged writes
check proves the audit trail and reads every record. restore fills an empty folder from a backup; the
restored cluster counts on with new epochs, so that workers of the old one are refused.
)";

struct Arguments {
  std::string command = "serve";
  Json settings = Json::MakeObject();  // by option, '_' for '-'
  std::string Get(absl::string_view name, absl::string_view fallback = "") const {
    return settings.GetString(name, fallback);
  }
  bool Has(absl::string_view name) const { return settings.GetBool(name); }
};

constexpr absl::string_view kWithValue[] = {
    "config",          "data",    "listen",    "port_file", "metrics", "fileservice",
    "tls_certificate", "tls_key", "client_ca", "server_ca", "to",      "from"};
constexpr absl::string_view kFlags[] = {"insecure", "no_auth", "accept_loss"};

template <typename Names>
bool Contains(const Names& names, absl::string_view name) {
  for (absl::string_view one : names) {
    if (one == name) return true;
  }
  return false;
}

absl::Status ReadSettings(const std::string& path, Json& settings) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxSettingsBytes));
  GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, " is no object"));
  for (const auto& [key, value] : json.as_object()) {
    const bool fits = (Contains(kWithValue, key) && value.is_string()) ||
                      (Contains(kFlags, key) && value.is_bool());
    if (!fits) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": there is no setting '", key, "' of this type\n", kUsage));
    }
    if (settings.Find(key) == nullptr) settings.Set(key, value);
  }
  return absl::OkStatus();
}

absl::StatusOr<Arguments> ParseArguments(const std::vector<std::string>& args) {
  Arguments result;
  size_t i = 0;
  if (!args.empty() && args[0].compare(0, 2, "--") != 0) result.command = args[i++];
  for (; i < args.size(); ++i) {
    std::string name = args[i].compare(0, 2, "--") == 0 ? args[i].substr(2) : "";
    for (char& c : name) c = c == '-' ? '_' : c;
    if (Contains(kFlags, name)) {
      result.settings.Set(name, true);
    } else if (Contains(kWithValue, name) && i + 1 < args.size()) {
      result.settings.Set(name, args[++i]);
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown or unfinished option ", args[i], "\n", kUsage));
    }
  }
  if (!result.Get("config").empty()) {
    GRAFT_RETURN_IF_ERROR(ReadSettings(result.Get("config"), result.settings));
  }
  if (result.Get("data").empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--data is missing\n", kUsage));
  }
  return result;
}

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  if (path.empty()) return std::string();
  return ReadFile(path, kMaxSettingsBytes);
}

// 32 random bytes that are made once and kept.
absl::StatusOr<std::string> KeptSecret(const std::string& path, Random& random) {
  if (FileExists(path)) return ReadFile(path, 64);
  const std::string secret = random.Bytes(32);
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(path, secret, {.mode = 0600}));
  return secret;
}

absl::StatusOr<std::unique_ptr<FileserviceLink>> Link(const Arguments& arguments, Clock& clock,
                                                      rpc::TokenSource& tokens) {
  if (arguments.Get("fileservice").empty()) return NoFileservice();
  rpc::DialOptions dial{.address = arguments.Get("fileservice"),
                        .insecure = arguments.Has("insecure"),
                        .tokens = &tokens};
  GRAFT_ASSIGN_OR_RETURN(dial.server_ca, ReadPem(arguments.Get("server_ca")));
  return ConnectFileservice(std::move(dial));
}

absl::Status Serve(const Arguments& arguments, const sigset_t& signals) {
  if (arguments.Has("no_auth") && !arguments.Has("insecure")) {
    return absl::FailedPreconditionError("--no-auth is for --insecure on loopback alone");
  }
  RealClock clock;
  SecureRandom random;
  const std::string data = arguments.Get("data");
  GRAFT_RETURN_IF_ERROR(MakeDirectories(JoinPath(data, "keys"), 0700));
  GRAFT_ASSIGN_OR_RETURN(const std::string seed,
                         KeptSecret(JoinPath(data, "keys/signing.seed"), random));
  GRAFT_ASSIGN_OR_RETURN(const std::string secret,
                         KeptSecret(JoinPath(data, "keys/attempt.secret"), random));
  GRAFT_ASSIGN_OR_RETURN(const rpc::TokenSigner signer, rpc::TokenSigner::FromSeed(seed));
  rpc::TokenSource own_token(clock, [&]() -> absl::StatusOr<rpc::AccessToken> {
    rpc::TokenClaims claims{.issuer = std::string(kTokenIssuer),
                            .audience = "fileservice",
                            .kind = rpc::IdentityKind::kScheduler,
                            .subject = "scheduler",
                            .jti = random.Id(),
                            .expires = clock.WallNow() + absl::Minutes(10)};
    claims.roles[std::string(rpc::kCluster)] = rpc::Role::kAdmin;
    GRAFT_ASSIGN_OR_RETURN(std::string token, signer.Sign(claims));
    return rpc::AccessToken{std::move(token), clock.Now() + absl::Minutes(10)};
  });
  GRAFT_ASSIGN_OR_RETURN(const auto files, Link(arguments, clock, own_token));
  GRAFT_ASSIGN_OR_RETURN(
      const auto store,
      RocksStore::Open({.folder = data, .accept_loss = arguments.Has("accept_loss")}));

  SchedulerOptions options{.no_auth = arguments.Has("no_auth"),
                           .fileservice_address = arguments.Get("fileservice"),
                           .attempt_secret = secret};
  options.server.address = arguments.Get("listen", "127.0.0.1:7600");
  options.server.metrics_address = arguments.Get("metrics");
  options.server.insecure = arguments.Has("insecure");
  GRAFT_ASSIGN_OR_RETURN(options.server.tls.certificate_chain,
                         ReadPem(arguments.Get("tls_certificate")));
  GRAFT_ASSIGN_OR_RETURN(options.server.tls.private_key, ReadPem(arguments.Get("tls_key")));
  GRAFT_ASSIGN_OR_RETURN(options.server.client_ca, ReadPem(arguments.Get("client_ca")));
  GRAFT_ASSIGN_OR_RETURN(const auto server, SchedulerServer::Start(std::move(options), *store,
                                                                   clock, random, *files, signer));
  if (!server->first_token().empty()) {
    const std::string path = JoinPath(data, "admin-token");
    GRAFT_RETURN_IF_ERROR(
        WriteFileAtomically(path, absl::StrCat(server->first_token(), "\n"), {.mode = 0600}));
    LOG_INFO("made users/admin; its token is in a file", {{"file", path}});
  }
  if (!arguments.Get("port_file").empty()) {
    GRAFT_RETURN_IF_ERROR(
        WriteFileAtomically(arguments.Get("port_file"), absl::StrCat(server->port(), "\n")));
  }
  LOG_INFO("serving", {{"port", server->port()}, {"data", data}, {"revision", store->revision()}});
  int signal = 0;
  sigwait(&signals, &signal);
  LOG_INFO("draining", {{"signal", signal}});
  server->Shutdown(kDrainTime);
  return absl::OkStatus();
}

absl::Status Check(const Arguments& arguments) {
  GRAFT_ASSIGN_OR_RETURN(const auto store,
                         RocksStore::Open({.folder = arguments.Get("data"),
                                           .accept_loss = arguments.Has("accept_loss")}));
  GRAFT_RETURN_IF_ERROR(CheckAuditChain(*store));
  GRAFT_ASSIGN_OR_RETURN(const int64_t records, CheckRecords(*store));
  std::cout << "the store is whole: revision " << store->revision() << ", " << records
            << " records, an unbroken audit trail\n";
  return absl::OkStatus();
}

absl::Status Backup(const Arguments& arguments) {
  if (arguments.Get("to").empty()) return absl::InvalidArgumentError("--to is missing");
  GRAFT_ASSIGN_OR_RETURN(const auto store, RocksStore::Open({.folder = arguments.Get("data")}));
  return store->Backup(arguments.Get("to"));
}

absl::Status Restore(const Arguments& arguments) {
  if (arguments.Get("from").empty()) return absl::InvalidArgumentError("--from is missing");
  if (FileExists(JoinPath(arguments.Get("data"), "db"))) {
    return absl::FailedPreconditionError(absl::StrCat(
        arguments.Get("data"), " holds a store already; restore into an empty folder"));
  }
  GRAFT_ASSIGN_OR_RETURN(const auto store, RocksStore::Open({.folder = arguments.Get("from")}));
  GRAFT_RETURN_IF_ERROR(CheckAuditChain(*store));
  GRAFT_RETURN_IF_ERROR(store->Backup(arguments.Get("data")));
  GRAFT_ASSIGN_OR_RETURN(const auto restored, RocksStore::Open({.folder = arguments.Get("data")}));
  return MarkRestored(*restored);
}

absl::Status Run(const std::vector<std::string>& args, const sigset_t& signals) {
  GRAFT_ASSIGN_OR_RETURN(const Arguments arguments, ParseArguments(args));
  if (arguments.command == "serve") return Serve(arguments, signals);
  if (arguments.command == "check") return Check(arguments);
  if (arguments.command == "backup") return Backup(arguments);
  if (arguments.command == "restore") return Restore(arguments);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown command ", arguments.command, "\n", kUsage));
}

}  // namespace
}  // namespace graft::scheduler

int main(int argc, char** argv) {
  graft::ConfigureLog(graft::LogLevel::kInfo, graft::LogFormat::kAuto, "graft-scheduler");
  // Before any thread is made, so that only sigwait sees them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() == 1 && args[0] == "--help") {
    std::cout << graft::scheduler::kUsage;
    return 0;
  }
  const absl::Status status = graft::scheduler::Run(args, signals);
  if (status.ok()) return 0;
  std::cerr << "graft-scheduler: " << status.message() << "\n";
  return 1;
}
