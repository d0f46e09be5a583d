#include "fileservice/transfer/swarm_files.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sha256_many.h"
#include "base/status_macros.h"

namespace graft::fileservice {
namespace {

constexpr size_t kSwarmReadBytes = 4 << 20;

absl::Status ReadAll(int fd, int64_t offset, size_t size, char* out) {
  while (size > 0) {
    const ssize_t got = pread(fd, out, size, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "cannot read a file of the target");
    if (got == 0) return absl::DataLossError("a file of the target is too short");
    out += got;
    offset += got;
    size -= static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, int64_t offset, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "cannot write a file of the target");
    offset += written;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SwarmFiles>> SwarmFiles::Open(const std::string& folder,
                                                             std::vector<LocalFile> files) {
  if (files.size() > kMaxFiles) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the version has ", files.size(), " files; pieces are shared of at most ", kMaxFiles));
  }
  GRAFT_ASSIGN_OR_RETURN(Target target, Target::Open(folder));
  auto result = std::unique_ptr<SwarmFiles>(new SwarmFiles(std::move(target), std::move(files)));
  for (uint32_t i = 0; i < result->files_.size(); ++i) {
    const LocalFile& file = result->files_[i];
    GRAFT_RETURN_IF_ERROR(CheckRelative(file.path));
    GRAFT_ASSIGN_OR_RETURN(result->fds_.emplace_back(),
                           result->target_.OpenPartial(PartialName(ToHex(file.sha256), file.path)));
    int64_t offset = 0;
    for (const auto& [id, size] : file.chunks) {
      result->pieces_.Add({id, size, i, offset});
      offset += size;
    }
    if (offset != file.size) return absl::InternalError("the manifest does not add up");
  }
  return result;
}

absl::StatusOr<PieceSet> SwarmFiles::FindWhole() const {
  PieceSet whole(pieces_.size());
  std::vector<int64_t> lengths;
  for (size_t i = 0; i < files_.size(); ++i) {
    struct stat info;
    if (fstat(fds_[i].get(), &info) != 0) return ErrnoStatus(errno, "cannot read the target");
    lengths.push_back(info.st_size);
    if (info.st_size != files_[i].size && ftruncate(fds_[i].get(), files_[i].size) != 0) {
      return ErrnoStatus(errno, "cannot make room in the target");
    }
  }
  for (uint32_t piece = 0; piece < pieces_.size(); ++piece) {
    const PieceChunk& last = pieces_.chunks[pieces_.end(piece) - 1];
    if (lengths[last.file] < last.offset + last.size) continue;
    GRAFT_ASSIGN_OR_RETURN(const std::string bytes, Read(piece));
    if (Verify(piece, bytes).ok()) whole.Add(piece);
  }
  return whole;
}

absl::Status SwarmFiles::Verify(uint32_t piece, absl::string_view bytes) const {
  if (static_cast<int64_t>(bytes.size()) != pieces_.bytes[piece]) {
    return absl::DataLossError(absl::StrCat("piece ", piece, " came with another length"));
  }
  std::vector<absl::string_view> chunks;
  for (size_t i = pieces_.begins[piece]; i < pieces_.end(piece); ++i) {
    chunks.push_back(bytes.substr(0, pieces_.chunks[i].size));
    bytes.remove_prefix(pieces_.chunks[i].size);
  }
  std::vector<Sha256Digest> digests(chunks.size());
  Sha256Many(chunks, digests.data());
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (digests[i] != pieces_.chunks[pieces_.begins[piece] + i].id) {
      return absl::DataLossError(absl::StrCat("piece ", piece, " came with other bytes"));
    }
  }
  return absl::OkStatus();
}

absl::Status SwarmFiles::Write(uint32_t piece, absl::string_view bytes) const {
  GRAFT_RETURN_IF_ERROR(Verify(piece, bytes));
  for (size_t i = pieces_.begins[piece]; i < pieces_.end(piece); ++i) {
    const PieceChunk& chunk = pieces_.chunks[i];
    GRAFT_RETURN_IF_ERROR(
        WriteAll(fds_[chunk.file].get(), chunk.offset, bytes.substr(0, chunk.size)));
    bytes.remove_prefix(chunk.size);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> SwarmFiles::Read(uint32_t piece) const {
  std::string bytes(static_cast<size_t>(pieces_.bytes[piece]), '\0');
  char* out = bytes.data();
  for (size_t i = pieces_.begins[piece]; i < pieces_.end(piece); ++i) {
    const PieceChunk& chunk = pieces_.chunks[i];
    GRAFT_RETURN_IF_ERROR(ReadAll(fds_[chunk.file].get(), chunk.offset, chunk.size, out));
    out += chunk.size;
  }
  return bytes;
}

absl::Status SwarmFiles::Complete() const {
  std::string buffer(kSwarmReadBytes, '\0');
  for (size_t i = 0; i < files_.size(); ++i) {
    const LocalFile& file = files_[i];
    const int fd = fds_[i].get();
    if (ftruncate(fd, file.size) != 0) return ErrnoStatus(errno, "cannot end a file");
    Sha256 hash;
    for (int64_t at = 0; at < file.size;) {
      const auto size = static_cast<size_t>(
          std::min<int64_t>(static_cast<int64_t>(kSwarmReadBytes), file.size - at));
      GRAFT_RETURN_IF_ERROR(ReadAll(fd, at, size, buffer.data()));
      hash.Update(absl::string_view(buffer.data(), size));
      at += static_cast<int64_t>(size);
    }
    if (hash.Finish() != file.sha256) {
      return absl::DataLossError(absl::StrCat(
          "\"", file.path, "\" has another SHA-256 than its version says: download it again"));
    }
    if (fchmod(fd, file.executable ? 0755 : 0644) != 0 || fdatasync(fd) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot finish ", file.path));
    }
    GRAFT_RETURN_IF_ERROR(target_.Complete(PartialName(ToHex(file.sha256), file.path), file.path));
  }
  target_.RemovePartialFolder();
  return absl::OkStatus();
}

}  // namespace graft::fileservice
