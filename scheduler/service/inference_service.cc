#include "scheduler/service/inference_service.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/log.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/inference_answer.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/session_records.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr absl::string_view kQueue = "interactive";
constexpr absl::Duration kDefaultIdleTimeout = absl::Minutes(5);
constexpr absl::Duration kLongestIdleTimeout = absl::Hours(24);
constexpr absl::Duration kTick = absl::Seconds(1);
// A session that rests for so long is idle when others wait for devices.
constexpr absl::Duration kShortestRest = absl::Seconds(1);
// Jobs at the head of the queue that are looked at for that.
constexpr size_t kHeadOfQueue = 8;
// Ended sessions that a workspace keeps, to say why they ended.
constexpr size_t kKeptEnded = 50;
// Caches of keys and values, and the program, beside the weights.
constexpr double kMemoryPerWeightByte = 1.2;

bool IsOver(const Job* job) {
  return job == nullptr || IsTerminal(job->state) || job->state == JobState::kCancelling ||
         job->state == JobState::kPreempting;
}

absl::Status EndedStatus(const v1::InferenceSession& session) {
  if (session.reason() == v1::REASON_CANCELLED_BY_USER) return absl::OkStatus();
  const std::string reason = v1::Reason_Name(session.reason());
  return rpc::ErrorBuilder(absl::StatusCode::kUnavailable,
                           absl::StrCat("the session has ended: ", session.message(),
                                        "; asking again begins another"))
      .Reason(absl::StripPrefix(reason, "REASON_"))
      .Metadata("session", session.name())
      .Build();
}

bool Holds(const v1::InferenceSession& session, const InferenceTarget& target) {
  const std::vector<std::string> versions = target.Versions();
  return session.model() == target.name &&
         std::equal(session.versions().begin(), session.versions().end(), versions.begin(),
                    versions.end());
}

// Whether devices that are in use are all that keeps a job.
bool WaitsForDevices(absl::string_view code) { return code == "CAPACITY" || code == "PRIORITY"; }

// Drops the oldest records of sessions that have ended.
absl::Status TrimEnded(Turn& turn, const std::string& workspace) {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Record> records,
                         turn.List(absl::StrCat("session.time/", workspace, "/")));
  size_t kept = 0;
  for (const Record& record : records) {
    const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
    const JobKey key =
        SessionKeyOf(absl::StrCat("workspaces/", workspace, "/inferenceSessions/", parts[3]));
    const Job* job = turn.core().FindJob(key);
    if (job != nullptr && !IsTerminal(job->state)) continue;
    if (++kept <= kKeptEnded) continue;
    turn.Remove(Family::kRecords, record.key);
    turn.Remove(Family::kRecords, SessionRecordKey(workspace, parts[3]));
    if (job != nullptr) (void)turn.Step(JobErased{key});
  }
  return absl::OkStatus();
}

JobRequest GangOf(const JobKey& key, const InferenceTarget& target, const ClusterView& cluster) {
  JobRequest request{.key = key,
                     .workspace = target.workspace,
                     .queue = std::string(kQueue),
                     .kind = GangKind::kGenerate};
  request.gang.device_kind = "gpu";
  request.gang.min_memory_bytes = static_cast<int64_t>(
      static_cast<double>(target.model.spec().weight_bytes()) * kMemoryPerWeightByte);
  if (!FitsEmptyCluster(cluster, request.gang).ok()) {
    request.gang.device_kind = "cpu";
    request.gang.min_memory_bytes = 0;  // a CPU shares the host's
  }
  return request;
}

}  // namespace

rpc::Service InferenceService::Bind() {
  rpc::Service service("graft.v1.InferenceService");
  service.Stream("Chat", this, &InferenceService::Chat)
      .Stream("Complete", this, &InferenceService::Complete)
      .Async("CreateInferenceSession", this, &InferenceService::CreateInferenceSession)
      .Unary("GetInferenceSession", this, &InferenceService::GetInferenceSession)
      .Unary("ListInferenceSessions", this, &InferenceService::ListInferenceSessions)
      .Async("EndInferenceSession", this, &InferenceService::EndInferenceSession);
  return service;
}

// --- Questions ---

