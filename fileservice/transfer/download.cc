// Versions down: each file into a hidden partial file of the target, verified, then renamed.
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "fileservice/transfer/file_writer.h"
#include "fileservice/transfer/progress.h"
#include "fileservice/transfer/state.h"
#include "fileservice/transfer/target.h"

namespace graft::fileservice {
namespace {

constexpr size_t kReadBytes = 1 << 20;

// Hashes what a descriptor holds; its length is the position afterwards.
absl::Status HashAll(int fd, Sha256& hash, int64_t& length) {
  std::string buffer(kReadBytes, '\0');
  while (true) {
    const ssize_t got = pread(fd, buffer.data(), buffer.size(), length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "cannot read a file of the target");
    if (got == 0) return absl::OkStatus();
    hash.Update(absl::string_view(buffer.data(), static_cast<size_t>(got)));
    length += got;
  }
}

class Downloader {
 public:
  Downloader(Link& link, const Client::Options& options, const Target& target, std::string version,
             const DownloadOptions& how, ProgressMeter& meter)
      : link_(link),
        options_(options),
        target_(target),
        version_(std::move(version)),
        how_(how),
        meter_(meter) {
    if (!how.link_from.empty()) {
      link_root_.reset(open(how.link_from.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    }
  }

  absl::Status Fetch(const RemoteFile& file) {
    GRAFT_RETURN_IF_ERROR(CheckRelative(file.path));
    const UniqueFd existing = target_.OpenExisting(file.path);
    GRAFT_ASSIGN_OR_RETURN(bool there, IsRight(existing.get(), file, how_.verify_existing));
    const std::string partial = PartialName(file.sha256, file.path);
    if (!there) {
      GRAFT_ASSIGN_OR_RETURN(there, LinkOf(file, partial));
    }
    if (there) {
      GRAFT_RETURN_IF_ERROR(meter_.Add(0, file.size));
      return meter_.FileDone();
    }
    GRAFT_ASSIGN_OR_RETURN(const UniqueFd fd, target_.OpenPartial(partial));
    Sha256 hash;
    int64_t done = 0;
    GRAFT_RETURN_IF_ERROR(HashAll(fd.get(), hash, done));
    if (done > file.size) {
      hash = Sha256();
      done = 0;
    }
    GRAFT_RETURN_IF_ERROR(meter_.Add(0, done));
    GRAFT_RETURN_IF_ERROR(FetchRest(file, fd.get(), hash, done));
    if (ftruncate(fd.get(), file.size) != 0) return ErrnoStatus(errno, "cannot end a file");
    if (ToHex(hash.Finish()) != file.sha256) {
      // Nothing of it can be trusted.
      if (ftruncate(fd.get(), 0) != 0) return ErrnoStatus(errno, "cannot empty a file");
      return absl::DataLossError(absl::StrCat("\"", file.path, "\" of ", version_,
                                              " arrived with another SHA-256: download it again"));
    }
    if (fchmod(fd.get(), file.executable ? 0755 : 0644) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot finish ", file.path));
    }
    GRAFT_RETURN_IF_ERROR(target_.Complete(partial, file.path));
    return meter_.FileDone();
  }

 private:
  // Whether `fd`, which may be invalid, is `file`.
  static absl::StatusOr<bool> IsRight(int fd, const RemoteFile& file, bool verify) {
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size != file.size ||
        ((info.st_mode & S_IXUSR) != 0) != file.executable) {
      return false;
    }
    if (!verify) return true;
    Sha256 hash;
    int64_t length = 0;
    GRAFT_RETURN_IF_ERROR(HashAll(fd, hash, length));
    return ToHex(hash.Finish()) == file.sha256;
  }

  // Puts a link to the file of link_from in its place. False where that is not the file, or cannot
  // be linked.
  absl::StatusOr<bool> LinkOf(const RemoteFile& file, const std::string& partial) {
    if (!link_root_.valid()) return false;
    const UniqueFd fd = OpenFileBeneath(link_root_.get(), file.path);
    GRAFT_ASSIGN_OR_RETURN(const bool right, IsRight(fd.get(), file, /*verify=*/true));
    if (!right || fdatasync(fd.get()) != 0 || !target_.LinkPartial(fd.get(), partial)) return false;
    GRAFT_RETURN_IF_ERROR(target_.Complete(partial, file.path));
    return true;
  }

  absl::Status FetchRest(const RemoteFile& file, int fd, Sha256& hash, int64_t& done) {
    int64_t told = done;
    const auto made_progress = [&] { return std::exchange(told, done) != done; };
    FileWriter writer(fd, done, file.size, file.size >= how_.direct_io_from_bytes);
    GRAFT_RETURN_IF_ERROR(WithRetries(options_.attempts, made_progress, [&] {
      if (done == file.size) return absl::OkStatus();
      return link_.Download(version_, file.path, done, file.size - done,
                            [&](const Piece& piece) -> absl::Status {
                              GRAFT_RETURN_IF_ERROR(writer.Append(piece.bytes));
                              hash.Update(piece.bytes);
                              done += static_cast<int64_t>(piece.bytes.size());
                              return meter_.Add(static_cast<int64_t>(piece.bytes.size()), 0);
                            });
    }));
    return writer.Finish();
  }

  Link& link_;
  const Client::Options& options_;
  const Target& target_;
  const std::string version_;
  const DownloadOptions& how_;
  ProgressMeter& meter_;
  UniqueFd link_root_;  // invalid: nothing is linked
};

// Removes what the version lacks; links are removed, never followed.
absl::Status RemoveOthers(const Target& target, const std::string& root,
                          const std::string& relative, const std::set<std::string>& wanted) {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         ListDirectory(relative.empty() ? root : JoinPath(root, relative)));
  for (const std::string& name : names) {
    const std::string path = relative.empty() ? name : JoinPath(relative, name);
    if (path == kPartialFolder || wanted.count(path) > 0) continue;
    GRAFT_ASSIGN_OR_RETURN(const UniqueFd folder, target.OpenFolder(relative));
    struct stat info;
    if (fstatat(folder.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (S_ISDIR(info.st_mode)) {
      GRAFT_RETURN_IF_ERROR(RemoveOthers(target, root, path, wanted));
      unlinkat(folder.get(), name.c_str(), AT_REMOVEDIR);  // stays while it holds something
    } else if (unlinkat(folder.get(), name.c_str(), 0) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot remove ", path));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Downloaded> Client::DownloadVersion(const std::string& name,
                                                   const std::string& target_path,
                                                   const DownloadOptions& options,
                                                   const ProgressCallback& progress) {
  GRAFT_ASSIGN_OR_RETURN(const std::string version, ResolveVersion(name));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<RemoteFile> files,
                         ListFiles(version, options.path_prefix));
  GRAFT_ASSIGN_OR_RETURN(const Target target, Target::Open(target_path));
  ProgressMeter meter(progress, state_->options.progress_interval);
  int64_t total = 0;
  for (const RemoteFile& file : files) total += file.size;
  meter.Expect(static_cast<int64_t>(files.size()), total);

  std::atomic<size_t> next{0};
  Mutex mu;
  absl::Status first_error;
  const auto run = [&] {
    Downloader downloader(*state_->link, state_->options, target, version, options, meter);
    for (size_t i = next++; i < files.size(); i = next++) {
      const absl::Status status = downloader.Fetch(files[i]);
      if (status.ok()) continue;
      next = files.size();
      MutexLock lock(mu);
      first_error.Update(status);
    }
  };
  std::vector<std::thread> threads;
  const int streams = std::min<int>(std::max(state_->options.streams, 1), 16);
  for (int i = 1; i < streams; ++i) threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
  GRAFT_RETURN_IF_ERROR(first_error);
  if (options.remove_others) {
    std::set<std::string> wanted;
    for (const RemoteFile& file : files) wanted.insert(file.path);
    GRAFT_RETURN_IF_ERROR(RemoveOthers(target, target_path, "", wanted));
  }
  target.RemovePartialFolder();
  return Downloaded{version, meter.Finish()};
}

}  // namespace graft::fileservice
