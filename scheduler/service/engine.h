// Runs the core over the store: everything that waits is done in one turn with one commit, and only
// then is anything answered or sent.
//
//   engine.Run({{.work = [&](Turn& turn) { return turn.Step(JobSubmitted{...}); },
//                .done = [&](absl::Status status, int64_t revision) { ... }}}, now);
//
// When a commit fails nothing of the turn is acknowledged, the store is opened again and the core
// is rebuilt from what is there: memory never runs ahead of the disk.
//
// One thread at a time calls it (the scheduler's loop, or a simulation). It reads no clock.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "scheduler/core/core.h"
#include "scheduler/service/turn.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

// Where an engine sends what its commits have made true. Called after the commit, on its thread.
class EngineOutput {
 public:
  virtual ~EngineOutput() = default;
  virtual void OnCommitted(int64_t revision) = 0;
  virtual void OnDesiredChanged(const std::string& node) = 0;
  virtual void OnPublish(const PublishCall& call) = 0;
  // Every job that the turn has written; staged writes of the callee belong to the same commit.
  // Called before the commit.
  virtual void OnJobWritten(Turn& turn, const Job& job) = 0;
};

class Engine {
 public:
  using Request = TurnRequest;

  // Rebuilds the core from the store and counts one more incarnation.
  static absl::StatusOr<std::unique_ptr<Engine>> Open(Store& store, EngineOutput& output,
                                                      CoreOptions options, absl::Time now);

  // Does every request's work in order, commits once, then calls every `done`.
  void Run(std::vector<Request> requests, absl::Time now);
  // When the core wants a turn with Ticked.
  absl::Time wake_at() const { return wake_at_; }
  // False after a failed commit, until a turn has opened the store again.
  bool healthy() const { return healthy_; }
  const Core& core() const { return *core_; }

 private:
  class TurnImpl;
  Engine(Store& store, EngineOutput& output, CoreOptions options)
      : store_(store), output_(output), options_(options) {}

  absl::Status Rebuild(absl::Time now);
  absl::Status CommitAndSend(TurnImpl& turn);

  Store& store_;
  EngineOutput& output_;
  CoreOptions options_;
  std::unique_ptr<Core> core_;
  absl::Time wake_at_ = absl::InfiniteFuture();
  bool healthy_ = false;
  uint64_t audit_sequence_ = 0;
  std::string audit_hash_;
};

// An entry of the trail as it is stored.
struct AuditRecord {
  uint64_t sequence = 0;
  std::string hash;  // hexadecimal SHA-256 over the hash before and the body
  Json body;         // time_us, who, method, resource, text, change, request, revision
};
// NOT_FOUND, DATA_LOSS.
absl::StatusOr<AuditRecord> ReadAuditRecord(const Store& store, uint64_t sequence);
// The newest sequence; 0 before the first.
uint64_t LastAuditSequence(const Store& store);

struct AuditChain {
  uint64_t checked = 0;
  std::string hash;  // of the last, hexadecimal
};
// The entries from `first` to `last` (0: the newest) are one unbroken chain. DATA_LOSS names the
// first that is missing, moved or edited.
absl::StatusOr<AuditChain> CheckAuditChain(const Store& store, uint64_t first = 1,
                                           uint64_t last = 0);
// Reads every record of the core's; answers how many records of any kind there are.
absl::StatusOr<int64_t> CheckRecords(const Store& store);
// For a store that was restored from a backup, before it serves: later lives than any that the old
// store may have had, so that workers and calls of those are refused.
absl::Status MarkRestored(Store& store);

}  // namespace graft::scheduler