template <typename Response>
void InferenceService::Put(CallPtr call, const InferenceTarget& target, bool chat,
                           SessionBoard::Command command, int64_t seed, Writer<Response> writer) {
  auto session = std::make_shared<v1::InferenceSession>();  // from the turn to what follows it
  const std::string echoed = command.has_complete() && command.complete().echo()
                                 ? command.complete().prompt()
                                 : std::string();
  context_.control.Submit(
      {.work =
           [this, call, target, session](Turn& turn) {
             absl::StatusOr<v1::InferenceSession> found = FindOrMake(turn, *call, target);
             if (found.ok()) *session = *std::move(found);
             return found.status();
           },
       .done =
           [this, target, chat, command, seed, writer, session, echoed](absl::Status status,
                                                                        int64_t) {
             if (!status.ok()) return writer->Finish(status);
             const std::string name = session->name();
             board_.Open(name, absl::Seconds(session->idle_timeout().seconds()),
                         context_.clock.Now());
             auto answer = std::make_shared<Answer<Response>>(writer, seed);
             answer->Begin(name, WarningsFor(target, chat), echoed);
             const absl::StatusOr<std::string> question = board_.Ask(name, command, answer);
             if (!question.ok()) return writer->Finish(question.status());
             writer->OnClosed(
                 [this, name, id = *question] { board_.Cancel(name, id, context_.clock.Now()); });
             LookAt(name);
           }});
}

void InferenceService::Chat(CallPtr call, const v1::ChatRequest& request,
                            Writer<v1::ChatResponse> writer) {
  const absl::StatusOr<InferenceTarget> target = FindTarget(context_.store, request.model());
  if (!target.ok()) return writer->Finish(target.status());
  absl::StatusOr<v1::ChatRequest> resolved = ResolveChat(request, *target, context_.random);
  if (!resolved.ok()) return writer->Finish(resolved.status());
  const int64_t seed = resolved->config().seed();
  SessionBoard::Command command;
  *command.mutable_chat() = *std::move(resolved);
  Put<v1::ChatResponse>(std::move(call), *target, true, std::move(command), seed,
                        std::move(writer));
}

void InferenceService::Complete(CallPtr call, const v1::CompleteRequest& request,
                                Writer<v1::CompleteResponse> writer) {
  const absl::StatusOr<InferenceTarget> target = FindTarget(context_.store, request.model());
  if (!target.ok()) return writer->Finish(target.status());
  absl::StatusOr<v1::CompleteRequest> resolved = ResolveComplete(request, *target, context_.random);
  if (!resolved.ok()) return writer->Finish(resolved.status());
  const int64_t seed = resolved->config().seed();
  SessionBoard::Command command;
  *command.mutable_complete() = *std::move(resolved);
  Put<v1::CompleteResponse>(std::move(call), *target, false, std::move(command), seed,
                            std::move(writer));
}

// --- Sessions ---

absl::StatusOr<v1::InferenceSession> InferenceService::FindOrMake(Turn& turn, const rpc::Call& call,
                                                                  const InferenceTarget& target) {
  const auto& jobs = turn.core().jobs();
  const std::string prefix = absl::StrCat(target.workspace, "/inferenceSessions/");
  for (auto it = jobs.lower_bound(prefix); it != jobs.end() && absl::StartsWith(it->first, prefix);
       ++it) {
    if (IsOver(&it->second)) continue;
    const absl::StatusOr<v1::InferenceSession> session =
        ReadSession(turn, SessionNameOf(it->first));
    if (session.ok() && Holds(*session, target)) return session;
  }
  return Make(turn, call, target, {});
}

absl::StatusOr<v1::InferenceSession> InferenceService::Make(Turn& turn, const rpc::Call& call,
                                                            const InferenceTarget& target,
                                                            const v1::InferenceSession& wanted) {
  if (!turn.core().queues().contains(kQueue)) {
    return NoSuchResource(absl::StrCat("queues/", kQueue));
  }
  GRAFT_RETURN_IF_ERROR(TrimEnded(turn, target.workspace));
  const std::string id = context_.random.Id(12);
  v1::InferenceSession session;
  session.set_name(absl::StrCat("workspaces/", target.workspace, "/inferenceSessions/", id));
  session.set_model(target.name);
  session.set_state(v1::InferenceSession::STATE_QUEUED);
  session.set_creator(call.identity->subject);
  *session.mutable_create_time() = ToTimestamp(turn.now());
  *session.mutable_last_used_time() = session.create_time();
  session.mutable_idle_timeout()->set_seconds(wanted.has_idle_timeout()
                                                  ? wanted.idle_timeout().seconds()
                                                  : absl::ToInt64Seconds(kDefaultIdleTimeout));
  if (target.adapter.has_value()) session.add_adapters(target.adapter->name());
  for (const std::string& version : target.Versions()) session.add_versions(version);
  const JobKey key = SessionKeyOf(session.name());
  PutSession(turn, session);
  turn.Put(Family::kRecords, SessionTimeKey(target.workspace, id, turn.now()), "");
  AuditCall(turn, call, session.name());
  GRAFT_RETURN_IF_ERROR(turn.Step(JobSubmitted{GangOf(key, target, turn.core().cluster())}));
  return session;
}

