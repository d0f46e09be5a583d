#include "scheduler/service/session_board.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/status.h"

namespace graft::scheduler {
namespace {

namespace agent = graft::agent::v1;
namespace v1 = graft::v1;

absl::StatusCode CodeOf(v1::Reason reason) {
  switch (reason) {
    case v1::REASON_CONTEXT_EXCEEDED:
      return absl::StatusCode::kOutOfRange;
    case v1::REASON_FIELD_INVALID:
      return absl::StatusCode::kInvalidArgument;
    case v1::REASON_FEATURE_UNAVAILABLE:
      return absl::StatusCode::kUnimplemented;
    case v1::REASON_OUT_OF_MEMORY:
    case v1::REASON_RATE_LIMITED:
      return absl::StatusCode::kResourceExhausted;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

absl::Status StatusOf(const agent::ServeInferenceRequest::Failure& failure) {
  const std::string name = v1::Reason_Name(failure.reason());
  return rpc::ErrorBuilder(CodeOf(failure.reason()), failure.message())
      .Reason(name.substr(std::string("REASON_").size()))
      .Build();
}

SessionBoard::Command CancelOf(const std::string& question) {
  SessionBoard::Command command;
  command.set_request_id(question);
  command.set_cancel(true);
  return command;
}

}  // namespace

void SessionBoard::Run(std::vector<Call>& calls) {
  for (const Call& call : calls) call();
}

void SessionBoard::Open(const std::string& session, absl::Duration idle_timeout, absl::Time now) {
  MutexLock lock(mu_);
  const auto [it, fresh] = sessions_.try_emplace(session);
  if (!fresh) return;
  it->second.idle_timeout = idle_timeout;
  it->second.used = now;
}

absl::StatusOr<std::string> SessionBoard::Ask(const std::string& session, Command command,
                                              std::shared_ptr<Asker> asker) {
  std::vector<Call> calls;
  std::string id;
  {
    MutexLock lock(mu_);
    const auto it = sessions_.find(session);
    if (it == sessions_.end()) return absl::NotFoundError(absl::StrCat(session, " has ended"));
    Session& to = it->second;
    if (to.questions.size() >= kMaxQuestions) {
      return rpc::ErrorBuilder(absl::StatusCode::kResourceExhausted,
                               absl::StrCat(session, " has ", to.questions.size(),
                                            " questions under way, as many as it takes"))
          .Reason("RATE_LIMITED")
          .RetryAfter(absl::Seconds(5))
          .Build();
    }
    id = absl::StrCat("q", next_question_++);
    command.set_request_id(id);
    to.questions[id] = {.command = std::move(command), .asker = std::move(asker)};
    to.order.push_back(id);
    SendNext(to, calls);
  }
  Run(calls);
  return id;
}

void SessionBoard::SendNext(Session& session, std::vector<Call>& calls) {
  if (session.stream == nullptr || !session.ready) return;
  auto sent = std::count_if(session.questions.begin(), session.questions.end(),
                            [](const auto& entry) { return entry.second.sent; });
  while (sent < kMaxSent && !session.order.empty()) {
    Question& question = session.questions.at(session.order.front());
    session.order.pop_front();
    question.sent = true;
    ++sent;
    calls.push_back([stream = session.stream, command = std::move(question.command)] {
      stream->Send(command);
    });
  }
}

void SessionBoard::Cancel(const std::string& session, const std::string& question, absl::Time now) {
  std::vector<Call> calls;
  {
    MutexLock lock(mu_);
    const auto it = sessions_.find(session);
    if (it == sessions_.end()) return;
    Session& from = it->second;
    const auto found = from.questions.find(question);
    if (found == from.questions.end()) return;
    from.used = std::max(from.used, now);
    if (found->second.sent) {
      if (from.stream != nullptr && !found->second.orphaned) {
        calls.push_back(
            [stream = from.stream, command = CancelOf(question)] { stream->Send(command); });
      }
    } else {
      from.order.erase(std::find(from.order.begin(), from.order.end(), question));
    }
    from.questions.erase(found);
    SendNext(from, calls);
  }
  Run(calls);
}

bool SessionBoard::Waited(const std::string& session) {
  MutexLock lock(mu_);
  const auto it = sessions_.find(session);
  return it != sessions_.end() && !it->second.order.empty();
}

void SessionBoard::TellWaiting(const std::string& session, const std::string& what_for) {
  std::vector<Call> calls;
  {
    MutexLock lock(mu_);
    const auto it = sessions_.find(session);
    if (it == sessions_.end() || it->second.waits_for == what_for) return;
    it->second.waits_for = what_for;
    for (const std::string& id : it->second.order) {
      calls.push_back(
          [asker = it->second.questions.at(id).asker, what_for] { asker->OnWaiting(what_for); });
    }
  }
  Run(calls);
}

absl::Status SessionBoard::Attach(const std::string& session,
                                  std::shared_ptr<AnswerStream> stream) {
  std::shared_ptr<AnswerStream> older;
  std::vector<Call> calls;
  {
    MutexLock lock(mu_);
    const auto it = sessions_.find(session);
    if (it == sessions_.end()) return absl::NotFoundError(absl::StrCat(session, " has ended"));
    Session& to = it->second;
    older = std::exchange(to.stream, std::move(stream));
    to.ready = false;
    for (auto question = to.questions.begin(); question != to.questions.end();) {
      if (!question->second.sent) {
        ++question;
        continue;
      }
      calls.push_back([asker = question->second.asker] {
        asker->OnFailure(absl::UnavailableError(
            "the connection to the worker broke in the middle of the answer; ask again"));
      });
      question = to.questions.erase(question);
    }
  }
  if (older != nullptr) older->End(absl::CancelledError("a newer stream serves the session"));
  Run(calls);
  return absl::OkStatus();
}

void SessionBoard::OnReply(const std::string& session, const AnswerStream* from, const Reply& reply,
                           absl::Time now) {
  std::vector<Call> calls;
  {
    MutexLock lock(mu_);
    const auto it = sessions_.find(session);
    if (it == sessions_.end() || it->second.stream.get() != from) return;
    Session& at = it->second;
    at.used = std::max(at.used, now);
    if (reply.has_ready()) {
      at.ready = true;
    } else if (const auto found = at.questions.find(reply.request_id());
               found != at.questions.end() && found->second.sent) {
      const std::shared_ptr<Asker> asker = found->second.asker;
      if (reply.has_tokens()) {
        calls.push_back([asker, &reply] { asker->OnTokens(reply.tokens()); });
      } else if (reply.has_end()) {
        calls.push_back([asker, &reply] { asker->OnEnd(reply.end()); });
        at.questions.erase(found);
      } else if (reply.has_failure()) {
        calls.push_back([asker, &reply] { asker->OnFailure(StatusOf(reply.failure())); });
        at.questions.erase(found);
      }
    }
    SendNext(at, calls);
  }
  Run(calls);
}

void SessionBoard::Detach(const std::string& session, const AnswerStream* from) {
  std::shared_ptr<AnswerStream> gone;
  MutexLock lock(mu_);
  const auto it = sessions_.find(session);
  if (it == sessions_.end() || it->second.stream.get() != from) return;
  gone = std::exchange(it->second.stream, nullptr);
  it->second.ready = false;
  for (auto& [id, question] : it->second.questions) question.orphaned = question.sent;
}

void SessionBoard::Close(const std::string& session, const absl::Status& why) {
  Session over;
  {
    MutexLock lock(mu_);
    const auto it = sessions_.find(session);
    if (it == sessions_.end()) return;
    over = std::move(it->second);
    sessions_.erase(it);
  }
  for (auto& [id, question] : over.questions) {
    if (!why.ok()) {
      question.asker->OnFailure(why);
      continue;
    }
    agent::ServeInferenceRequest::End end;
    end.set_finish_reason(v1::FINISH_REASON_CANCELLED);
    question.asker->OnEnd(end);
  }
  if (over.stream != nullptr) {
    over.stream->End(absl::NotFoundError(absl::StrCat(session, " has ended")));
  }
}

std::vector<std::string> SessionBoard::open() {
  MutexLock lock(mu_);
  std::vector<std::string> names;
  for (const auto& [name, session] : sessions_) names.push_back(name);
  return names;
}

absl::StatusOr<absl::Time> SessionBoard::Used(const std::string& session) {
  MutexLock lock(mu_);
  const auto it = sessions_.find(session);
  if (it == sessions_.end()) return absl::NotFoundError(absl::StrCat(session, " has ended"));
  return it->second.used;
}

std::vector<std::string> SessionBoard::Idle(absl::Time now) {
  MutexLock lock(mu_);
  std::vector<std::string> idle;
  for (const auto& [name, session] : sessions_) {
    if (session.questions.empty() && now - session.used >= session.idle_timeout) {
      idle.push_back(name);
    }
  }
  return idle;
}

std::string SessionBoard::LongestIdle(absl::Time now, absl::Duration rest) {
  MutexLock lock(mu_);
  std::string longest;
  absl::Time used = now - rest;
  for (const auto& [name, session] : sessions_) {
    if (!session.questions.empty() || session.used > used) continue;
    used = session.used;
    longest = name;
  }
  return longest;
}

}  // namespace graft::scheduler
