// graft-fileservice: filesets over content-addressed chunks. This file wires; nothing is decided
// here.
#include <signal.h>

#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/catalog/catalog.h"
#include "fileservice/commands.h"
#include "fileservice/service/credentials.h"
#include "fileservice/service/data_service.h"
#include "fileservice/service/file_intake.h"
#include "fileservice/service/fileset_service.h"
#include "fileservice/service/http_files.h"
#include "fileservice/service/settings.h"
#include "fileservice/service/storage_service.h"
#include "fileservice/service/upkeep.h"
#include "fileservice/transfer/allocator.h"
#include "rpc/server.h"

namespace graft::fileservice {
namespace {

// Nobody new is served meanwhile: what is larger goes on with the next process where it was cut.
constexpr absl::Duration kDrainTime = absl::Seconds(1);

constexpr absl::string_view kUsage =
    R"(usage: graft-fileservice --data DIR [--config FILE] [OPTIONS]
       graft-fileservice COMMAND ...

Serves filesets. FILE has settings, protobuf text or JSON: the options' names with '_'; options stand
above it. The ones most used:
  --data DIR          where packs and index lie
  --listen HOST:PORT  port 0 takes a free one, which --port-file tells (127.0.0.1:7071)
  --http HOST:PORT    files over HTTP/1.1 too; its port is the second line of --port-file
  --insecure          plaintext; loopback addresses only
  --no-auth           no tokens, everyone may do everything; with --insecure only
  --accept-loss       go on with an index that is known to have lost acknowledged writes

Commands:
)";

absl::StatusOr<Settings> ParseArguments(const std::vector<std::string>& args) {
  Settings settings;
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> words, ReadSettings(args, settings));
  if (words.empty()) return settings;
  return absl::InvalidArgumentError(absl::StrCat("there is no command ", words[0], "; see --help"));
}

// The HTTP door where there is one.
struct OptionalDoor {
  std::unique_ptr<UrlSigner> urls;
  std::unique_ptr<HttpFiles> files;
  std::unique_ptr<HttpListener> door;  // ends before what it uses
};

absl::StatusOr<OptionalDoor> OpenDoor(const Settings& settings) {
  OptionalDoor result;
  if (settings.http().empty()) return result;
  HttpListener::Options options;
  options.address = settings.http();
  options.allow_remote = settings.http_allow_remote();
  options.max_connections = static_cast<int>(settings.http_max_connections());
  options.stall_timeout = absl::Seconds(settings.stall_timeout_s());
  const bool plain = settings.insecure() || settings.http_allow_remote();
  if (!plain) {
    GRAFT_ASSIGN_OR_RETURN(const rpc::TlsIdentity tls, ReadTlsIdentity(settings));
    options.tls_certificate = tls.certificate_chain;
    options.tls_key = tls.private_key;
  }
  GRAFT_ASSIGN_OR_RETURN(result.door, HttpListener::Bind(options));
  GRAFT_ASSIGN_OR_RETURN(std::string key, UrlSigner::LoadKey(JoinPath(settings.data(), "url_key")));
  const std::string host = settings.http().substr(0, settings.http().rfind(':'));
  result.urls = std::make_unique<UrlSigner>(
      std::move(key),
      settings.http_base_url().empty()
          ? absl::StrCat(plain ? "http://" : "https://", host, ":", result.door->port())
          : settings.http_base_url());
  return result;
}

Upkeep::Options UpkeepOptions(const Settings& settings) {
  Upkeep::Options options;
  options.interval = absl::Seconds(settings.gc_interval_s());
  options.collecting.grace = absl::Seconds(settings.gc_grace_s());
  options.collecting.trash_time = absl::Seconds(settings.gc_trash_s());
  options.collecting.max_share = static_cast<double>(settings.gc_max_percent()) / 100;
  options.versions_per_keyframe = settings.versions_per_keyframe();
  options.scrub_bytes_per_second = settings.scrub_bytes_per_s();
  options.scrub_cycle = absl::Seconds(settings.scrub_cycle_s());
  options.repair_from = {settings.repair_from().begin(), settings.repair_from().end()};
  return options;
}

