// What the services see of the engine: a turn, and what is asked of one. The core and its events
// are only named here, because most services need no more of them and their containers take seconds
// to compile: who looks at the core or takes a step includes them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

class Core;
struct Event;

// A mutation's line in the audit trail.
struct AuditEntry {
  std::string principal;
  std::string method;
  std::string resource;
  std::string text;
  std::string change_json;  // path -> [before, after], without secrets
  std::string request_id;   // of the call, as in the log
};

// Something that happened to a resource, for ListEvents and WatchEvents.
struct EventEntry {
  std::string type;  // "job.queued"
  std::string resource;
  std::string actor;  // empty: the scheduler itself
  int reason = 0;     // graft.v1.Reason
  std::string message;
};

// What a request may do within a turn: it reads what the turn has staged so far over what is
// stored, and stages more. A request that returns an error leaves nothing behind.
class Turn {
 public:
  virtual ~Turn() = default;
  virtual absl::StatusOr<Record> Get(Family family, absl::string_view key) = 0;
  // Of the records, those staged included.
  virtual absl::StatusOr<std::vector<Record>> List(absl::string_view prefix) = 0;
  virtual void Put(Family family, absl::string_view key, std::string value) = 0;
  virtual void Remove(Family family, absl::string_view key) = 0;
  // The core's step. It cannot be taken back: once one has succeeded the request must too.
  virtual absl::Status Step(const Event& event) = 0;
  virtual void Audit(AuditEntry entry) = 0;
  // Told in the order of the calls, under the revision of the turn's commit.
  virtual void Emit(EventEntry entry) = 0;
  virtual const Core& core() const = 0;
  virtual absl::Time now() const = 0;
  // The revision that the turn's commit will have.
  virtual int64_t revision() const = 0;
};

struct TurnRequest {
  std::function<absl::Status(Turn&)> work;
  // With the revision of the commit when OK. May be empty.
  std::function<void(absl::Status, int64_t)> done;
};

}  // namespace graft::scheduler
