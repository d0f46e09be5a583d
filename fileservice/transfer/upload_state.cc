#include "fileservice/transfer/upload_state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"

namespace graft::fileservice {
namespace {

constexpr int64_t kMaxStateBytes = 4096;

std::string DefaultFolder() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && state[0] == '/') return JoinPath(state, "graft/uploads");
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] != '/') return std::string();
  return JoinPath(home, ".local/state/graft/uploads");
}

}  // namespace

std::unique_ptr<UploadState> UploadState::Open(const std::string& folder,
                                               const std::string& upload) {
  const std::string where = folder.empty() ? DefaultFolder() : folder;
  if (where.empty() || !MakeDirectories(where, 0700).ok()) return nullptr;
  std::string path = JoinPath(where, Sha256::HexOf(upload).substr(0, 32));
  UniqueFd lock(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock.valid() || flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return nullptr;
  // The one who held it may have removed it meanwhile.
  struct stat held;
  struct stat named;
  if (fstat(lock.get(), &held) != 0 || stat(path.c_str(), &named) != 0 ||
      held.st_ino != named.st_ino) {
    return nullptr;
  }
  return std::unique_ptr<UploadState>(new UploadState(std::move(path), std::move(lock)));
}

std::string UploadState::Session() const {
  return ReadFile(path_, kMaxStateBytes).value_or(std::string());
}

// In place: the lock is on this file, and half a name is no session.
void UploadState::Note(const std::string& session) const {
  if (ftruncate(lock_.get(), 0) != 0) return;
  if (pwrite(lock_.get(), session.data(), session.size(), 0) < 0) return;
  fdatasync(lock_.get());
}

void UploadState::Forget() const { unlink(path_.c_str()); }

}  // namespace graft::fileservice
