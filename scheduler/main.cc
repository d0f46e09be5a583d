// graft-scheduler: the control plane. This file wires; nothing is decided here.
#include <signal.h>

#include <cerrno>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "rpc/access_token.h"
#include "rpc/config.h"
#include "scheduler/scheduler_config.pb.h"
#include "scheduler/service/auth_service.h"
#include "scheduler/service/engine.h"
#include "scheduler/service/fileservice_link.h"
#include "scheduler/service/scheduler_server.h"
#include "scheduler/store/rocks_store.h"

namespace graft::scheduler {
namespace {

// Much less than a worker's lease, in which it must find the next process.
constexpr absl::Duration kDrainTime = absl::Seconds(5);
constexpr char kDefaultAddress[] = "127.0.0.1:7600";
constexpr int kDefaultStreams = 1000;
constexpr int64_t kMaxPemBytes = 1 << 20;

constexpr absl::string_view kUsage =
    R"(usage: graft-scheduler [serve] [--config FILE] [OPTIONS]
       graft-scheduler check   --data DIR
       graft-scheduler backup  --data DIR --to DIR
       graft-scheduler restore --data DIR --from DIR

  --config FILE            settings, protobuf text or JSON: the options' names with '_'; options stand above it
  --data DIR               the store and the keys
  --listen HOST:PORT       port 0 takes a free one, which --port-file tells (127.0.0.1:7600)
  --port-file FILE         the port in use, written when it serves
  --metrics HOST:PORT      /metrics and /healthz
  --calls-per-second N     for each user; 0: no bound (0)
  --concurrent-streams N   for each user; 0: no bound (1000)
  --keep-room-after-minutes N
                           how long a blocked job waits at most before devices are kept for
                           it; less where twice its own run time is (240)
  --fileservice HOST:PORT  where filesets are; also told to clients and workers
  --tls-certificate FILE   PEM; with --tls-key
  --tls-key FILE
  --client-ca FILE         PEM; client certificates are verified with it
  --server-ca FILE         PEM; the fileservice's certificate is verified with it
  --insecure               plaintext; loopback addresses only
  --no-auth                callers without a token are administrators; with --insecure only
  --fake-trainer           training is simulated; every job says so
  --accept-loss            serve a store that is known to have lost acknowledged writes
  --to DIR                 SIGUSR1 puts a backup of that moment into a new folder there, while it serves
check proves the audit trail and reads every record. restore fills an empty folder from a backup; the
restored cluster counts on with new epochs, so that workers of the old one are refused.
)";

using config::SchedulerConfig;

struct Arguments {
  std::string command = "serve";
  SchedulerConfig config;
};

absl::StatusOr<Arguments> ParseArguments(const std::vector<std::string>& args) {
  Arguments result;
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> words,
                         rpc::ReadArguments(args, result.config));
  if (words.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("unknown word ", words[1], "\n", kUsage));
  }
  if (!words.empty()) result.command = words[0];
  if (result.config.data().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--data is missing\n", kUsage));
  }
  return result;
}

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  if (path.empty()) return std::string();
  return ReadFile(path, kMaxPemBytes);
}

// 32 random bytes that are made once and kept.
absl::StatusOr<std::string> KeptSecret(const std::string& path, Random& random) {
  if (FileExists(path)) return ReadFile(path, 64);
  const std::string secret = random.Bytes(32);
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(path, secret, {.mode = 0600}));
  return secret;
}

absl::StatusOr<std::unique_ptr<FileserviceLink>> Link(const SchedulerConfig& config, Clock& clock,
                                                      rpc::TokenSource& tokens) {
  if (config.fileservice().empty()) return NoFileservice();
  rpc::DialOptions dial{
      .address = config.fileservice(), .insecure = config.insecure(), .tokens = &tokens};
  GRAFT_ASSIGN_OR_RETURN(dial.server_ca, ReadPem(config.server_ca()));
  return ConnectFileservice(std::move(dial));
}