void InferenceService::CreateInferenceSession(CallPtr call,
                                              const v1::CreateInferenceSessionRequest& request,
                                              rpc::Responder<v1::InferenceSession> responder) {
  const v1::InferenceSession& wanted = request.inference_session();
  const absl::Duration idle = absl::Seconds(wanted.idle_timeout().seconds());
  if (wanted.has_idle_timeout() && (idle < absl::Seconds(1) || idle > kLongestIdleTimeout)) {
    return responder.Answer(rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                                              "idle_timeout is between 1 s and 24 h")
                                .Reason("FIELD_INVALID")
                                .Field("inference_session.idle_timeout", "between 1 s and 24 h")
                                .Build());
  }
  const absl::StatusOr<InferenceTarget> target = FindTarget(context_.store, wanted.model());
  if (!target.ok()) return responder.Answer(target.status());
  if (request.parent() != absl::StrCat("workspaces/", target->workspace)) {
    return responder.Answer(NoSuchResource(wanted.model()));
  }
  Mutate<v1::InferenceSession>(
      context_.control, std::move(responder),
      [this, call, request, target = *target](Turn& turn) -> absl::StatusOr<v1::InferenceSession> {
        v1::InferenceSession session;
        GRAFT_ASSIGN_OR_RETURN(const bool replayed,
                               Replay(turn, call->identity->subject, call->method,
                                      request.request_id(), request, session));
        if (replayed) return session;
        GRAFT_ASSIGN_OR_RETURN(session, Make(turn, *call, target, request.inference_session()));
        RememberRequest(turn, call->identity->subject, call->method, request.request_id(), request,
                        session);
        board_.Open(session.name(), absl::Seconds(session.idle_timeout().seconds()),
                    context_.clock.Now());
        return session;
      });
}

absl::StatusOr<v1::InferenceSession> InferenceService::GetInferenceSession(
    const rpc::Call&, const v1::GetInferenceSessionRequest& request) {
  GRAFT_RETURN_IF_ERROR(ParseName(request.name(), "workspaces/*/inferenceSessions/*").status());
  GRAFT_ASSIGN_OR_RETURN(v1::InferenceSession session, ReadSession(context_.store, request.name()));
  const absl::StatusOr<absl::Time> used = board_.Used(request.name());
  if (used.ok()) *session.mutable_last_used_time() = ToTimestamp(*used);
  return session;
}

absl::StatusOr<v1::ListInferenceSessionsResponse> InferenceService::ListInferenceSessions(
    const rpc::Call& call, const v1::ListInferenceSessionsRequest& request) {
  static const auto& fields =
      *new ListFields{.filter = {{"state"}, {"model"}, {"creator"}}, .order = {}};
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*", true));
  GRAFT_ASSIGN_OR_RETURN(
      auto page,
      ListLoaded<v1::InferenceSession>(
          context_.store, context_.page_tokens, QueryOf(call, request, "session.time/", ids),
          fields, [&](const Record& record) -> absl::StatusOr<MessagePtr> {
            const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
            if (call.identity->RoleIn(parts[1]) < rpc::Role::kViewer) return nullptr;
            absl::StatusOr<v1::InferenceSession> session =
                ReadSession(context_.store,
                            absl::StrCat("workspaces/", parts[1], "/inferenceSessions/", parts[3]));
            if (!session.ok()) return nullptr;
            return std::make_unique<v1::InferenceSession>(*std::move(session));
          }));
  v1::ListInferenceSessionsResponse response;
  for (v1::InferenceSession& session : page.resources) {
    *response.add_inference_sessions() = std::move(session);
  }
  response.set_next_page_token(page.next_page_token);
  return response;
}

void InferenceService::EndInferenceSession(CallPtr call,
                                           const v1::EndInferenceSessionRequest& request,
                                           rpc::Responder<v1::InferenceSession> responder) {
  Mutate<v1::InferenceSession>(
      context_.control, std::move(responder),
      [call, request](Turn& turn) -> absl::StatusOr<v1::InferenceSession> {
        GRAFT_RETURN_IF_ERROR(
            ParseName(request.name(), "workspaces/*/inferenceSessions/*").status());
        GRAFT_ASSIGN_OR_RETURN(v1::InferenceSession session, ReadSession(turn, request.name()));
        const JobKey key = SessionKeyOf(request.name());
        if (IsOver(turn.core().FindJob(key))) return session;
        session.set_reason(v1::REASON_CANCELLED_BY_USER);
        PutSession(turn, session);
        AuditCall(turn, *call, request.name());
        GRAFT_RETURN_IF_ERROR(turn.Step(JobCommanded{
            key, JobVerb::kCancel, absl::StrCat(call->identity->subject, " ended it")}));
        return session;
      });
}

