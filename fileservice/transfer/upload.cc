// Folders up: walk and cut; on a thread beside, hash, ask what is missing and send that; stage.
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/sha256_many.h"
#include "base/status_macros.h"
#include "fileservice/cas/block_pool.h"
#include "fileservice/transfer/progress.h"
#include "fileservice/transfer/state.h"

namespace graft::fileservice {
namespace {

// How much of a file is cut before the server is asked what it lacks of it.
constexpr size_t kWindowBytes = 16 << 20;
// How much is read at a time, to be cut while the processor's caches have it.
constexpr size_t kStepBytes = 2 << 20;

struct FoundFile {
  std::string full;
  std::string path;
  int64_t size = 0;
};

absl::Status Walk(const std::string& root, const std::string& relative,
                  const UploadOptions& options, std::vector<FoundFile>& found) {
  const std::string full = relative.empty() ? root : JoinPath(root, relative);
  struct stat info;
  if (lstat(full.c_str(), &info) != 0)
    return ErrnoStatus(errno, absl::StrCat("cannot read ", full));
  if (S_ISDIR(info.st_mode)) {
    GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(full));
    for (const std::string& name : names) {
      if (name == ".git" || name == ".graft-partial") continue;
      GRAFT_RETURN_IF_ERROR(
          Walk(root, relative.empty() ? name : JoinPath(relative, name), options, found));
    }
    return absl::OkStatus();
  }
  // The root itself may be the one file that goes up.
  const std::string path = relative.empty() ? root.substr(root.rfind('/') + 1) : relative;
  if (options.skip != nullptr && options.skip(path)) return absl::OkStatus();
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(full,
                     " is a link or a device: only files and folders go up (skip it, or put "
                     "its content there)"));
  }
  found.push_back({full, path, info.st_size});
  return absl::OkStatus();
}