// A folder of its own under `to`, which is there when the backup is whole.
absl::Status BackUpWhileServing(const std::string& to, const RocksStore& store, absl::Time now) {
  if (to.empty()) return absl::FailedPreconditionError("--to names no folder for backups");
  const std::string folder =
      JoinPath(to, absl::StrCat(absl::FormatTime("%Y%m%dT%H%M%E3SZ", now, absl::UTCTimeZone()),
                                "-r", store.revision()));
  const std::string part = folder + ".part";
  absl::Status status = MakeDirectories(to, 0700);
  if (status.ok()) status = store.Backup(part);
  if (status.ok() && std::rename(part.c_str(), folder.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", part));
  }
  if (!status.ok()) (void)RemoveTree(part);
  if (status.ok()) LOG_INFO("made a backup", {{"folder", folder}});
  return status;
}

// Until a signal ends it.
int ServeUntilTold(const SchedulerConfig& config, const RocksStore& store, Clock& clock,
                   const sigset_t& signals) {
  int signal = 0;
  while (sigwait(&signals, &signal) == 0 && signal == SIGUSR1) {
    const absl::Status made = BackUpWhileServing(config.to(), store, clock.WallNow());
    if (!made.ok()) LOG_ERROR("no backup", {{"error", made.message()}});
  }
  return signal;
}

absl::Status Serve(const SchedulerConfig& config, const sigset_t& signals) {
  if (config.no_auth() && !config.insecure()) {
    return absl::FailedPreconditionError("--no-auth is for --insecure on loopback alone");
  }
  RealClock clock;
  SecureRandom random;
  const std::string data = config.data();
  GRAFT_RETURN_IF_ERROR(MakeDirectories(JoinPath(data, "keys"), 0700));
  GRAFT_ASSIGN_OR_RETURN(const std::string seed,
                         KeptSecret(JoinPath(data, "keys/signing.seed"), random));
  GRAFT_ASSIGN_OR_RETURN(const std::string secret,
                         KeptSecret(JoinPath(data, "keys/attempt.secret"), random));
  GRAFT_ASSIGN_OR_RETURN(const std::string data_key,
                         KeptSecret(JoinPath(data, "keys/data.key"), random));
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
  GRAFT_ASSIGN_OR_RETURN(const auto files, Link(config, clock, own_token));
  GRAFT_ASSIGN_OR_RETURN(const auto store,
                         RocksStore::Open({.folder = data, .accept_loss = config.accept_loss()}));

  SchedulerOptions options{.no_auth = config.no_auth(),
                           .fileservice_address = config.fileservice(),
                           .attempt_secret = secret,
                           .data_key = data_key,
                           .rows_first = true,
                           .fake_trainer = config.fake_trainer()};
  options.server.address = config.listen().empty() ? kDefaultAddress : config.listen();
  options.server.metrics_address = config.metrics();
  options.server.insecure = config.insecure();
  if (config.keep_room_after_minutes() < 0) {
    return absl::InvalidArgumentError("keep_room_after_minutes is below 0");
  }
  if (config.has_keep_room_after_minutes()) {
    options.keep_room_after = absl::Minutes(config.keep_room_after_minutes());
  }
  options.server.calls_per_second = config.calls_per_second();
  options.server.concurrent_streams =
      config.has_concurrent_streams() ? config.concurrent_streams() : kDefaultStreams;
  GRAFT_ASSIGN_OR_RETURN(options.server.tls.certificate_chain, ReadPem(config.tls_certificate()));
  GRAFT_ASSIGN_OR_RETURN(options.server.tls.private_key, ReadPem(config.tls_key()));
  GRAFT_ASSIGN_OR_RETURN(options.server.client_ca, ReadPem(config.client_ca()));
  GRAFT_ASSIGN_OR_RETURN(const auto server, SchedulerServer::Start(std::move(options), *store,
                                                                   clock, random, *files, signer));
  if (!server->first_token().empty()) {
    const std::string path = JoinPath(data, "admin-token");
    GRAFT_RETURN_IF_ERROR(
        WriteFileAtomically(path, absl::StrCat(server->first_token(), "\n"), {.mode = 0600}));
    LOG_INFO("made users/admin; its token is in a file", {{"file", path}});
  }
  if (!config.port_file().empty()) {
    GRAFT_RETURN_IF_ERROR(
        WriteFileAtomically(config.port_file(), absl::StrCat(server->port(), "\n")));
  }
  LOG_INFO("serving", {{"port", server->port()}, {"data", data}, {"revision", store->revision()}});
  const int signal = ServeUntilTold(config, *store, clock, signals);
  LOG_INFO("draining", {{"signal", signal}});
  server->Shutdown(kDrainTime);
  if (const absl::Status flushed = store->Flush(); !flushed.ok()) {
    LOG_WARNING("the next start reads the logs", {{"error", flushed.message()}});
  }
  return absl::OkStatus();
}

absl::Status Check(const SchedulerConfig& config) {
  GRAFT_ASSIGN_OR_RETURN(const auto store, RocksStore::Open({.folder = config.data(),
                                                             .accept_loss = config.accept_loss()}));
  GRAFT_RETURN_IF_ERROR(CheckAuditChain(*store).status());
  GRAFT_ASSIGN_OR_RETURN(const int64_t records, CheckRecords(*store));
  std::cout << "the store is whole: revision " << store->revision() << ", " << records
            << " records, an unbroken audit trail\n";
  return absl::OkStatus();
}

absl::Status Backup(const SchedulerConfig& config) {
  if (config.to().empty()) return absl::InvalidArgumentError("--to is missing");
  GRAFT_ASSIGN_OR_RETURN(const auto store, RocksStore::Open({.folder = config.data()}));
  return store->Backup(config.to());
}

absl::Status Restore(const SchedulerConfig& config) {
  if (config.from().empty()) return absl::InvalidArgumentError("--from is missing");
  if (FileExists(JoinPath(config.data(), "db"))) {
    return absl::FailedPreconditionError(
        absl::StrCat(config.data(), " holds a store already; restore into an empty folder"));
  }
  GRAFT_ASSIGN_OR_RETURN(const auto store, RocksStore::Open({.folder = config.from()}));
  GRAFT_RETURN_IF_ERROR(CheckAuditChain(*store).status());
  GRAFT_RETURN_IF_ERROR(store->Backup(config.data()));
  GRAFT_ASSIGN_OR_RETURN(const auto restored, RocksStore::Open({.folder = config.data()}));
  return MarkRestored(*restored);
}

absl::Status Run(const std::vector<std::string>& args, const sigset_t& signals) {
  GRAFT_ASSIGN_OR_RETURN(const Arguments arguments, ParseArguments(args));
  if (arguments.command == "serve") return Serve(arguments.config, signals);
  if (arguments.command == "check") return Check(arguments.config);
  if (arguments.command == "backup") return Backup(arguments.config);
  if (arguments.command == "restore") return Restore(arguments.config);
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
  sigaddset(&signals, SIGUSR1);
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
