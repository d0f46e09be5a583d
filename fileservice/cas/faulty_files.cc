#include "fileservice/cas/faulty_files.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace graft::fileservice {

class FaultyReadable final : public ReadableFile {
 public:
  FaultyReadable(FaultyFiles& files, std::shared_ptr<FaultyFiles::File> file, int64_t generation)
      : files_(files), file_(std::move(file)), generation_(generation) {}

  absl::Status ReadAt(int64_t offset, size_t size, char* out) const override {
    MutexLock lock(files_.mu_);
    if (files_.stopped_ || files_.generation_ != generation_) {
      return absl::UnavailableError("the machine has stopped");
    }
    if (offset + static_cast<int64_t>(size) > static_cast<int64_t>(file_->current.size())) {
      return absl::DataLossError("the file ends before");
    }
    std::memcpy(out, file_->current.data() + offset, size);
    return absl::OkStatus();
  }
  int64_t size() const override {
    MutexLock lock(files_.mu_);
    return static_cast<int64_t>(file_->current.size());
  }
  int fd() const override { return -1; }

 private:
  FaultyFiles& files_;
  const std::shared_ptr<FaultyFiles::File> file_;  // shared: an unlinked file stays readable
  const int64_t generation_;
};

class FaultyWritable final : public WritableFile {
 public:
  FaultyWritable(FaultyFiles& files, std::shared_ptr<FaultyFiles::File> file, int64_t generation)
      : files_(files), file_(std::move(file)), generation_(generation) {}

  absl::Status WriteAt(int64_t offset, absl::string_view bytes) override {
    MutexLock lock(files_.mu_);
    if (files_.generation_ != generation_) return absl::UnavailableError("the machine has stopped");
    const absl::Status fault = files_.Take(FaultyFiles::Fault::kNoSpace);
    if (!fault.ok()) {
      // What a failed write left behind: any part of it.
      bytes = bytes.substr(0, files_.random_.Uniform(bytes.size() + 1));
    }
    FaultyFiles::Write write{offset, std::string(bytes)};
    FaultyFiles::Apply(write, file_->current);
    file_->pending.push_back(std::move(write));
    return fault;
  }

  absl::Status Sync() override {
    MutexLock lock(files_.mu_);
    ++files_.held_syncs_;
    files_.syncs_changed_.SignalAll();
    while (files_.holds_syncs_) files_.syncs_changed_.Wait(files_.mu_);
    --files_.held_syncs_;
    if (files_.generation_ != generation_) return absl::UnavailableError("the machine has stopped");
    GRAFT_RETURN_IF_ERROR(files_.Take(FaultyFiles::Fault::kSyncFails));
    file_->durable = file_->current;
    file_->pending.clear();
    return absl::OkStatus();
  }

 private:
  FaultyFiles& files_;
  const std::shared_ptr<FaultyFiles::File> file_;  // shared: an unlinked file stays writable
  const int64_t generation_;
};

// Counts the operation and says whether it fails. Writes are asked for as kNoSpace, syncs as
// kSyncFails.
absl::Status FaultyFiles::Take(Fault kind) {
  if (stopped_) return absl::UnavailableError("the machine has stopped");
  if (stop_in_ >= 0 && stop_in_-- == 0) {
    stopped_ = true;
    return absl::UnavailableError("the machine has stopped");
  }
  const bool is_sync = kind == Fault::kSyncFails;
  (is_sync ? syncs_ : writes_) += 1;
  const bool may_fail = fault_ != Fault::kNone && is_sync == (fault_ == Fault::kSyncFails);
  if (!may_fail || fault_in_-- != 0) return absl::OkStatus();
  const Fault fault = std::exchange(fault_, Fault::kNone);
  switch (fault) {
    case Fault::kNoSpace:
    case Fault::kShortWrite:
      return absl::ResourceExhaustedError("no space left on device");
    default:
      return absl::InternalError("input/output error");
  }
}

void FaultyFiles::Apply(const Write& write, std::string& content) {
  const size_t end = static_cast<size_t>(write.offset) + write.bytes.size();
  if (content.size() < end) content.resize(end, '\0');
  std::memcpy(content.data() + write.offset, write.bytes.data(), write.bytes.size());
}

absl::StatusOr<std::unique_ptr<ReadableFile>> FaultyFiles::OpenForRead(const std::string& path) {
  MutexLock lock(mu_);
  if (stopped_) return absl::UnavailableError("the machine has stopped");
  const auto found = files_.find(path);
  if (found == files_.end()) return absl::NotFoundError(absl::StrCat("cannot open ", path));
  return std::make_unique<FaultyReadable>(*this, found->second, generation_);
}

