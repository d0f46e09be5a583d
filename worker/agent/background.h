// One piece of blocking work (a download, an upload) on a thread of its own, whose result comes
// back to the loop. Owned by the loop; destroying it asks the work to give up and waits for it.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "base/log.h"
#include "base/loop.h"
#include "worker/agent/links.h"

namespace graft::agent {

class Background {
 public:
  // Runs `work` (which returns what to do on the loop) on a new thread. The continuation is not run
  // once this object is destroyed.
  Background(Loop& loop, std::function<std::function<void()>(const CancelFlag&)> work)
      : state_(std::make_shared<State>()) {
    thread_ = std::thread([&loop, state = state_, work = std::move(work)] {
      std::function<void()> then = work(state->cancel);
      const absl::Status posted = loop.Post([state, then = std::move(then)] {
        if (!state->cancel) then();
      });
      if (!posted.ok()) LOG_WARNING("a result was dropped", {{"reason", posted.message()}});
    });
  }
  ~Background() {
    state_->cancel = true;
    thread_.join();
  }
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  void Cancel() { state_->cancel = true; }

 private:
  struct State {
    CancelFlag cancel{false};
  };
  std::shared_ptr<State> state_;
  std::thread thread_;
};

}  // namespace graft::agent
