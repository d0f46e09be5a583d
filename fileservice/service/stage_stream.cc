#include "fileservice/service/stage_stream.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "fileservice/service/convert.h"
#include "fileservice/service/data_stream.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

// Whose rows are looked up at a time.
constexpr size_t kSliceChunks = 1024;

class StageStream final : public DataStream<grpc::ServerReadReactor<v1::StageFilesRequest>> {
 public:
  StageStream(DataPlane& plane, std::shared_ptr<rpc::Call> call, v1::StageFilesResponse* response)
      : DataStream(plane, std::move(call)), response_(response) {}

  void Start() {
    Begin();
    StartRead(&request_);
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      if (!path_.empty()) {
        return End(absl::InvalidArgumentError(
            absl::StrCat("the stream ended before all chunks of \"", path_, "\" were named")));
      }
      return Answer();
    }
    Touch(plane_.clock);
    const absl::Status status = Take();
    if (!status.ok()) return End(status);
    Touch(plane_.clock);
    MutexLock lock(mu_);
    if (!finished_) StartRead(&request_);
  }

  void Answer() {
    MutexLock lock(mu_);
    if (finished_) return;
    response_->set_file_count(files_);
    response_->set_size_bytes(bytes_);
    FinishOnce(absl::OkStatus());
  }

  absl::Status Take() {
    if (session_.id.empty()) {
      GRAFT_ASSIGN_OR_RETURN(session_, UsableSession(plane_.catalog, *call_, request_.session()));
    }
    for (const v1::FileManifest& part : request_.files()) GRAFT_RETURN_IF_ERROR(TakePart(part));
    return absl::OkStatus();
  }

  absl::Status TakePart(const v1::FileManifest& part) {
    const std::string& path = part.file().path();
    if (path_.empty()) {
      GRAFT_RETURN_IF_ERROR(CheckPath(path));
      path_ = path;
      file_ = FilePage();
      file_.profile = FromMessage(part.profile());
      list_ = ChunkListHash();
    }
    const auto have = static_cast<int64_t>(file_.chunks.size());
    const std::string& ids = part.chunk_ids();
    if (path != path_ || part.first_chunk() != have) {
      return absl::InvalidArgumentError(absl::StrCat("\"", path, "\" from chunk ",
                                                     part.first_chunk(), " came where \"", path_,
                                                     "\" from chunk ", have, " was expected"));
    }
    if (ids.size() != static_cast<size_t>(part.chunk_sizes_size()) * sizeof(ChunkId)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", path, "\" needs 32 bytes of chunk_ids for each of chunk_sizes"));
    }
    for (int i = 0; i < part.chunk_sizes_size(); ++i) {
      const ChunkRef chunk{
          DigestFromBytes(absl::string_view(ids).substr(static_cast<size_t>(i) * sizeof(ChunkId))),
          part.chunk_sizes(i)};
      file_.chunks.push_back(chunk);
      list_.Add(BytesOf(chunk.id), chunk.size);
    }
    if (static_cast<int64_t>(file_.chunks.size()) < part.chunk_count()) return absl::OkStatus();
    return StageWhole(part);
  }

  // From what is stored.
  absl::StatusOr<Sha256Digest> HashFile() {
    if (file_.chunks.size() == 1) return file_.chunks[0].id;
    Sha256 hash;
    for (size_t begin = 0; begin < file_.chunks.size(); begin += kSliceChunks) {
      GRAFT_RETURN_IF_ERROR(
          HashSlice(absl::MakeConstSpan(file_.chunks).subspan(begin, kSliceChunks), hash));
    }
    return hash.Finish();
  }

  absl::Status HashSlice(absl::Span<const ChunkRef> chunks, Sha256& hash) {
    std::vector<ChunkId> ids;
    for (const ChunkRef& chunk : chunks) ids.push_back(chunk.id);
    GRAFT_ASSIGN_OR_RETURN(ChunkRuns runs, plane_.store.ReadHeld(ids, session_.id, plane_.readers));
    for (const ChunkId& id : ids) {
      absl::StatusOr<absl::string_view> bytes = runs.Next();
      absl::StatusOr<std::string> again = std::string();
      if (absl::IsNotFound(bytes.status())) {  // or a compaction has moved it meanwhile
        again = plane_.store.ReadHeld(id, session_.id);
        bytes = again.ok() ? absl::StatusOr<absl::string_view>(*again) : again.status();
      }
      if (absl::IsNotFound(bytes.status())) return MissingError(id);
      GRAFT_RETURN_IF_ERROR(bytes.status());
      hash.Update(*bytes);
      Touch(plane_.clock);  // a large file takes longer than a client may rest
    }
    return absl::OkStatus();
  }

  absl::Status MissingError(const ChunkId& id) const {
    return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                             absl::StrCat("\"", path_, "\" needs chunk ", ToHex(id),
                                          ": ask FindMissing and upload what it says"))
        .Reason("CHUNKS_MISSING")
        .Metadata("path", path_)
        .Metadata("missing", "1")
        .Build();
  }

  absl::Status StageWhole(const v1::FileManifest& part) {
    // What went through an upload was hashed there, and its chunks were seen to be held.
    const std::optional<Sha256Digest> known = plane_.verified.Find(session_.id, list_.Finish());
    GRAFT_ASSIGN_OR_RETURN(const Sha256Digest actual,
                           known.has_value() ? absl::StatusOr<Sha256Digest>(*known) : HashFile());
    const std::string& said = part.file().sha256();
    if (!said.empty() && said != BytesOf(actual)) {
      return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                               absl::StrCat("the chunks of \"", path_,
                                            "\" do not give the SHA-256 that was said"))
          .Reason("DIGEST_MISMATCH")
          .Metadata("path", path_)
          .Metadata("expected", ToHex(said))
          .Metadata("actual", ToHex(actual))
          .Build();
    }
    Entry entry;
    entry.size = part.file().size();
    entry.sha256 = actual;
    entry.executable = part.file().executable();
    GRAFT_RETURN_IF_ERROR(plane_.catalog.StageFile(
        session_.id, path_, entry, file_,
        known.has_value() ? Catalog::HeldCheck::kDone : Catalog::HeldCheck::kDue));
    ++files_;
    bytes_ += entry.size;
    path_.clear();
    return absl::OkStatus();
  }

  v1::StageFilesResponse* const response_;
  v1::StageFilesRequest request_;
  SessionRecord session_;
  // The file whose parts are coming; an empty path between files.
  std::string path_;
  FilePage file_;
  ChunkListHash list_;  // of file_.chunks
  int64_t files_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace

grpc::ServerReadReactor<v1::StageFilesRequest>* StartStage(DataPlane& plane,
                                                           std::shared_ptr<rpc::Call> call,
                                                           v1::StageFilesResponse* response) {
  return StartStream<StageStream>(plane, std::move(call), response);
}

}  // namespace graft::fileservice
