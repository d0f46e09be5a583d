// For tests and benches: a whole fileservice in this process, whose callers' roles are in their
// tokens.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fileservice/service/data_service.h"
#include "fileservice/service/exchange.h"
#include "fileservice/service/file_intake.h"
#include "fileservice/service/fileset_service.h"
#include "fileservice/service/http_files.h"
#include "fileservice/service/storage_service.h"
#include "rpc/server.h"

namespace graft::fileservice {

// The token "ws:user,other:viewer" holds these roles; "worker;ws:user" is a worker's.
class TokensAreRoles final : public rpc::Authenticator {
 public:
  absl::StatusOr<std::shared_ptr<const rpc::Identity>> Authenticate(
      const rpc::Credentials& credentials) override {
    if (credentials.bearer.empty()) return absl::UnauthenticatedError("a token is missing");
    auto identity = std::make_shared<rpc::Identity>();
    absl::string_view roles = credentials.bearer;
    identity->kind = absl::ConsumePrefix(&roles, "worker;") ? rpc::IdentityKind::kWorker
                                                            : rpc::IdentityKind::kUser;
    identity->subject = "users/test";
    for (const absl::string_view one : absl::StrSplit(roles, ',')) {
      const std::pair<std::string, std::string> parts = absl::StrSplit(one, ':');
      GRAFT_ASSIGN_OR_RETURN(identity->roles[parts.first], rpc::ParseRole(parts.second));
    }
    return identity;
  }
};

// Everything of one process, on free ports of loopback.
struct Daemon {
  // `server_options`: plaintext on loopback unless they say otherwise.
  explicit Daemon(const std::string& folder, Clock& clock,
                  rpc::ServerOptions server_options = {.insecure = true})
      : watch(clock, absl::Seconds(30)) {
    db = *Database::Open(folder + "/index", {.watermark_dir = folder + "/watermark"});
    ChunkStore::Options options;
    options.directory = folder + "/packs";
    options.reserve_bytes = 0;
    store = *ChunkStore::Open(*db, RealFiles(), clock, options);
    catalog = std::make_unique<Catalog>(*db, *store, clock, random, Catalog::Options{});
    GRAFT_CHECK_OK(catalog->Open());
    plane.reset(new DataPlane{*catalog, *store, budget, watch, clock, cache, intakes, verified});
    door = *HttpListener::Bind({.address = "127.0.0.1:0"});
    urls = std::make_unique<UrlSigner>(std::string(32, 'k'),
                                       absl::StrCat("http://127.0.0.1:", door->port()));
    exchange = std::make_unique<Exchange>(*plane, std::string(32, 'x'));
    data = std::make_unique<DataService>(*plane, urls.get(), exchange.get());
    storage = std::make_unique<StorageService>(*catalog, *store, RealFiles(), clock);
    filesets = std::make_unique<FileSetService>(*catalog, FileSetService::Options{{folder}});
    server_options.bulk_data = true;
    server_options.authenticator = &authenticator;
    std::vector<rpc::Service> services;
    services.push_back(data->Bind());
    services.push_back(filesets->Bind());
    services.push_back(storage->Bind());
    server = *rpc::Server::Start(server_options, std::move(services));
    files = std::make_unique<HttpFiles>(*plane, authenticator, *urls);
    door->Serve([this](const HttpRequest& request, HttpConnection& connection) {
      return files->Answer(request, connection);
    });
  }

  SecureRandom random;
  TokensAreRoles authenticator;
  ByteBudget budget{256 << 20};
  ChunkCache cache{8 << 20};
  IntakeTable intakes;
  VerifiedFiles verified;
  StallWatch watch;
  std::unique_ptr<Database> db;
  std::unique_ptr<ChunkStore> store;
  std::unique_ptr<Catalog> catalog;
  std::unique_ptr<DataPlane> plane;
  std::unique_ptr<UrlSigner> urls;
  std::unique_ptr<Exchange> exchange;
  std::unique_ptr<DataService> data;
  std::unique_ptr<FileSetService> filesets;
  std::unique_ptr<StorageService> storage;
  std::unique_ptr<HttpFiles> files;
  std::unique_ptr<HttpListener> door;
  std::unique_ptr<rpc::Server> server;
};

}  // namespace graft::fileservice
