// Plays a scenario: a text that tells what happens to a cluster and what is expected of it then.
//
//   node n0 devices=8 rack=r0
//   job w/a tp=8 dp=2 priority=1
//   expect w/a QUEUED because CAPACITY
//   node n1 devices=8 rack=r0
//   expect w/a STARTING on n0 n1
//
// The scheduler is the program's own engine over the store in memory; nodes, their ranks and the
// fileservice are played by the driver. Time stands still but for `after`. Verbs (README.md has
// them all) are lines of words and key=value pairs; # begins a comment.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "scheduler/core/invariants.h"
#include "scheduler/service/engine.h"
#include "scheduler/store/mem_store.h"

namespace graft::scheduler {

class Scenario final : public EngineOutput {
 public:
  Scenario();
  // What did not go as told, each beginning with the line's number; empty: all did.
  std::vector<std::string> Play(absl::string_view text);

  void OnCommitted(int64_t revision) override {}
  void OnDesiredChanged(const std::string& node) override {}
  void OnPublish(const PublishCall& call) override { calls_.push_back(call); }
  void OnJobWritten(Turn& turn, const Job& job) override {}

 private:
  // A line, cut into its words and its key=value pairs.
  struct Line {
    std::vector<std::string> words;
    std::map<std::string, std::string> pairs;
    std::string quoted;  // what stands between quotation marks

    int Number(const std::string& key, int otherwise) const;
    absl::Duration Time(const std::string& key, absl::Duration otherwise) const;
    std::string Text(const std::string& key, const std::string& otherwise) const;
    bool Yes(const std::string& key) const { return Text(key, "yes") != "no"; }
  };
  struct PlayedNode {
    int64_t epoch = 0;
    bool silent = false;
    std::map<JobKey, PartReport> parts;
  };

  static absl::StatusOr<Line> Cut(absl::string_view text);
  absl::Status Do(const Line& line);
  absl::Status Step(const Event& event);
  void Open();

  absl::Status PutNode(const Line& line);
  absl::Status PutQueue(const Line& line);
  absl::Status PutShare(const Line& line);
  absl::Status SubmitJob(const Line& line);
  absl::Status CommandJob(const Line& line);
  absl::Status CommandNode(const Line& line);
  absl::Status RanksOf(const Line& line);
  absl::Status Progress(const Line& line);
  absl::Status Fail(const Line& line);
  absl::Status Speak(const Line& line);
  absl::Status Wait(const Line& line);
  absl::Status Expect(const Line& line);
  absl::Status ExpectRefusal(const Line& line);
  absl::Status ExpectHelp(const Line& line);

  void Sync(const std::string& name);
  void SyncAll();
  absl::StatusOr<const Job*> Find(const Line& line) const;
  // The node's reports of the job's live attempt, by node.
  std::vector<std::pair<std::string, PartReport*>> PartsOf(const Job& job);

  MemDisk disk_;
  std::unique_ptr<MemStore> store_;
  std::unique_ptr<Engine> engine_;
  InvariantChecker invariants_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  std::vector<PublishCall> calls_;
  absl::btree_map<std::string, PlayedNode> nodes_;
  absl::btree_map<std::string, Queue> queues_;
  absl::Status last_;  // of the line before
};

}  // namespace graft::scheduler
