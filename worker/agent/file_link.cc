#include <memory>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/transfer/client.h"
#include "worker/agent/grpc_links.h"

namespace graft::agent {
namespace {

absl::StatusOr<std::unique_ptr<fileservice::Client>> Connect(const FileserviceOptions& options,
                                                             const std::string& address,
                                                             const std::string& token) {
  fileservice::Client::Options client;
  client.address = address;
  client.insecure = options.insecure;
  client.root_certificates = options.server_ca;
  client.client_certificate = options.client_certificate;
  client.client_key = options.client_key;
  client.token = [token]() -> absl::StatusOr<std::string> { return token; };
  return fileservice::Client::Connect(std::move(client));
}

// The cache's key as a file name: a digest is "sha256:<hex>".
absl::StatusOr<std::string> KeyOf(const v1::Input& input) {
  std::string key = input.digest().empty() ? input.version() : input.digest();
  for (char& c : key) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c))) c = '-';
  }
  if (key.empty() || key.size() > 255) {
    return absl::InvalidArgumentError("an input has neither digest nor version");
  }
  return key;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TransferFileLink>> TransferFileLink::Open(
    FileserviceOptions options) {
  GRAFT_ASSIGN_OR_RETURN(auto cache,
                         fileservice::FolderCache::Open(
                             {.folder = options.cache_folder, .max_bytes = options.cache_bytes}));
  return std::unique_ptr<TransferFileLink>(
      new TransferFileLink(std::move(options), std::move(cache)));
}

void TransferFileLink::SetAddress(const std::string& address) {
  MutexLock lock(mu_);
  address_ = address;
}

absl::StatusOr<std::string> TransferFileLink::Fetch(const v1::Input& input,
                                                    const std::string& token,
                                                    const std::string& holder,
                                                    const CancelFlag& cancel,
                                                    const OnProgress& progress) {
  GRAFT_ASSIGN_OR_RETURN(const std::string key, KeyOf(input));
  const auto tell = [&](const fileservice::Progress& now) {
    progress({.bytes_done = now.done_bytes, .bytes_total = now.total_bytes});
    return !cancel;
  };
  std::unique_ptr<fileservice::Client> client;
  std::unique_ptr<fileservice::SwarmMember> member;
  const auto fill = [&](const std::string& path) {
    return Fill(input, token, path, tell, client, member);
  };
  GRAFT_ASSIGN_OR_RETURN(fileservice::FolderCache::Pin pin,
                         cache_->Get(key, {.bytes = input.size_bytes()}, fill,
                                     [&cancel]() -> bool { return cancel; }));
  std::string path = pin.path();
  MutexLock lock(mu_);
  held_[holder].push_back({std::move(pin), std::move(client), std::move(member)});
  return path;
}

absl::Status TransferFileLink::Fill(const v1::Input& input, const std::string& token,
                                    const std::string& path,
                                    const fileservice::ProgressCallback& tell,
                                    std::unique_ptr<fileservice::Client>& client,
                                    std::unique_ptr<fileservice::SwarmMember>& member) {
  std::string address;
  {
    MutexLock lock(mu_);
    address = address_;
  }
  GRAFT_ASSIGN_OR_RETURN(client, Connect(options_, address, token));
  if (!options_.swarm_host.empty()) {
    fileservice::SwarmOptions swarm;
    swarm.listen = absl::StrCat(options_.swarm_host, ":0");
    swarm.allow_remote = true;
    absl::StatusOr<std::unique_ptr<fileservice::SwarmMember>> joined =
        fileservice::SwarmMember::Fetch(*client, input.version(), path, swarm, tell);
    if (joined.ok()) member = *std::move(joined);
    // What cannot be shared comes alone.
    if (!absl::IsFailedPrecondition(joined.status())) return joined.status();
  }
  return client->DownloadVersion(input.version(), path, {.remove_others = true}, tell).status();
}

void TransferFileLink::Release(const std::string& holder) {
  std::vector<Held> released;  // let go of behind the lock: leaving the others takes a moment
  MutexLock lock(mu_);
  const auto found = held_.find(holder);
  if (found == held_.end()) return;
  released = std::move(found->second);
  held_.erase(found);
}

absl::StatusOr<int64_t> TransferFileLink::Upload(const std::string& folder,
                                                 const std::string& session,
                                                 const std::string& token,
                                                 const CancelFlag& cancel) {
  std::string address;
  {
    MutexLock lock(mu_);
    address = address_;
  }
  GRAFT_ASSIGN_OR_RETURN(const auto client, Connect(options_, address, token));
  GRAFT_ASSIGN_OR_RETURN(
      const fileservice::Uploaded done,
      client->UploadIntoSession(folder, session, {},
                                [&cancel](const fileservice::Progress&) { return !cancel; }));
  return done.totals.total_bytes;
}

}  // namespace graft::agent