// A file, read a window at a time. What a window leaves uncut moves to the front of the next.
class WindowReader {
 public:
  static absl::StatusOr<WindowReader> Open(const FoundFile& file,
                                           std::shared_ptr<BlockPool> windows) {
    WindowReader reader;
    reader.windows_ = std::move(windows);
    reader.name_ = file.full;
    reader.fd_.reset(open(file.full.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!reader.fd_.valid() || fstat(reader.fd_.get(), &reader.info_) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot read ", file.full));
    }
    posix_fadvise(reader.fd_.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
    return reader;
  }

  // The beginning, as MakeChunker wants to see it.
  absl::StatusOr<std::string> Head(ChunkProfile profile) const {
    if (profile != ChunkProfile::kSafetensors) return std::string();
    std::string head(kSafetensorsPrefixBytes, '\0');
    if (info_.st_size < static_cast<int64_t>(head.size())) return std::string();
    GRAFT_RETURN_IF_ERROR(ReadAt(0, head.size(), head.data()));
    const uint64_t size = SafetensorsHeadBytes(head, info_.st_size);
    head.resize(size);
    GRAFT_RETURN_IF_ERROR(ReadAt(0, head.size(), head.data()));
    return head;
  }

  // Begins another window with what the last one has behind its first `cut` bytes. What was seen
  // stays where it is while window() of that time is held.
  void StartWindow(size_t cut) {
    // With its pool: the messages may outlive everyone else.
    using Kept = std::pair<std::shared_ptr<BlockPool>, BlockPool::Buffer>;
    const auto kept = std::make_shared<Kept>(windows_, windows_->Take(kWindowBytes));
    const std::shared_ptr<char> next(kept, kept->second.get());
    if (used_ > cut) std::memcpy(next.get(), window_.get() + cut, used_ - cut);
    window_ = next;
    used_ -= cut;
  }
  // Reads up to `step` bytes more and returns all of the window.
  absl::StatusOr<absl::string_view> Extend(size_t step) {
    const auto more = static_cast<size_t>(
        std::min<int64_t>(static_cast<int64_t>(std::min(step, room())), info_.st_size - at_));
    GRAFT_RETURN_IF_ERROR(ReadAt(at_, more, window_.get() + used_));
    at_ += static_cast<int64_t>(more);
    used_ += more;
    return absl::string_view(window_.get(), used_);
  }
  size_t room() const { return kWindowBytes - used_; }
  // shared: with the messages that are being sent.
  const std::shared_ptr<char>& window() const { return window_; }
  bool at_end() const { return at_ == info_.st_size; }
  const struct stat& info() const { return info_; }
  const std::string& name() const { return name_; }

  absl::Status CheckUnchanged() const {
    struct stat now;
    if (fstat(fd_.get(), &now) == 0 && now.st_size == info_.st_size &&
        now.st_mtim.tv_sec == info_.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == info_.st_mtim.tv_nsec) {
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(
        absl::StrCat(name_, " was changed while it went up: upload it again when it rests"));
  }

 private:
  absl::Status ReadAt(int64_t offset, size_t size, char* out) const {
    while (size > 0) {
      const ssize_t got = pread(fd_.get(), out, size, offset);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", name_));
      if (got == 0) return CheckUnchanged();
      out += got;
      offset += got;
      size -= static_cast<size_t>(got);
    }
    return absl::OkStatus();
  }

  std::string name_;
  UniqueFd fd_;
  struct stat info_ {};
  std::shared_ptr<BlockPool> windows_;  // shared: with the windows
  std::shared_ptr<char> window_;
  size_t used_ = 0;
  int64_t at_ = 0;
};

// What was cut out of a window.
struct CutWindow {
  LocalFile* file;               // gets to know its chunks
  std::shared_ptr<char> memory;  // shared: with the messages
  std::vector<absl::string_view> chunks;
};

// Hashes what was cut, asks what the server lacks of it and sends that, on a thread of its own,
// while the next windows are read and cut.
class Sender {
 public:
  // `one_file`: what is sent are all chunks of one file in its order.
  Sender(Link& link, const std::string& session, ProgressMeter& meter, bool one_file)
      : link_(link),
        session_(session),
        meter_(meter),
        one_file_(one_file),
        call_(link.Upload(session)),
        thread_([this] { Run(); }) {}
  ~Sender() { End(); }

  // Waits while enough windows wait. Fails with what the sending failed with. The window's file
  // must stay where it is until Finish, or until this is gone.
  absl::Status Send(CutWindow window) {
    MutexLock lock(mu_);
    while (queue_.size() >= kMaxWaiting && status_.ok()) changed_.Wait(mu_);
    queue_.push_back(std::move(window));
    changed_.SignalAll();
    return status_;
  }
  // Returns once everything is durable.
  absl::Status Finish() {
    End();
    GRAFT_RETURN_IF_ERROR(status());
    return call_->Finish();
  }

 private:
  static constexpr size_t kMaxWaiting = 2;
  // What the session holds of a file is named many windows at a time: the server reads it, and
  // reads ahead inside of a message.
  static constexpr size_t kMostHeldBytes = 64 << 20;
  static constexpr int64_t kMostCopiedBytes = 1 << 20;  // of a window

  absl::Status status() {
    MutexLock lock(mu_);
    return status_;
  }

  void End() {
    {
      MutexLock lock(mu_);
      ended_ = true;
      changed_.SignalAll();
    }
    if (thread_.joinable()) thread_.join();
  }

  void Run() {
    while (true) {
      CutWindow window;
      {
        MutexLock lock(mu_);
        while (queue_.empty() && !ended_) changed_.Wait(mu_);
        if (!status_.ok()) return;
        if (queue_.empty()) break;
        window = std::move(queue_.front());
        queue_.pop_front();
        changed_.SignalAll();
      }
      Note(SendMissing(Hash(window)));
    }
    Note(Flush());
  }
  void Note(const absl::Status& status) {
    MutexLock lock(mu_);
    status_.Update(status);
    changed_.SignalAll();
  }

  static std::vector<OutgoingChunk> Hash(const CutWindow& window) {
    std::vector<Sha256Digest> ids(window.chunks.size());
    Sha256Many(window.chunks, ids.data());
    std::vector<OutgoingChunk> chunks;
    for (size_t i = 0; i < ids.size(); ++i) {
      chunks.push_back({ids[i], window.chunks[i], window.memory});
      window.file->chunks.emplace_back(ids[i], static_cast<uint32_t>(window.chunks[i].size()));
    }
    return chunks;
  }

  absl::Status SendMissing(std::vector<OutgoingChunk> chunks) {
    GRAFT_RETURN_IF_ERROR(MarkHeld(chunks));
    int64_t saved = 0, missing = 0;
    for (const OutgoingChunk& chunk : chunks) {
      (chunk.held ? saved : missing) += static_cast<int64_t>(chunk.bytes.size());
    }
    for (OutgoingChunk& chunk : chunks) {
      const size_t size = chunk.bytes.size();
      if (chunk.held) {
        if (!one_file_) continue;
        if (held_bytes_ + size > kMostHeldBytes) GRAFT_RETURN_IF_ERROR(Flush());
        held_bytes_ += size;
        chunk.owner = nullptr;
      } else {
        if (sent_bytes_ + size > kMessageBytes) GRAFT_RETURN_IF_ERROR(Flush());
        sent_bytes_ += size;
        if (missing <= kMostCopiedBytes) CopyOut(chunk);
      }
      message_.push_back(std::move(chunk));
    }
    return meter_.Add(0, saved);
  }

  // Of a window of which little goes, that it need not be kept.
  static void CopyOut(OutgoingChunk& chunk) {
    const auto copy = std::make_shared<const std::string>(chunk.bytes);  // with the transport
    chunk.bytes = *copy;
    chunk.owner = copy;
  }

  absl::Status Flush() {
    if (message_.empty()) return absl::OkStatus();
    GRAFT_RETURN_IF_ERROR(call_->Send(message_));
    message_.clear();
    held_bytes_ = 0;
    return meter_.Add(static_cast<int64_t>(std::exchange(sent_bytes_, 0)), 0);
  }

  // Asks which the session does not hold; of chunks that are alike the first is sent.
  absl::Status MarkHeld(std::vector<OutgoingChunk>& chunks) {
    std::vector<Sha256Digest> ids;
    std::vector<size_t> asked;
    for (size_t i = 0; i < chunks.size(); ++i) {
      chunks[i].held = true;
      if (!asked_.insert(chunks[i].id).second) continue;
      ids.push_back(chunks[i].id);
      asked.push_back(i);
    }
    GRAFT_ASSIGN_OR_RETURN(const std::vector<uint32_t> missing, link_.FindMissing(session_, ids));
    for (const uint32_t index : missing) {
      if (index >= asked.size()) return absl::InternalError("the server names a chunk never asked");
      chunks[asked[index]].held = false;
    }
    return absl::OkStatus();
  }

  Link& link_;
  const std::string& session_;
  ProgressMeter& meter_;
  const bool one_file_;
  std::unique_ptr<UploadCall> call_;

  // Of the thread: what was asked for, and the message that is being put together.
  absl::flat_hash_set<Sha256Digest> asked_;
  std::vector<OutgoingChunk> message_;
  size_t held_bytes_ = 0;
  size_t sent_bytes_ = 0;

  Mutex mu_;
  CondVar changed_;
  std::deque<CutWindow> queue_ GRAFT_GUARDED_BY(mu_);
  absl::Status status_ GRAFT_GUARDED_BY(mu_);
  bool ended_ GRAFT_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

// One thread's share of an upload.
class Uploader {
 public:
  Uploader(Link& link, const std::string& session, ProgressMeter& meter)
      : link_(link), session_(session), meter_(meter) {}

  // `file` must stay where it is until Finish, or until this is gone.
  absl::Status Take(const FoundFile& found, LocalFile& file) {
    GRAFT_ASSIGN_OR_RETURN(WindowReader reader, WindowReader::Open(found, windows_));
    std::unique_ptr<Sender> own;
    if (found.size >= kOwnStreamBytes) {
      own = std::make_unique<Sender>(link_, session_, meter_, /*one_file=*/true);
    }
    Sender& sender = own == nullptr ? SharedSender() : *own;
    file.path = found.path;
    file.size = reader.info().st_size;
    file.executable = (reader.info().st_mode & S_IXUSR) != 0;
    file.profile = ProfileForName(found.path);
    GRAFT_ASSIGN_OR_RETURN(const std::string head, reader.Head(file.profile));
    const std::unique_ptr<Chunker> chunker = MakeChunker(&file.profile, head, file.size);
    const size_t step = std::max(kStepBytes, chunker->max_bytes());
    for (size_t cut = 0; !reader.at_end();) {
      reader.StartWindow(cut);
      cut = 0;
      CutWindow window{&file, reader.window(), {}};
      while (reader.room() > 0 && !reader.at_end()) {
        GRAFT_ASSIGN_OR_RETURN(const absl::string_view bytes, reader.Extend(step));
        cut = Cut(bytes, cut, reader.at_end(), *chunker, window.chunks);
      }
      GRAFT_RETURN_IF_ERROR(sender.Send(std::move(window)));
    }
    if (own != nullptr) GRAFT_RETURN_IF_ERROR(own->Finish());
    GRAFT_RETURN_IF_ERROR(reader.CheckUnchanged());
    return meter_.FileDone();
  }

  absl::Status Finish() { return shared_ == nullptr ? absl::OkStatus() : shared_->Finish(); }

 private:
  // Cuts what is complete from `cut` on; returns where it ends.
  static size_t Cut(absl::string_view bytes, size_t cut, bool at_end, Chunker& chunker,
                    std::vector<absl::string_view>& chunks) {
    // The last bytes are cut with what follows them.
    while (cut < bytes.size() && (at_end || bytes.size() - cut >= chunker.max_bytes())) {
      chunks.push_back(bytes.substr(cut, chunker.Next(bytes.substr(cut, chunker.max_bytes()))));
      cut += chunks.back().size();
    }
    return cut;
  }

  // The server takes the hash of a file that has a stream of its own while it comes, and need not
  // read it again.
  static constexpr int64_t kOwnStreamBytes = 16 << 20;

  Sender& SharedSender() {
    if (shared_ == nullptr) {
      shared_ = std::make_unique<Sender>(link_, session_, meter_, /*one_file=*/false);
    }
    return *shared_;
  }

  Link& link_;
  const std::string& session_;
  ProgressMeter& meter_;
  const std::shared_ptr<BlockPool> windows_ =
      std::make_shared<BlockPool>(kWindowBytes);  // shared: with the windows
  std::unique_ptr<Sender> shared_;                // of small files
};

// Sends all files over several streams and returns what they are made of.
absl::Status SendAll(Link& link, const std::string& session, const std::vector<FoundFile>& found,
                     int streams, ProgressMeter& meter, std::vector<LocalFile>& files) {
  std::atomic<size_t> next{0};
  Mutex mu;
  absl::Status first_error;
  const auto run = [&] {
    Uploader uploader(link, session, meter);
    absl::Status status;
    for (size_t i = next++; i < found.size() && status.ok(); i = next++) {
      status = uploader.Take(found[i], files[i]);
    }
    if (status.ok()) status = uploader.Finish();
    if (status.ok()) return;
    next = found.size();  // the others need not go on
    MutexLock lock(mu);
    first_error.Update(status);
  };
  std::vector<std::thread> threads;
  const size_t count = std::min(static_cast<size_t>(std::max(streams, 1)), found.size());
  for (size_t i = 1; i < count; ++i) threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
  return first_error;
}

}  // namespace

absl::StatusOr<Uploaded> Client::UploadIntoSession(const std::string& path,
                                                   const std::string& session,
                                                   const UploadOptions& options,
                                                   const ProgressCallback& progress) {
  std::vector<FoundFile> found;
  GRAFT_RETURN_IF_ERROR(Walk(path, "", options, found));
  int64_t total = 0;
  for (const FoundFile& file : found) total += file.size;
  ProgressMeter meter(progress, state_->options.progress_interval);
  meter.Expect(static_cast<int64_t>(found.size()), total);
  // What was acknowledged before a cut is found again by FindMissing and not sent twice; that there
  // is more of it shows that the last attempt got something through.
  int64_t held = 0;
  const auto made_progress = [&] {
    const int64_t now = meter.saved_bytes();
    const bool more = now > held;
    held = std::max(held, now);
    return more;
  };
  // On a thin link streams take from each other what a message needs to arrive in time.
  int streams = state_->options.streams;
  const absl::Status status =
      WithRetries(state_->options.attempts, made_progress, [&]() -> absl::Status {
        meter.Restart();
        std::vector<LocalFile> files(found.size());
        const int now = std::exchange(streams, std::max(1, streams / 2));
        GRAFT_RETURN_IF_ERROR(SendAll(*state_->link, session, found, now, meter, files));
        return state_->link->Stage(session, files);
      });
  GRAFT_RETURN_IF_ERROR(status);
  return Uploaded{session, meter.Finish()};
}

}  // namespace graft::fileservice
