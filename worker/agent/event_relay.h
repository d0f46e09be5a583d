// Carries what ranks and the agent report to the scheduler: each source has a spool, one stream
// carries all of them, and what was acknowledged is forgotten. A broken stream is opened again and
// goes on after the last acknowledgement, so that nothing is lost and what is sent twice carries
// the same number.
//
// Sources may be appended to from any thread. The relay has one thread of its own.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "graft/agent/v1/agent.pb.h"
#include "worker/agent/links.h"
#include "worker/agent/spool.h"

namespace graft::agent {

// A rank of an attempt; rank -1 is the agent itself.
using EventSource = std::pair<std::string, int>;

class EventRelay {
 public:
  // Spools lie in `folder`; those that an earlier agent left are sent first.
  static absl::StatusOr<std::unique_ptr<EventRelay>> Open(const std::string& folder,
                                                          SchedulerLink& link);
  ~EventRelay();

  // Names the node and epoch that the stream begins with; opens a new stream.
  void SetLease(const std::string& node, int64_t epoch);
  // Keeps the event until it is acknowledged. What a full disk makes impossible to keep is counted
  // and reported as dropped.
  void Append(const EventSource& source, const v1::AgentEvent& event);
  // The attempt is over: its spools are removed when all of it is acknowledged.
  void Close(const std::string& attempt);
  // Whether everything of the attempt has been acknowledged.
  bool Drained(const std::string& attempt);

 private:
  struct Stream {
    std::unique_ptr<Spool> spool;
    std::string folder;
    int64_t sent = 0;     // in the present stream
    int64_t dropped = 0;  // since the last event that could be kept
    bool closing = false;
  };

  EventRelay(std::string folder, SchedulerLink& link) : folder_(std::move(folder)), link_(link) {}
  absl::Status LoadLeftovers() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Stream*> Find(const EventSource& source) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run();
  bool SendPending(EventStream& stream, bool& first);
  void OnAck(const v1::PushEventsResponse& response);
  void RemoveDrained() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::string folder_;
  SchedulerLink& link_;
  Mutex mu_;
  CondVar wake_;
  std::map<EventSource, Stream> streams_ GRAFT_GUARDED_BY(mu_);
  std::string node_ GRAFT_GUARDED_BY(mu_);
  int64_t epoch_ GRAFT_GUARDED_BY(mu_) = 0;
  uint64_t generation_ GRAFT_GUARDED_BY(mu_) = 0;  // of the stream that should be open
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  EventStream* open_ GRAFT_GUARDED_BY(mu_) = nullptr;
  std::thread thread_;
};

}  // namespace graft::agent
