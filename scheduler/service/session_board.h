// Questions under way and the sessions that answer them: what moves too fast to be a record.
//
//   Ask -> waits -> (an agent's stream is attached and its model loaded) -> sent -> ended or failed
//
// A session answers one question after the other; so many as keep its trainer busy are sent, the
// rest wait here, where a question whose asker leaves costs nothing. When a stream breaks, what was
// sent over it is neither lost nor repeated: it fails when the session is attached again, or with
// the session, whose record says why.
//
// Thread-safe. Askers and streams are called with no lock held, those of one question in order.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "graft/agent/v1/agent.pb.h"

namespace graft::scheduler {

// Whoever asked. After OnEnd or OnFailure nothing more comes.
class Asker {
 public:
  virtual ~Asker() = default;
  virtual void OnWaiting(const std::string& what_for) = 0;
  virtual void OnTokens(const graft::agent::v1::ServeInferenceRequest::Tokens& tokens) = 0;
  virtual void OnEnd(const graft::agent::v1::ServeInferenceRequest::End& end) = 0;
  virtual void OnFailure(const absl::Status& status) = 0;
};

// The way to the agent of a session. Neither function blocks.
class AnswerStream {
 public:
  virtual ~AnswerStream() = default;
  virtual void Send(const graft::agent::v1::ServeInferenceResponse& command) = 0;
  virtual void End(const absl::Status& status) = 0;
};

class SessionBoard {
 public:
  // Questions of one session, waiting and sent.
  static constexpr size_t kMaxQuestions = 64;
  // One is answered, the next stands ready in the trainer.
  static constexpr int kMaxSent = 2;

  using Command = graft::agent::v1::ServeInferenceResponse;
  using Reply = graft::agent::v1::ServeInferenceRequest;

  // The session may be asked. It counts as used now. No-op when it is open already.
  void Open(const std::string& session, absl::Duration idle_timeout, absl::Time now);
  // Returns the question's id. Both are shared: the asker with its call's stream. NOT_FOUND when
  // the session is not open, RESOURCE_EXHAUSTED when it has too many questions.
  absl::StatusOr<std::string> Ask(const std::string& session, Command command,
                                  std::shared_ptr<Asker> asker);
  // The asker has left. Nothing more is told to it.
  void Cancel(const std::string& session, const std::string& question, absl::Time now);
  // Whether any question waits that was not sent yet.
  bool Waited(const std::string& session);
  // Tells those whose question was not sent what they wait for, when it is news.
  void TellWaiting(const std::string& session, const std::string& what_for);

  // An agent serves the session; an older stream is ended. NOT_FOUND when the session is not open.
  absl::Status Attach(const std::string& session, std::shared_ptr<AnswerStream> stream);
  void OnReply(const std::string& session, const AnswerStream* from, const Reply& reply,
               absl::Time now);
  void Detach(const std::string& session, const AnswerStream* from);

  // The session is over: what is asked fails with `why`; with OK it ends as CANCELLED.
  void Close(const std::string& session, const absl::Status& why);
  std::vector<std::string> open();
  // When it was last asked or answered. NOT_FOUND when it is not open.
  absl::StatusOr<absl::Time> Used(const std::string& session);
  // Those without a question for as long as their idle timeout.
  std::vector<std::string> Idle(absl::Time now);
  // The one without a question for the longest time, if that is at least `rest`; else empty.
  std::string LongestIdle(absl::Time now, absl::Duration rest);

 private:
  struct Question {
    Command command;
    std::shared_ptr<Asker> asker;
    bool sent = false;
    bool orphaned = false;  // sent over a stream that broke
  };
  struct Session {
    absl::Duration idle_timeout;
    absl::Time used;
    std::shared_ptr<AnswerStream> stream;  // shared with gRPC's reactor; null: none
    bool ready = false;
    std::string waits_for;
    std::deque<std::string> order;  // of those not sent
    std::map<std::string, Question> questions;
  };
  using Call = std::function<void()>;

  // Appends the commands that may be sent now.
  static void SendNext(Session& session, std::vector<Call>& calls);
  static void Run(std::vector<Call>& calls);

  Mutex mu_;
  uint64_t next_question_ GRAFT_GUARDED_BY(mu_) = 1;
  std::map<std::string, Session> sessions_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::scheduler
