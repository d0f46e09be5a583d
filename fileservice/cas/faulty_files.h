// Files in memory that lose what was not synced and fail on demand. For tests alone.
//
//   FaultyFiles files(seed);
//   ...                      // write through a ChunkStore
//   files.Crash();           // the power goes: un-synced writes are kept, cut or lost, by the seed
//   ...                      // open again
//
// A Crash also makes every descriptor that was open fail. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/random.h"
#include "fileservice/cas/files.h"

namespace graft::fileservice {

class FaultyFiles final : public Files {
 public:
  explicit FaultyFiles(uint64_t seed) : random_(seed) {}

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  absl::Status Truncate(const std::string& path, int64_t size) override;
  absl::Status Remove(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> ListOrCreate(const std::string& directory) override;
  absl::Status SyncDirectory(const std::string& directory) override;
  absl::StatusOr<int64_t> AvailableBytes(const std::string& directory) override;

  // The power goes and comes back.
  void Crash();
  enum class Fault { kNone, kNoSpace, kIo, kShortWrite, kSyncFails };
  // The `nth` operation from now (0 is the next) that may have this fault has it, once.
  void FailNth(Fault fault, int nth);
  // How many operations that may have `fault` were made so far.
  int64_t operations(Fault fault);
  // From now on every operation fails as if the machine had stopped, until Crash().
  void StopAfter(int operations);
  // From now on syncs wait, until they are released.
  void HoldSyncs();
  void AwaitHeldSync();  // until one waits
  void ReleaseSyncs();
  void set_available_bytes(int64_t bytes);
  // Flips one bit of the file as it lies on the disk.
  void FlipBit(const std::string& path, int64_t bit);
  std::vector<std::string> paths();
  std::string content(const std::string& path);

 private:
  friend class FaultyReadable;
  friend class FaultyWritable;
  struct Write {
    int64_t offset;
    std::string bytes;
  };
  struct File {
    std::string current;
    std::string durable;
    std::vector<Write> pending;
    bool name_durable = false;
  };
  absl::Status Take(Fault kind) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static void Apply(const Write& write, std::string& content);

  Mutex mu_;
  SeededRandom random_;
  std::map<std::string, std::shared_ptr<File>> files_ GRAFT_GUARDED_BY(mu_);
  int64_t generation_ GRAFT_GUARDED_BY(mu_) = 0;
  Fault fault_ GRAFT_GUARDED_BY(mu_) = Fault::kNone;
  int fault_in_ GRAFT_GUARDED_BY(mu_) = -1;
  int stop_in_ GRAFT_GUARDED_BY(mu_) = -1;
  bool stopped_ GRAFT_GUARDED_BY(mu_) = false;
  int64_t writes_ GRAFT_GUARDED_BY(mu_) = 0;
  int64_t syncs_ GRAFT_GUARDED_BY(mu_) = 0;
  CondVar syncs_changed_;
  bool holds_syncs_ GRAFT_GUARDED_BY(mu_) = false;
  int held_syncs_ GRAFT_GUARDED_BY(mu_) = 0;
  int64_t available_ GRAFT_GUARDED_BY(mu_) = int64_t{1} << 40;
};

}  // namespace graft::fileservice
