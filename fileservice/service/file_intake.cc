#include "fileservice/service/file_intake.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/catalog/names.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

// What a crash of the server may cost a client that sends plain bytes.
constexpr int64_t kSaveBytes = 32 << 20;
// A safetensors header that is larger than the first bytes that come is not waited for.
constexpr size_t kHeadBytes = kMaxChunkBytes;

}  // namespace

absl::StatusOr<std::unique_ptr<FileIntake>> FileIntake::Open(
    const DataPlane& plane, const SessionRecord& session, const std::string& path,
    std::optional<int64_t> declared_bytes) {
  GRAFT_RETURN_IF_ERROR(CheckPath(path));
  if (declared_bytes.has_value() && *declared_bytes < 0) {
    return absl::InvalidArgumentError("size must not be negative");
  }
  if (!plane.intakes.Begin(session.id, path)) {
    return absl::AbortedError(
        absl::StrCat("\"", path, "\" is being sent by another call: wait for its end"));
  }
  auto intake = std::unique_ptr<FileIntake>(new FileIntake(plane, session, path, declared_bytes));
  GRAFT_RETURN_IF_ERROR(intake->TakeUp());
  return intake;
}

FileIntake::~FileIntake() {
  plane_.intakes.End(session_.id, path_);
  // A figure for people; nothing fails for it.
  if (stored_bytes_ > 0) plane_.catalog.CountBytes(session_.id, stored_bytes_, 0).IgnoreError();
}

absl::StatusOr<FileIntake::Extent> FileIntake::Query(const DataPlane& plane,
                                                     const SessionRecord& session,
                                                     const std::string& path) {
  GRAFT_RETURN_IF_ERROR(CheckPath(path));
  GRAFT_ASSIGN_OR_RETURN(const FilePage partial, plane.catalog.LoadPartial(session.id, path));
  Extent extent;
  for (const ChunkRef& chunk : partial.chunks) extent.durable_bytes += chunk.size;
  if (!partial.chunks.empty()) return extent;
  const absl::StatusOr<Entry> staged = plane.catalog.GetStaged(session.id, path);
  if (absl::IsNotFound(staged.status())) return extent;
  GRAFT_RETURN_IF_ERROR(staged.status());
  return Extent{staged->size, true};
}

absl::Status FileIntake::TakeUp() {
  GRAFT_ASSIGN_OR_RETURN(file_, plane_.catalog.LoadPartial(session_.id, path_));
  if (file_.chunks.empty()) {
    file_.profile = ProfileForName(path_);
    return absl::OkStatus();
  }
  // The hash of the file so far, from what is stored.
  for (const ChunkRef& chunk : file_.chunks) {
    GRAFT_ASSIGN_OR_RETURN(const std::string bytes, plane_.store.Read(chunk.id));
    hash_.Update(bytes);
    taken_ += chunk.size;
  }
  // Where tensors begin is not known any more.
  ChunkProfile profile =
      file_.profile == ChunkProfile::kText ? ChunkProfile::kText : ChunkProfile::kContent;
  chunker_ = MakeChunker(&profile, "", 0);
  return absl::OkStatus();
}

void FileIntake::ChooseChunker() {
  absl::string_view head;
  if (file_.profile == ChunkProfile::kSafetensors && waiting_.size() >= kSafetensorsPrefixBytes) {
    const uint64_t size = SafetensorsHeadBytes(waiting_, declared_bytes_.value_or(0));
    if (size > 0 && size <= waiting_.size()) head = absl::string_view(waiting_).substr(0, size);
  }
  chunker_ = MakeChunker(&file_.profile, head, declared_bytes_.value_or(0));
}

absl::Status FileIntake::Take(absl::string_view bytes) {
  if (declared_bytes_.has_value() &&
      static_cast<int64_t>(bytes.size()) > *declared_bytes_ - taken_) {
    return absl::InvalidArgumentError(absl::StrCat("\"", path_, "\" is said to have ",
                                                   *declared_bytes_, " bytes, and more came"));
  }
  waiting_.append(bytes.data(), bytes.size());
  taken_ += static_cast<int64_t>(bytes.size());
  if (chunker_ == nullptr && waiting_.size() < kHeadBytes) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(Cut(/*at_end=*/false));
  if (unsaved_bytes_ < kSaveBytes) return absl::OkStatus();
  return Pause().status();
}

absl::Status FileIntake::Cut(bool at_end) {
  if (chunker_ == nullptr) ChooseChunker();
  size_t at = 0;
  while (at < waiting_.size() && (at_end || waiting_.size() - at >= chunker_->max_bytes())) {
    const absl::string_view rest = absl::string_view(waiting_).substr(at);
    const size_t size = chunker_->Next(rest.substr(0, chunker_->max_bytes()));
    GRAFT_RETURN_IF_ERROR(Put(rest.substr(0, size)));
    at += size;
  }
  waiting_.erase(0, at);
  return absl::OkStatus();
}

absl::Status FileIntake::Put(absl::string_view chunk) {
  ChunkStore::PutRequest put;
  put.id = Sha256::Of(chunk);
  put.raw = chunk;
  put.verified = true;
  put.session = session_.id;
  put.compressible = file_.profile == ChunkProfile::kText;
  GRAFT_ASSIGN_OR_RETURN(const ChunkStore::PutResult result, plane_.store.Put(put));
  hash_.Update(chunk);
  last_ = std::max(last_, result.ticket);
  // As it came: whether another tenant had stored the chunk is nobody's business.
  stored_bytes_ += static_cast<int64_t>(chunk.size());
  unsaved_bytes_ += static_cast<int64_t>(chunk.size());
  file_.chunks.push_back({put.id, static_cast<uint32_t>(chunk.size())});
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FileIntake::Pause() {
  const int64_t cut = taken_ - static_cast<int64_t>(waiting_.size());
  if (unsaved_bytes_ == 0) return cut;
  GRAFT_RETURN_IF_ERROR(plane_.store.WaitDurable(last_));
  GRAFT_RETURN_IF_ERROR(plane_.catalog.SavePartial(session_.id, path_, file_));
  unsaved_bytes_ = 0;
  return cut;
}

absl::StatusOr<Entry> FileIntake::Finish(const std::optional<Sha256Digest>& expected,
                                         bool executable) {
  if (declared_bytes_.has_value() && !full()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", path_, "\" is said to have ", *declared_bytes_, " bytes, and ", taken_, " came"));
  }
  GRAFT_RETURN_IF_ERROR(Cut(/*at_end=*/true));
  if (last_ > 0) GRAFT_RETURN_IF_ERROR(plane_.store.WaitDurable(last_));
  Entry entry;
  entry.size = taken_;
  entry.sha256 = hash_.Finish();
  entry.executable = executable;
  if (expected.has_value() && *expected != entry.sha256) {
    GRAFT_RETURN_IF_ERROR(plane_.catalog.DropPartial(session_.id, path_));
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                             absl::StrCat("\"", path_,
                                          "\" has another SHA-256 than was said: send it again, "
                                          "from the start"))
        .Reason("DIGEST_MISMATCH")
        .Metadata("path", path_)
        .Metadata("expected", ToHex(*expected))
        .Metadata("actual", ToHex(entry.sha256))
        .Build();
  }
  GRAFT_RETURN_IF_ERROR(plane_.catalog.StageFile(session_.id, path_, entry, file_));
  GRAFT_RETURN_IF_ERROR(plane_.catalog.DropPartial(session_.id, path_));
  return entry;
}

}  // namespace graft::fileservice
