#include "fileservice/cas/faulty_env.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace graft::fileservice {

class FaultyDbFile final : public rocksdb::WritableFileWrapper {
 public:
  FaultyDbFile(FaultyEnv& env, std::string path, std::unique_ptr<rocksdb::WritableFile> file)
      : WritableFileWrapper(file.get()),
        env_(env),
        path_(std::move(path)),
        file_(std::move(file)) {}

  rocksdb::Status Append(const rocksdb::Slice& data) override {
    const rocksdb::Status status = env_.Take();
    return status.ok() ? file_->Append(data) : status;
  }
  rocksdb::Status Append(const rocksdb::Slice& data,
                         const rocksdb::DataVerificationInfo& /*checksum*/) override {
    return Append(data);
  }
  rocksdb::Status Sync() override {
    rocksdb::Status status = env_.Take();
    if (status.ok()) status = file_->Sync();
    if (!status.ok()) return status;
    MutexLock lock(env_.mu_);
    env_.synced_[path_] = file_->GetFileSize();
    return status;
  }
  rocksdb::Status Fsync() override { return Sync(); }

 private:
  FaultyEnv& env_;
  const std::string path_;
  const std::unique_ptr<rocksdb::WritableFile> file_;
};

FaultyEnv::FaultyEnv(uint64_t seed)
    : EnvWrapper(rocksdb::NewMemEnv(rocksdb::Env::Default())), memory_(target()), random_(seed) {}

FaultyEnv::~FaultyEnv() = default;

rocksdb::Status FaultyEnv::Take() {
  MutexLock lock(mu_);
  if (stop_in_ >= 0 && stop_in_-- == 0) stopped_ = true;
  if (stopped_) return rocksdb::Status::IOError("the machine has stopped");
  ++operations_;
  if (fault_in_ < 0 || fault_in_-- != 0) return rocksdb::Status::OK();
  return fault_ == Fault::kNoSpace ? rocksdb::Status::NoSpace("no space left on device")
                                   : rocksdb::Status::IOError("input/output error");
}

rocksdb::Status FaultyEnv::NewWritableFile(const std::string& path,
                                           std::unique_ptr<rocksdb::WritableFile>* file,
                                           const rocksdb::EnvOptions& options) {
  rocksdb::Status status = Take();
  std::unique_ptr<rocksdb::WritableFile> made;
  if (status.ok()) status = memory_->NewWritableFile(path, &made, options);
  if (!status.ok()) return status;
  *file = std::make_unique<FaultyDbFile>(*this, path, std::move(made));
  MutexLock lock(mu_);
  synced_[path] = 0;
  return status;
}

rocksdb::Status FaultyEnv::ReopenWritableFile(const std::string& path,
                                              std::unique_ptr<rocksdb::WritableFile>* file,
                                              const rocksdb::EnvOptions& options) {
  rocksdb::Status status = Take();
  std::unique_ptr<rocksdb::WritableFile> made;
  if (status.ok()) status = memory_->ReopenWritableFile(path, &made, options);
  if (status.ok()) *file = std::make_unique<FaultyDbFile>(*this, path, std::move(made));
  return status;
}

rocksdb::Status FaultyEnv::RenameFile(const std::string& from, const std::string& to) {
  const rocksdb::Status status = Take();
  if (!status.ok()) return status;
  {
    MutexLock lock(mu_);
    const auto moved = synced_.extract(from);
    if (!moved.empty()) synced_[to] = moved.mapped();
  }
  return memory_->RenameFile(from, to);
}

rocksdb::Status FaultyEnv::DeleteFile(const std::string& path) {
  const rocksdb::Status status = Take();
  if (!status.ok()) return status;
  {
    MutexLock lock(mu_);
    synced_.erase(path);
  }
  return memory_->DeleteFile(path);
}

void FaultyEnv::Schedule(void (*function)(void*), void* argument, Priority priority, void* tag,
                         void (*unscheduled)(void*)) {
  if (priority != Priority::LOW) {
    return EnvWrapper::Schedule(function, argument, priority, tag, unscheduled);
  }
  MutexLock lock(mu_);
  merges_.push_back({tag, argument, unscheduled});
}

int FaultyEnv::UnSchedule(void* tag, Priority priority) {
  if (priority != Priority::LOW) return EnvWrapper::UnSchedule(tag, priority);
  std::vector<Merge> ended;
  {
    MutexLock lock(mu_);
    const auto of_others = std::stable_partition(merges_.begin(), merges_.end(),
                                                 [tag](const Merge& m) { return m.tag != tag; });
    ended.assign(of_others, merges_.end());
    merges_.erase(of_others, merges_.end());
  }
  for (const Merge& merge : ended) {
    if (merge.unscheduled != nullptr) merge.unscheduled(merge.argument);
  }
  return static_cast<int>(ended.size());
}

void FaultyEnv::Crash() {
  MutexLock lock(mu_);
  stopped_ = false;
  stop_in_ = fault_in_ = -1;
  for (auto& [path, synced] : synced_) {
    std::string content;
    if (!rocksdb::ReadFileToString(memory_.get(), path, &content).ok()) continue;
    if (content.size() > synced) {
      content.resize(synced + random_.Uniform(content.size() - synced + 1));
      GRAFT_CHECK(memory_->DeleteFile(path).ok());
      GRAFT_CHECK(rocksdb::WriteStringToFile(memory_.get(), content, path, true).ok());
    }
    synced = content.size();
  }
}

void FaultyEnv::StopAfter(int operations) {
  MutexLock lock(mu_);
  stop_in_ = operations;
}

void FaultyEnv::FailNth(Fault fault, int nth) {
  MutexLock lock(mu_);
  fault_ = fault;
  fault_in_ = nth;
}

int64_t FaultyEnv::operations() {
  MutexLock lock(mu_);
  return operations_;
}

}  // namespace graft::fileservice
