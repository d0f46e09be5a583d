// The files of RocksDB in memory, which lose what was not synced: the twin of FaultyFiles for the
// index. For tests alone.
//
//   FaultyEnv env(seed);
//   ...                  // Database::Open("/db", {.env = &env})
//   env.StopAfter(n);    // the n-th write or sync from now on fails, and all that follow
//   ...                  // close the database
//   env.Crash();         // un-synced bytes are kept in part or lost
//
// Names are durable at once; deletions and renames too. Tables are never merged: RocksDB 7.8 as
// Debian builds it ends the process when a merge fails, so a database may be opened some 30 times
// before its writes stop. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/random.h"
#include "rocksdb/env.h"

namespace graft::fileservice {

class FaultyEnv final : public rocksdb::EnvWrapper {
 public:
  explicit FaultyEnv(uint64_t seed);
  ~FaultyEnv() override;

  rocksdb::Status NewWritableFile(const std::string& path,
                                  std::unique_ptr<rocksdb::WritableFile>* file,
                                  const rocksdb::EnvOptions& options) override;
  rocksdb::Status ReopenWritableFile(const std::string& path,
                                     std::unique_ptr<rocksdb::WritableFile>* file,
                                     const rocksdb::EnvOptions& options) override;
  rocksdb::Status RenameFile(const std::string& from, const std::string& to) override;
  rocksdb::Status DeleteFile(const std::string& path) override;
  void Schedule(void (*function)(void*), void* argument, Priority priority, void* tag,
                void (*unscheduled)(void*)) override;
  int UnSchedule(void* tag, Priority priority) override;

  // The files must be closed before.
  void Crash();
  void StopAfter(int operations);
  enum class Fault { kNoSpace, kIo };
  // The `nth` write or sync from now on has this fault, once.
  void FailNth(Fault fault, int nth);
  // Writes and syncs so far.
  int64_t operations();

 private:
  friend class FaultyDbFile;
  // Counts a write or sync and says whether it fails.
  rocksdb::Status Take();

  // A merge that waits until its database is closed.
  struct Merge {
    void* tag;
    void* argument;
    void (*unscheduled)(void*);
  };

  const std::unique_ptr<rocksdb::Env> memory_;
  Mutex mu_;
  SeededRandom random_;
  std::map<std::string, uint64_t> synced_ GRAFT_GUARDED_BY(mu_);  // bytes, of each file
  std::vector<Merge> merges_ GRAFT_GUARDED_BY(mu_);
  int64_t operations_ GRAFT_GUARDED_BY(mu_) = 0;
  int stop_in_ GRAFT_GUARDED_BY(mu_) = -1;
  int fault_in_ GRAFT_GUARDED_BY(mu_) = -1;
  Fault fault_ GRAFT_GUARDED_BY(mu_) = Fault::kIo;
  bool stopped_ GRAFT_GUARDED_BY(mu_) = false;
};

}  // namespace graft::fileservice
