// The stream between a session's trainer and the scheduler: dialled, and dialled again when it
// breaks. Questions that came over a stream die with it: their answers are cancelled and what the
// trainer still says of them is dropped, because nobody waits for it any more.
//
// A thread of its own dials and writes. Reply may be called from any thread and blocks while much
// is unsent, which holds the trainer back through its pipe.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "graft/agent/v1/agent.pb.h"
#include "worker/agent/links.h"

namespace graft::agent {

class InferenceRelay {
 public:
  // `to_trainer` gets the trainer's lines, on threads of the stream's. `hello` opens every stream
  // and says that the model is loaded. Both references outlive the relay.
  InferenceRelay(SchedulerLink& scheduler, v1::ServeInferenceRequest hello,
                 std::function<absl::Status(const std::string&)> to_trainer);
  ~InferenceRelay();

  void Reply(v1::ServeInferenceRequest reply);
  // Lets go of whoever is blocked in Reply; the relay carries nothing from now on.
  void Stop();

 private:
  void Run();
  // Until the stream breaks.
  void Serve();
  void OnCommand(const v1::ServeInferenceResponse& command);
  void ToTrainer(const v1::ServeInferenceResponse& command);

  SchedulerLink& scheduler_;
  const v1::ServeInferenceRequest hello_;
  const std::function<absl::Status(const std::string&)> to_trainer_;
  Mutex mu_;
  CondVar changed_;
  std::set<std::string> questions_ GRAFT_GUARDED_BY(mu_);  // of the present stream
  std::deque<v1::ServeInferenceRequest> unsent_ GRAFT_GUARDED_BY(mu_);
  InferenceStream* open_ GRAFT_GUARDED_BY(mu_) = nullptr;
  bool broken_ GRAFT_GUARDED_BY(mu_) = false;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace graft::agent
