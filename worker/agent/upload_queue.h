// What an attempt has to upload: one folder after the other, each into a session that the scheduler
// has granted for its kind. A session takes one upload that succeeds; the scheduler grants another
// when it has seen it.
//
// Owned by the agent's loop; uploads run on a thread of their own and come back by posting.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/loop.h"
#include "graft/agent/v1/agent.pb.h"
#include "worker/agent/background.h"
#include "worker/agent/links.h"

namespace graft::agent {

class UploadQueue {
 public:
  struct Item {
    v1::Upload::Kind kind = v1::Upload::KIND_UNSPECIFIED;
    std::string folder;
    int64_t step = 0;
    std::optional<double> val_loss;
    bool best = false;
  };
  using Grants = google::protobuf::RepeatedPtrField<v1::UploadGrant>;
  // The session that was used, and the bytes that went into it.
  using OnDone =
      std::function<void(const Item&, const std::string& session, absl::StatusOr<int64_t>)>;

  UploadQueue(Loop& loop, FileLink& files, OnDone on_done)
      : loop_(loop), files_(files), on_done_(std::move(on_done)) {}

  // A checkpoint takes the place of an older one that still waits, but for the best one.
  void Add(Item item);
  // Begins the first item that one of `grants` is for, unless an upload is under way.
  void StartNext(const Grants& grants);
  // Forgets what waits; Stop also gives up what is under way.
  void DropWaiting() { waiting_.clear(); }
  void Stop();
  bool idle() const { return running_ == nullptr && waiting_.empty(); }

 private:
  Loop& loop_;
  FileLink& files_;
  const OnDone on_done_;
  std::vector<Item> waiting_;
  std::vector<std::string> used_sessions_;
  int64_t last_checkpoint_step_ = -1;
  std::unique_ptr<Background> running_;
};

}  // namespace graft::agent
