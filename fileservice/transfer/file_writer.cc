#include "fileservice/transfer/file_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace graft::fileservice {

FileWriter::FileWriter(int fd, int64_t offset, int64_t size, bool direct)
    : fd_(fd), want_direct_(direct), at_(offset) {
  // The length stays: it says how far another process got. Not every file system can do it.
  if (size > offset) fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size);
  thread_ = std::thread([this] { Run(); });
}

FileWriter::~FileWriter() { Flush().IgnoreError(); }

absl::Status FileWriter::Append(absl::string_view bytes) {
  while (!bytes.empty()) {
    if (piece_ == nullptr) {
      piece_ = std::make_unique<Piece>(at_);
      GRAFT_CHECK(piece_->data != nullptr);
    }
    // The first piece ends at a boundary, so that all others begin at one.
    const size_t room = kPieceBytes - static_cast<size_t>(piece_->offset) % kBlockBytes;
    const size_t size = std::min(bytes.size(), room - piece_->size);
    std::memcpy(piece_->data + piece_->size, bytes.data(), size);
    piece_->size += size;
    at_ += static_cast<int64_t>(size);
    bytes.remove_prefix(size);
    if (piece_->size == room) GRAFT_RETURN_IF_ERROR(HandOver());
  }
  return absl::OkStatus();
}

absl::Status FileWriter::HandOver() {
  MutexLock lock(mu_);
  while (queue_.size() >= kMaxWaiting && status_.ok()) changed_.Wait(mu_);
  queue_.push_back(std::move(piece_));
  changed_.SignalAll();
  return status_;
}

absl::Status FileWriter::Flush() {
  if (thread_.joinable()) {
    if (piece_ != nullptr) HandOver().IgnoreError();
    {
      MutexLock lock(mu_);
      ended_ = true;
      changed_.SignalAll();
    }
    thread_.join();
  }
  MutexLock lock(mu_);
  return status_;
}

absl::Status FileWriter::Finish() {
  GRAFT_RETURN_IF_ERROR(Flush());
  if (fdatasync(fd_) != 0) return ErrnoStatus(errno, "cannot sync a file of the target");
  return absl::OkStatus();
}

void FileWriter::Run() {
  while (true) {
    std::unique_ptr<Piece> piece;
    {
      MutexLock lock(mu_);
      while (queue_.empty() && !ended_) changed_.Wait(mu_);
      if (queue_.empty()) return;
      piece = std::move(queue_.front());
      queue_.pop_front();
      if (!status_.ok()) continue;
      changed_.SignalAll();
    }
    const absl::Status written = Write(*piece);
    MutexLock lock(mu_);
    status_.Update(written);
    changed_.SignalAll();
  }
}

absl::Status FileWriter::Write(const Piece& piece) {
  const bool aligned = piece.size == kPieceBytes && piece.offset % kBlockBytes == 0;
  SetDirect(want_direct_ && aligned);
  for (size_t done = 0; done < piece.size;) {
    const ssize_t written = pwrite(fd_, piece.data + done, piece.size - done,
                                   piece.offset + static_cast<int64_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "cannot write a file of the target");
    done += static_cast<size_t>(written);
    // A short write may end between blocks.
    if (done < piece.size) SetDirect(false);
  }
  return absl::OkStatus();
}

// A file system that cannot keeps to the page cache.
void FileWriter::SetDirect(bool direct) {
  if (direct == direct_) return;
  const int flags = fcntl(fd_, F_GETFL);
  if (fcntl(fd_, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0) direct_ = direct;
}

}  // namespace graft::fileservice