// --- Looking after them ---

void InferenceService::Start(Watchers& watchers) {
  Notification found;
  context_.control.Inspect([this, &found](const Core& core) {
    for (const auto& [key, job] : core.jobs()) {
      if (job.request.kind != GangKind::kGenerate || IsTerminal(job.state)) continue;
      const std::string name = SessionNameOf(key);
      const absl::StatusOr<v1::InferenceSession> session = ReadSession(context_.store, name);
      if (!session.ok()) continue;
      board_.Open(name, absl::Seconds(session->idle_timeout().seconds()), context_.clock.Now());
    }
    found.Notify();
  });
  found.Wait();
  watchers.Add([this] {
    Look();
    return false;
  });
  Tick();
}

void InferenceService::Look() {
  for (const std::string& name : board_.open()) LookAt(name);
}

void InferenceService::LookAt(const std::string& name) {
  const absl::StatusOr<v1::InferenceSession> session = ReadSession(context_.store, name);
  if (!session.ok()) return board_.Close(name, session.status());
  if (session->state() == v1::InferenceSession::STATE_ENDED) {
    progress_.Remove(SessionKeyOf(name));
    return board_.Close(name, EndedStatus(*session));
  }
  if (board_.Waited(name)) TellPhase(name, *session);
}

void InferenceService::TellPhase(const std::string& name, const v1::InferenceSession& session) {
  const JobKey key = SessionKeyOf(name);
  if (session.state() == v1::InferenceSession::STATE_QUEUED) {
    context_.control.Inspect([this, name, key, now = context_.clock.Now()](const Core& core) {
      const Job* job = core.FindJob(key);
      if (job == nullptr || job->state != JobState::kQueued) return;
      const std::vector<WhyWaiting> reasons = core.Explain(*job, now).reasons;
      board_.TellWaiting(name, absl::StrCat("waits for a device: ",
                                            reasons.empty() ? job->reason : reasons[0].text));
    });
    return;
  }
  if (session.state() != v1::InferenceSession::STATE_LOADING) return;
  v1::JobStatus status;
  progress_.Overlay(key, status);
  const v1::JobProgress& progress = status.progress();
  board_.TellWaiting(name,
                     progress.phase() == "staging"
                         ? absl::StrCat("fetching the model to the worker: ",
                                        static_cast<int>(progress.phase_fraction() * 100), " %")
                         : "loading the model");
}

void InferenceService::Tick() {
  Look();
  for (const std::string& name : board_.Idle(context_.clock.Now())) {
    EndSession(name, v1::REASON_SESSION_IDLE, "nobody has asked it for its idle timeout");
  }
  for (const std::string& name : board_.open()) {
    const absl::StatusOr<v1::InferenceSession> session = ReadSession(context_.store, name);
    if (!session.ok()) continue;
    const absl::StatusOr<InferenceTarget> target = FindTarget(context_.store, session->model());
    if (!target.ok()) {
      EndSession(name, v1::REASON_STATE_CONFLICT, std::string(target.status().message()));
    } else if (!Holds(*session, *target)) {
      EndSession(name, v1::REASON_STATE_CONFLICT,
                 absl::StrCat(session->model(), " was linked to other files"));
    }
  }
  MakeRoom();
  context_.background.PostAt(context_.clock.Now() + kTick, [this] { Tick(); });
}

void InferenceService::MakeRoom() {
  const absl::Time now = context_.clock.Now();
  const std::string idle = board_.LongestIdle(now, kShortestRest);
  if (idle.empty()) return;
  context_.control.Inspect([this, idle, now](const Core& core) {
    const std::vector<const Job*> waiting = core.Waiting(now, kHeadOfQueue);
    const auto wants = std::find_if(waiting.begin(), waiting.end(), [&](const Job* job) {
      return WaitsForDevices(core.WaitCode(*job, now));
    });
    if (wants == waiting.end() || SessionNameOf((*wants)->request.key) == idle) return;
    EndSession(idle, v1::REASON_PREEMPTED, "it was idle and gave way to others that wait");
  });
}

void InferenceService::EndSession(const std::string& name, v1::Reason reason,
                                  const std::string& why) {
  context_.control.Submit({.work = [name, reason, why](Turn& turn) -> absl::Status {
    const JobKey key = SessionKeyOf(name);
    if (IsOver(turn.core().FindJob(key))) return absl::OkStatus();
    GRAFT_ASSIGN_OR_RETURN(v1::InferenceSession session, ReadSession(turn, name));
    session.set_reason(reason);
    PutSession(turn, session);
    return turn.Step(JobCommanded{key, JobVerb::kCancel, why});
  }});
}

}  // namespace graft::scheduler
