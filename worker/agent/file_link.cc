#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fileservice/transfer/client.h"
#include "worker/agent/grpc_links.h"

namespace graft::agent {
namespace {

// Written beside a version's folder once all of it is there and verified.
constexpr absl::string_view kCompleteSuffix = ".complete";

absl::StatusOr<std::unique_ptr<fileservice::Client>> Connect(const FileserviceOptions& options,
                                                             const std::string& address,
                                                             const std::string& token) {
  fileservice::Client::Options client;
  client.address = address;
  client.insecure = options.insecure;
  client.root_certificates = options.server_ca;
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

int64_t TreeSize(const std::string& folder) {
  int64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, error)) {
    if (entry.is_regular_file(error)) bytes += static_cast<int64_t>(entry.file_size(error));
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TransferFileLink>> TransferFileLink::Open(
    FileserviceOptions options) {
  std::unique_ptr<TransferFileLink> link(new TransferFileLink(std::move(options)));
  GRAFT_RETURN_IF_ERROR(link->Load());
  return link;
}

absl::Status TransferFileLink::Load() {
  GRAFT_RETURN_IF_ERROR(MakeDirectories(options_.cache_folder, 0700));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         ListDirectory(options_.cache_folder));
  MutexLock lock(mu_);
  for (const std::string& name : names) {
    if (absl::EndsWith(name, kCompleteSuffix)) continue;
    Entry entry;
    entry.complete = FileExists(absl::StrCat(PathOf(name), kCompleteSuffix));
    entry.bytes = TreeSize(PathOf(name));
    entry.used = absl::Now();
    entries_[name] = entry;
  }
  return absl::OkStatus();
}

std::string TransferFileLink::PathOf(const std::string& key) const {
  return JoinPath(options_.cache_folder, key);
}

void TransferFileLink::SetAddress(const std::string& address) {
  MutexLock lock(mu_);
  address_ = address;
}

absl::Status TransferFileLink::MakeRoom(int64_t bytes) {
  int64_t total = bytes;
  for (const auto& [key, entry] : entries_) total += entry.bytes;
  while (total > options_.cache_bytes) {
    auto oldest = entries_.end();
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (it->second.busy || !it->second.holders.empty()) continue;
      if (oldest == entries_.end() || it->second.used < oldest->second.used) oldest = it;
    }
    if (oldest == entries_.end()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the worker's cache of ", options_.cache_bytes,
                       " bytes is full of inputs in use; raise cache_bytes"));
    }
    LOG_INFO("cache entry removed", {{"key", oldest->first}, {"bytes", oldest->second.bytes}});
    const std::string path = PathOf(oldest->first);
    GRAFT_RETURN_IF_ERROR(RemoveTree(absl::StrCat(path, kCompleteSuffix)));
    GRAFT_RETURN_IF_ERROR(RemoveTree(path));
    total -= oldest->second.bytes;
    entries_.erase(oldest);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> TransferFileLink::Fetch(const v1::Input& input,
                                                    const std::string& token,
                                                    const std::string& holder,
                                                    const CancelFlag& cancel,
                                                    const OnProgress& progress) {
  GRAFT_ASSIGN_OR_RETURN(const std::string key, KeyOf(input));
  const std::string path = PathOf(key);
  std::string address;
  {
    MutexLock lock(mu_);
    // Somebody else's download of the same version is waited for.
    while (entries_.contains(key) && entries_[key].busy && !cancel) {
      ready_.WaitFor(mu_, absl::Milliseconds(100));
    }
    if (cancel) return absl::CancelledError("the attempt has ended");
    Entry& entry = entries_[key];
    ++entry.holders[holder];
    entry.used = absl::Now();
    if (entry.complete) return path;
    entry.busy = true;
    entry.bytes = 0;
    const absl::Status room = MakeRoom(input.size_bytes());
    if (!room.ok()) {
      entries_.erase(key);
      return room;
    }
    entries_[key].bytes = input.size_bytes();
    address = address_;
  }
  const auto download = [&]() -> absl::Status {
    GRAFT_ASSIGN_OR_RETURN(const auto client, Connect(options_, address, token));
    GRAFT_ASSIGN_OR_RETURN(
        const fileservice::Downloaded done,
        client->DownloadVersion(
            input.version(), path, {.remove_others = true}, [&](const fileservice::Progress& now) {
              progress({.bytes_done = now.done_bytes, .bytes_total = now.total_bytes});
              return !cancel;
            }));
    return WriteFileAtomically(absl::StrCat(path, kCompleteSuffix), done.version);
  };
  const absl::Status status = download();
  MutexLock lock(mu_);
  Entry& entry = entries_[key];
  entry.busy = false;
  entry.complete = status.ok();
  entry.used = absl::Now();
  entry.bytes = TreeSize(path);
  ready_.SignalAll();
  if (status.ok()) return path;
  entry.holders.erase(holder);
  return status;
}

void TransferFileLink::Release(const std::string& holder) {
  MutexLock lock(mu_);
  for (auto& [key, entry] : entries_) entry.holders.erase(holder);
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
