#include "worker/agent/upload_queue.h"

#include <algorithm>
#include <utility>

namespace graft::agent {
namespace {

bool IsCheckpoint(const UploadQueue::Item& item) {
  return item.kind == v1::Upload::KIND_CHECKPOINT;
}

}  // namespace

void UploadQueue::Add(Item item) {
  if (IsCheckpoint(item)) {
    // The one written at the end may be of the very step that an interval had just kept.
    if (item.step == last_checkpoint_step_ && !item.best) return;
    last_checkpoint_step_ = item.step;
    std::erase_if(waiting_, [](const Item& older) { return IsCheckpoint(older) && !older.best; });
  }
  waiting_.push_back(std::move(item));
}

void UploadQueue::StartNext(const Grants& grants) {
  if (running_ != nullptr) return;
  for (auto item = waiting_.begin(); item != waiting_.end(); ++item) {
    const auto grant =
        std::find_if(grants.begin(), grants.end(), [&](const v1::UploadGrant& candidate) {
          return candidate.kind() == item->kind && !candidate.published() &&
                 std::find(used_sessions_.begin(), used_sessions_.end(), candidate.session()) ==
                     used_sessions_.end();
        });
    if (grant == grants.end()) continue;
    used_sessions_.push_back(grant->session());
    Item what = std::move(*item);
    waiting_.erase(item);
    running_ = std::make_unique<Background>(
        loop_,
        [this, what = std::move(what),
         grant = *grant](const CancelFlag& cancel) -> std::function<void()> {
          absl::StatusOr<int64_t> bytes =
              files_.Upload(what.folder, grant.session(), grant.token(), cancel);
          return [this, what, session = grant.session(), bytes = std::move(bytes)] {
            running_.reset();
            // Nothing was published there: what comes next may have it.
            if (!bytes.ok()) std::erase(used_sessions_, session);
            on_done_(what, session, bytes);
          };
        });
    return;
  }
}

void UploadQueue::Stop() {
  waiting_.clear();
  running_.reset();
}

}  // namespace graft::agent
