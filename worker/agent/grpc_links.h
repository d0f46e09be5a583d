// The scheduler and the fileservice over gRPC.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "fileservice/transfer/cache.h"
#include "fileservice/transfer/client.h"
#include "fileservice/transfer/swarm.h"
#include "worker/agent/links.h"

namespace graft::agent {

struct SchedulerAddress {
  std::string address;
  bool insecure = false;
  std::string server_ca;           // PEM
  std::string client_certificate;  // PEM; both for mTLS
  std::string client_key;
};

// Thread-safe. The access token is the one that the last answer carried.
class GrpcSchedulerLink final : public SchedulerLink {
 public:
  static absl::StatusOr<std::unique_ptr<GrpcSchedulerLink>> Connect(
      const SchedulerAddress& address);
  ~GrpcSchedulerLink() override;

  absl::StatusOr<v1::RegisterResponse> Register(const v1::RegisterRequest& request,
                                                absl::Duration deadline) override;
  void SetAccessToken(const std::string& token) override;
  void Synchronize(const v1::SynchronizeRequest& request, absl::Duration deadline,
                   OnSynchronized done) override;
  void CancelSynchronize() override;
  std::unique_ptr<EventStream> OpenEvents(EventStream::OnAck on_ack) override;
  std::unique_ptr<InferenceStream> OpenInference(OnInference on_command,
                                                 std::function<void(absl::Status)> on_end) override;

 private:
  struct State;
  std::string Token();
  explicit GrpcSchedulerLink(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct FileserviceOptions {
  bool insecure = false;
  std::string server_ca;           // PEM
  std::string client_certificate;  // PEM; both for mTLS
  std::string client_key;
  std::string cache_folder;
  int64_t cache_bytes = 100LL << 30;
  // Where the other workers reach this one to share what they fetch. Empty: it fetches alone.
  std::string swarm_host;
};

// Fetches into a cache that all attempts and processes of this node share: a folder a version,
// named by its digest, pinned while an attempt holds it. What came together with other workers is
// served to them for as long. Thread-safe.
class TransferFileLink final : public FileLink {
 public:
  static absl::StatusOr<std::unique_ptr<TransferFileLink>> Open(FileserviceOptions options);

  // Where the fileservice is; told by the scheduler at registration.
  void SetAddress(const std::string& address);
  absl::StatusOr<std::string> Fetch(const v1::Input& input, const std::string& token,
                                    const std::string& holder, const CancelFlag& cancel,
                                    const OnProgress& progress) override;
  void Release(const std::string& holder) override;
  absl::StatusOr<int64_t> Upload(const std::string& folder, const std::string& session,
                                 const std::string& token, const CancelFlag& cancel) override;

 private:
  TransferFileLink(FileserviceOptions options, std::unique_ptr<fileservice::FolderCache> cache)
      : options_(std::move(options)), cache_(std::move(cache)) {}

  const FileserviceOptions options_;
  const std::unique_ptr<fileservice::FolderCache> cache_;
  Mutex mu_;
  std::string address_ GRAFT_GUARDED_BY(mu_);
  // A folder, and the membership by which it came.
  struct Held {
    fileservice::FolderCache::Pin pin;
    std::unique_ptr<fileservice::Client> client;       // null: it was there
    std::unique_ptr<fileservice::SwarmMember> member;  // null: it came alone
  };
  absl::Status Fill(const v1::Input& input, const std::string& token, const std::string& path,
                    const fileservice::ProgressCallback& tell,
                    std::unique_ptr<fileservice::Client>& client,
                    std::unique_ptr<fileservice::SwarmMember>& member);

  // What each attempt holds.
  std::map<std::string, std::vector<Held>> held_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::agent