absl::Status Serve(const Settings& settings, const sigset_t& signals) {
  RealClock clock;
  SecureRandom random;
  GRAFT_RETURN_IF_ERROR(MakeDirectories(settings.data(), 0750));
  GRAFT_ASSIGN_OR_RETURN(const auto db, Database::Open(IndexFolder(settings),
                                                       {.watermark_dir = WatermarkFolder(settings),
                                                        .accept_loss = settings.accept_loss()}));
  ChunkStore::Options store_options;
  store_options.directory = PackFolder(settings);
  store_options.pack_bytes = settings.pack_bytes();
  store_options.reserve_bytes = settings.reserve_bytes();
  GRAFT_ASSIGN_OR_RETURN(const auto store,
                         ChunkStore::Open(*db, RealFiles(), clock, store_options));
  Catalog::Options catalog_options;
  catalog_options.default_quota_bytes = settings.default_quota_bytes();
  catalog_options.quota_bytes = {settings.quota_bytes().begin(), settings.quota_bytes().end()};
  catalog_options.session_ttl = absl::Seconds(settings.session_ttl_s());
  Catalog catalog(*db, *store, clock, random, catalog_options);
  GRAFT_RETURN_IF_ERROR(catalog.Open());

  ByteBudget budget(settings.max_inflight_bytes());
  StallWatch watch(clock, absl::Seconds(settings.stall_timeout_s()));
  ChunkCache cache(static_cast<size_t>(settings.chunk_cache_bytes()));
  IntakeTable intakes;
  VerifiedFiles verified;
  DataPlane plane{catalog, *store, budget, watch, clock, cache, intakes, verified};
  FileSetService filesets(catalog,
                          {{settings.in_place_roots().begin(), settings.in_place_roots().end()}});
  GRAFT_ASSIGN_OR_RETURN(const auto credentials, ServerCredentials::Load(settings, clock));
  GRAFT_ASSIGN_OR_RETURN(OptionalDoor door, OpenDoor(settings));
  std::unique_ptr<Exchange> exchange;
  if (settings.fan_out()) exchange = std::make_unique<Exchange>(plane, random.Bytes(32));
  DataService data(plane, door.urls.get(), exchange.get());
  StorageService storage(catalog, *store, RealFiles(), clock);

  rpc::ServerOptions options;
  options.address = settings.listen();
  options.bulk_data = true;
  options.metrics_address = settings.metrics();
  options.health = [&db] { return db->health(); };
  GRAFT_RETURN_IF_ERROR(credentials->Apply(options));
  GRAFT_ASSIGN_OR_RETURN(const auto server, rpc::Server::Start(options, [&] {
                           std::vector<rpc::Service> services;
                           services.push_back(filesets.Bind());
                           services.push_back(data.Bind());
                           services.push_back(storage.Bind());
                           return services;
                         }()));
  StoreMetrics metrics(server->registry());
  const Upkeep upkeep(catalog, *store, clock, metrics, UpkeepOptions(settings));
  if (door.door != nullptr) {
    door.files = std::make_unique<HttpFiles>(plane, credentials->authenticator(), *door.urls);
    door.door->Serve(
        [files = door.files.get()](const HttpRequest& request, HttpConnection& connection) {
          return files->Answer(request, connection);
        });
    LOG_INFO("serving files over HTTP", {{"port", door.door->port()}});
  }
  if (!settings.port_file().empty()) {
    const std::string http = door.door == nullptr ? "" : absl::StrCat(door.door->port(), "\n");
    GRAFT_RETURN_IF_ERROR(
        WriteFileAtomically(settings.port_file(), absl::StrCat(server->port(), "\n", http)));
  }
  LOG_INFO("serving filesets", {{"port", server->port()}, {"data", settings.data()}});
  int signal = 0;
  sigwait(&signals, &signal);
  LOG_INFO("draining", {{"signal", signal}, {"at_most", absl::FormatDuration(kDrainTime)}});
  server->Shutdown(kDrainTime);
  const absl::Status flushed = db->Flush();
  if (!flushed.ok()) LOG_WARNING("the next start reads the log", {{"status", flushed.ToString()}});
  return absl::OkStatus();
}

}  // namespace
}  // namespace graft::fileservice

int main(int argc, char** argv) {
  using graft::fileservice::ParseArguments;
  graft::fileservice::TuneAllocatorForTransfers();
  graft::ConfigureLog(graft::LogLevel::kInfo, graft::LogFormat::kAuto, "graft-fileservice");
  // Before any thread is made, so that only sigwait sees them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() == 1 && args[0] == "--help") {
    std::cout << graft::fileservice::kUsage << graft::fileservice::CommandUsage();
    return 0;
  }
  if (!args.empty() && graft::fileservice::IsCommand(args[0])) {
    return graft::fileservice::RunCommand(args[0], {args.begin() + 1, args.end()});
  }
  const auto settings = ParseArguments(args);
  if (!settings.ok()) {
    std::cerr << "graft-fileservice: " << settings.status().message() << "\n";
    return 2;
  }
  const absl::Status status = graft::fileservice::Serve(*settings, signals);
  if (status.ok()) return 0;
  std::cerr << "graft-fileservice: " << status.message() << "\n";
  return 1;
}
