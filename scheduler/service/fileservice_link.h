// What the scheduler asks of the fileservice. Calls block and are made from Background's threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "rpc/client.h"
#include "worker/spec/byte_source.h"

namespace graft::scheduler {

struct FilesetVersion {
  std::string name;    // by number: workspaces/{w}/filesets/{f}/versions/{n}
  std::string digest;  // "sha256:..."
  int64_t size_bytes = 0;
};

// Thread-safe.
class FileserviceLink {
 public:
  virtual ~FileserviceLink() = default;
  // A fileset (then its latest version) or a version by number, digest or ref.
  virtual absl::StatusOr<FilesetVersion> Resolve(const std::string& fileset_or_version) = 0;
  // Idempotent. A pinned version is not deleted while the holder needs it.
  virtual absl::Status PutPin(const std::string& version, const std::string& holder) = 0;
  virtual absl::Status DeletePin(const std::string& version, const std::string& holder) = 0;
  struct PinInfo {
    std::string version;
    std::string holder;
    absl::Time created;
  };
  // The version, and its fileset where it was the last one there. FAILED_PRECONDITION while
  // somebody holds a pin.
  virtual absl::Status DeleteVersion(const std::string& version) = 0;
  // Of every workspace.
  virtual absl::StatusOr<std::vector<PinInfo>> ListPins() = 0;
  // Deletes every fileset of the workspace, pinned or not.
  virtual absl::Status DeleteFilesets(const std::string& workspace) = 0;
  // Idempotent. `purpose` is graft.v1.FileSetPurpose.
  virtual absl::Status EnsureFileset(const std::string& fileset, int purpose) = 0;
  // A session that only the scheduler publishes.
  virtual absl::StatusOr<std::string> OpenSession(const std::string& fileset) = 0;
  // Idempotent: a published session answers its version again. The version is pinned for `holder`.
  virtual absl::StatusOr<FilesetVersion> Publish(const std::string& session,
                                                 const std::string& holder,
                                                 const std::string& message) = 0;
  // Of its disk; at most half a minute old.
  virtual absl::StatusOr<int64_t> FreeBytes() = 0;
  // The files of a version, read in ranges as they are asked for.
  virtual absl::StatusOr<std::unique_ptr<spec::ModelFiles>> OpenModel(
      const std::string& version) = 0;
};

// Over gRPC.
absl::StatusOr<std::unique_ptr<FileserviceLink>> ConnectFileservice(rpc::DialOptions options);
// Where no fileservice is configured: everything is UNAVAILABLE and says so.
std::unique_ptr<FileserviceLink> NoFileservice();

}  // namespace graft::scheduler
