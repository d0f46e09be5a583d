// The calls that transfers make, without gRPC in the header: one TU of this folder sees it.
//
// Thread-safe. Streams are for one thread each.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/digest.h"
#include "fileservice/cas/chunker.h"
#include "fileservice/transfer/client.h"

namespace graft::fileservice {

// What goes up in one message, at most.
inline constexpr size_t kMessageBytes = 4 << 20;

struct OutgoingChunk {
  Sha256Digest id;
  absl::string_view bytes;
  // Keeps `bytes` until they are sent: the transport reads them after Send has returned.
  std::shared_ptr<const void> owner;
  // The session has it: named where it stands in the file, and not sent. `bytes` is a length alone.
  bool held = false;
};

struct LocalFile {
  std::string path;  // in the fileset
  int64_t size = 0;
  Sha256Digest sha256{};  // of a manifest; for files that go up the server computes it
  bool executable = false;
  ChunkProfile profile = ChunkProfile::kContent;
  std::vector<std::pair<Sha256Digest, uint32_t>> chunks;
};

// One Upload call. Send may block by the network's speed; Finish waits until all is durable.
class UploadCall {
 public:
  virtual ~UploadCall() = default;
  // Those of the chunks that are not held have at most kMessageBytes together.
  virtual absl::Status Send(absl::Span<const OutgoingChunk> chunks) = 0;
  virtual absl::Status Finish() = 0;
};

// Bytes that arrived, valid during the call that takes them.
struct Piece {
  int64_t offset;
  absl::string_view bytes;
};

// One ExchangePieces call. Send may be called from any thread; destroying it leaves the swarm.
class ExchangeCall {
 public:
  struct News {
    std::vector<std::pair<std::string, std::string>> peers;  // address, pieces as bytes
    std::vector<uint32_t> from_origin;
    std::vector<std::string> gone;
    std::string token;  // empty: as before
  };
  virtual ~ExchangeCall() = default;
  // False once the call has ended.
  virtual bool Send(absl::Span<const uint32_t> completed, absl::Span<const std::string> liars) = 0;
};

class Link {
 public:
  static absl::StatusOr<std::unique_ptr<Link>> Dial(const Client::Options& options);
  virtual ~Link() = default;

  // OK also when it was there.
  virtual absl::Status CreateFileset(const std::string& fileset, int purpose) = 0;
  virtual absl::StatusOr<std::string> CreateSession(const std::string& fileset,
                                                    const UploadOptions& options, bool fenced) = 0;
  // Whether more can be put into it.
  virtual absl::StatusOr<bool> IsSessionOpen(const std::string& session) = 0;
  virtual absl::Status AbortSession(const std::string& session) = 0;
  virtual absl::StatusOr<std::vector<uint32_t>> FindMissing(const std::string& session,
                                                            absl::Span<const Sha256Digest> ids) = 0;
  virtual std::unique_ptr<UploadCall> Upload(const std::string& session) = 0;
  virtual absl::Status Stage(const std::string& session, absl::Span<const LocalFile> files) = 0;
  virtual absl::StatusOr<Published> Publish(const std::string& session,
                                            const UploadOptions& options,
                                            const std::string& pin_holder) = 0;
  virtual absl::StatusOr<std::string> ResolveVersion(const std::string& version) = 0;
  virtual absl::StatusOr<std::vector<RemoteFile>> ListFiles(const std::string& version,
                                                            absl::string_view path_prefix) = 0;
  // The files with their chunks. FAILED_PRECONDITION when the version was registered in place.
  virtual absl::StatusOr<std::vector<LocalFile>> GetManifest(const std::string& version) = 0;
  // Calls `take` with each chunk, by its index in `ids`, in any order. Nothing is verified.
  virtual absl::Status DownloadChunks(
      const std::string& version, absl::Span<const Sha256Digest> ids,
      const std::function<absl::Status(uint32_t, absl::string_view)>& take) = 0;
  // Joins the workers that fetch `version`. `take` runs on a thread of the call's, `ended` last.
  virtual std::unique_ptr<ExchangeCall> Exchange(
      const std::string& version, const std::string& address,
      std::function<void(const ExchangeCall::News&)> take,
      std::function<void(absl::Status)> ended) = 0;
  // Calls `take` with the bytes of the range in order.
  virtual absl::Status Download(const std::string& version, const std::string& path, int64_t offset,
                                int64_t length,
                                const std::function<absl::Status(const Piece&)>& take) = 0;
};

// Whether the same call may succeed a little later.
inline bool IsTransient(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsAborted(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsInternal(status);
}

}  // namespace graft::fileservice