absl::StatusOr<std::unique_ptr<WritableFile>> FaultyFiles::Create(const std::string& path) {
  MutexLock lock(mu_);
  GRAFT_RETURN_IF_ERROR(Take(Fault::kNoSpace));
  auto [at, inserted] = files_.try_emplace(path, std::make_shared<File>());
  if (!inserted) return absl::AlreadyExistsError(absl::StrCat("cannot create ", path));
  return std::make_unique<FaultyWritable>(*this, at->second, generation_);
}

absl::Status FaultyFiles::Truncate(const std::string& path, int64_t size) {
  MutexLock lock(mu_);
  GRAFT_RETURN_IF_ERROR(Take(Fault::kSyncFails));
  const auto found = files_.find(path);
  if (found == files_.end()) return absl::NotFoundError(absl::StrCat("cannot truncate ", path));
  File& file = *found->second;
  file.current.resize(static_cast<size_t>(size), '\0');
  file.durable = file.current;
  file.pending.clear();
  return absl::OkStatus();
}

absl::Status FaultyFiles::Remove(const std::string& path) {
  MutexLock lock(mu_);
  GRAFT_RETURN_IF_ERROR(Take(Fault::kNoSpace));
  files_.erase(path);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> FaultyFiles::ListOrCreate(const std::string& directory) {
  MutexLock lock(mu_);
  if (stopped_) return absl::UnavailableError("the machine has stopped");
  std::vector<std::string> names;
  const std::string prefix = directory + "/";
  for (const auto& [path, file] : files_) {
    if (absl::StartsWith(path, prefix)) names.push_back(path.substr(prefix.size()));
  }
  return names;
}

absl::Status FaultyFiles::SyncDirectory(const std::string& directory) {
  MutexLock lock(mu_);
  GRAFT_RETURN_IF_ERROR(Take(Fault::kSyncFails));
  const std::string prefix = directory + "/";
  for (auto& [path, file] : files_) {
    if (absl::StartsWith(path, prefix)) file->name_durable = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FaultyFiles::AvailableBytes(const std::string& directory) {
  MutexLock lock(mu_);
  return available_;
}

void FaultyFiles::Crash() {
  MutexLock lock(mu_);
  ++generation_;
  stopped_ = false;
  stop_in_ = -1;
  fault_ = Fault::kNone;
  for (auto at = files_.begin(); at != files_.end();) {
    File& file = *at->second;
    if (!file.name_durable && random_.Uniform(2) == 0) {
      at = files_.erase(at);
      continue;
    }
    // Un-synced writes reach the disk in any order, whole, in part or not at all.
    std::string content = file.durable;
    for (Write& write : file.pending) {
      const uint64_t fate = random_.Uniform(3);
      if (fate == 0) continue;
      if (fate == 1) write.bytes.resize(random_.Uniform(write.bytes.size() + 1));
      Apply(write, content);
    }
    file.durable = content;
    file.current = std::move(content);
    file.pending.clear();
    file.name_durable = true;
    ++at;
  }
}

void FaultyFiles::FailNth(Fault fault, int nth) {
  MutexLock lock(mu_);
  fault_ = fault;
  fault_in_ = nth;
}

int64_t FaultyFiles::operations(Fault fault) {
  MutexLock lock(mu_);
  return fault == Fault::kSyncFails ? syncs_ : writes_;
}

void FaultyFiles::StopAfter(int operations) {
  MutexLock lock(mu_);
  stop_in_ = operations;
}

void FaultyFiles::HoldSyncs() {
  MutexLock lock(mu_);
  holds_syncs_ = true;
}

void FaultyFiles::AwaitHeldSync() {
  MutexLock lock(mu_);
  while (!holds_syncs_ || held_syncs_ == 0) syncs_changed_.Wait(mu_);
}

void FaultyFiles::ReleaseSyncs() {
  MutexLock lock(mu_);
  holds_syncs_ = false;
  syncs_changed_.SignalAll();
}

void FaultyFiles::set_available_bytes(int64_t bytes) {
  MutexLock lock(mu_);
  available_ = bytes;
}

void FaultyFiles::FlipBit(const std::string& path, int64_t bit) {
  MutexLock lock(mu_);
  File& file = *files_.at(path);
  file.current[bit / 8] = static_cast<char>(file.current[bit / 8] ^ (1 << (bit % 8)));
  file.durable = file.current;
}

std::vector<std::string> FaultyFiles::paths() {
  MutexLock lock(mu_);
  std::vector<std::string> result;
  for (const auto& [path, file] : files_) result.push_back(path);
  return result;
}

std::string FaultyFiles::content(const std::string& path) {
  MutexLock lock(mu_);
  return files_.at(path)->current;
}

}  // namespace graft::fileservice
