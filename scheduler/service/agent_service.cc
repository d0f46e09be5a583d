#include "scheduler/service/agent_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "base/json.h"
#include "graft/v1/model.pb.h"
#include "graft/v1/node.pb.h"
#include "rpc/status.h"
#include "scheduler/service/agent_convert.h"
#include "scheduler/service/auth_service.h"
#include "scheduler/service/events_stream.h"
#include "scheduler/service/inference_stream.h"
#include "scheduler/service/inference_target.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/job_spec.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/run_json.h"
#include "scheduler/service/session_records.h"
#include "scheduler/service/start_from.h"
#include "scheduler/service/validation_records.h"

namespace graft::scheduler {
namespace {

namespace agent = graft::agent::v1;
namespace v1 = graft::v1;

// The worker protocols that this build speaks: the newest, and the one before it once there is one.
constexpr int kProtocol = 1;
constexpr int kOldestProtocol = 1;
// Workers are given a fresh one long before it ends. An attempt's capabilities are made anew with
// every answer that tells of it, at least once in a third of the lease.
constexpr absl::Duration kWorkerTokenTtl = absl::Hours(24);
constexpr absl::Duration kRenewAfter = absl::Hours(6);
constexpr absl::Duration kCapabilityTtl = absl::Hours(24 * 7);

void SetDuration(absl::Duration from, google::protobuf::Duration* to) {
  to->set_seconds(absl::ToInt64Seconds(from));
}

absl::Status Stale(const absl::Status& status, int64_t epoch) {
  return rpc::ErrorBuilder(status.code(), status.message())
      .Reason("STALE_EPOCH")
      .Metadata("epoch", absl::StrCat(epoch))
      .Build();
}

// In the node's body, as it is told to clients.
void SetInventory(const agent::Inventory& inventory, v1::Node& body) {
  *body.mutable_devices() = inventory.devices();
  if (!body.has_topology()) *body.mutable_topology() = inventory.topology();
  body.set_memory_bytes(inventory.memory_bytes());
  body.set_cpu_cores(inventory.cpu_cores());
  body.set_disk_bytes(inventory.disk_bytes());
  body.set_fabric_address(inventory.fabric_address());
}

// The newest that both ends speak; 0: none.
int AgreedProtocol(const agent::RegisterRequest& request) {
  int agreed = 0;
  for (const int version : request.protocol_versions()) {
    if (version >= kOldestProtocol && version <= kProtocol) agreed = std::max(agreed, version);
  }
  return agreed;
}

}  // namespace

rpc::Service AgentService::Bind() {
  rpc::Service service("graft.agent.v1.AgentService");
  service.Async("Register", this, &AgentService::Register)
      .Async("Synchronize", this, &AgentService::Synchronize)
      .BidiReactor("PushEvents", this, &AgentService::PushEvents)
      .BidiReactor("ServeInference", this, &AgentService::ServeInference);
  return service;
}

void AgentService::Register(std::shared_ptr<rpc::Call> call, const agent::RegisterRequest& request,
                            rpc::Responder<agent::RegisterResponse> responder) {
  if (absl::Status status = CheckId(request.node_id(), "node_id"); !status.ok()) {
    return responder.Answer(status);
  }
  if (AgreedProtocol(request) == 0) {
    return responder.Answer(
        rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                          absl::StrCat("this scheduler speaks the worker protocol ", kProtocol))
            .Reason("PROTOCOL_UNSUPPORTED")
            .Metadata("supported", absl::StrCat(kProtocol))
            .Build());
  }
  Mutate<agent::RegisterResponse>(
      context_.control, std::move(responder),
      [this, call, request](Turn& turn) { return Admit(turn, request); });
}

// Answers the credential to keep: that which was sent, or a new one for a join token.
absl::StatusOr<std::string> AgentService::CheckCredential(Turn& turn,
                                                          const agent::RegisterRequest& request) {
  const std::string key = absl::StrCat("node.credential/", request.node_id());
  if (!request.node_credential().empty()) {
    const absl::StatusOr<Record> known = turn.Get(Family::kRecords, key);
    if (known.ok() && ConstantTimeEquals(known->value, Sha256::HexOf(request.node_credential()))) {
      return request.node_credential();
    }
  } else if (!request.join_token().empty()) {
    const std::string join = absl::StrCat("join.token/", Sha256::HexOf(request.join_token()));
    const absl::StatusOr<Record> token = turn.Get(Family::kRecords, join);
    // expiry in seconds, uses left, node (or empty)
    std::vector<std::string> parts;
    if (token.ok()) parts = absl::StrSplit(token->value, '\n');
    if (parts.size() == 3 && std::stoll(parts[0]) >= absl::ToUnixSeconds(turn.now()) &&
        std::stoi(parts[1]) > 0 && (parts[2].empty() || parts[2] == request.node_id())) {
      turn.Put(Family::kRecords, join,
               absl::StrCat(parts[0], "\n", std::stoi(parts[1]) - 1, "\n", parts[2]));
      const std::string credential = absl::WebSafeBase64Escape(context_.random.Bytes(32));
      turn.Put(Family::kRecords, key, Sha256::HexOf(credential));
      return credential;
    }
  }
  return rpc::ErrorBuilder(absl::StatusCode::kUnauthenticated,
                           absl::StrCat("node ", request.node_id(),
                                        " has no valid credential; make a "
                                        "join token with `graft node join-token`"))
      .Reason("JOIN_TOKEN_INVALID")
      .Metadata("node", request.node_id())
      .Build();
}

absl::StatusOr<agent::RegisterResponse> AgentService::Admit(Turn& turn,
                                                            const agent::RegisterRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const std::string credential, CheckCredential(turn, request));
  const std::string& id = request.node_id();
  const std::string key = absl::StrCat("node/", id);
  const std::string name = absl::StrCat("nodes/", id);
  v1::Node body;
  if (const auto known = ReadResource<v1::Node>(turn, key, name); known.ok()) body = *known;
  body.set_name(name);
  if (!body.has_create_time()) *body.mutable_create_time() = ToTimestamp(turn.now());
  *body.mutable_update_time() = ToTimestamp(turn.now());
  for (const auto& [label, value] : request.labels()) {
    (*body.mutable_labels())[absl::StrCat("graft.dev/", label)] = value;
  }
  const agent::Inventory& inventory = request.inventory();
  SetInventory(inventory, body);
  body.set_worker_version(request.version());

  Node node = ToNode(id, inventory);
  node.rack = body.topology().rack();
  node.spine = body.topology().spine();
  if (request.has_available_until()) {
    node.available_until = absl::FromUnixSeconds(request.available_until().seconds());
    *body.mutable_available_until() = request.available_until();
  }
  for (const auto& [label, value] : body.labels()) node.labels[label] = value;
  node.taints.assign(body.taints().begin(), body.taints().end());
  GRAFT_RETURN_IF_ERROR(turn.Step(NodeRegistered{std::move(node)}));
  const int64_t epoch = turn.core().FindNode(id)->epoch;
  body.set_epoch(epoch);
  body.set_state(v1::Node::STATE_READY);
  PutResource(turn, key, body);
  turn.Audit({.principal = name,
              .method = "Register",
              .resource = name,
              .text = absl::StrCat("epoch ", epoch)});

  agent::RegisterResponse response;
  response.set_node(name);
  response.set_epoch(epoch);
  response.set_protocol_version(AgreedProtocol(request));
  SetDuration(options_.lease, response.mutable_lease_ttl());
  SetDuration(options_.stop_after, response.mutable_stop_after());
  response.set_node_credential(credential);
  response.set_access_token(WorkerToken(id));
  response.set_fileservice_address(context_.fileservice_address);
  response.set_cluster(context_.cluster);
  return response;
}

std::string AgentService::RenewedToken(const std::string& node) {
  const absl::Time now = context_.clock.Now();
  {
    MutexLock lock(mu_);
    absl::Time& issued = token_issued_[node];
    if (now - issued < kRenewAfter) return "";
    issued = now;
  }
  return WorkerToken(node);
}

std::string AgentService::WorkerToken(const std::string& node) const {
  const absl::StatusOr<std::string> token =
      signer_.Sign({.issuer = std::string(kTokenIssuer),
                    .audience = "graft",
                    .kind = rpc::IdentityKind::kWorker,
                    .subject = absl::StrCat("nodes/", node),
                    .jti = context_.random.Id(),
                    .expires = context_.clock.Now() + kWorkerTokenTtl});
  return token.ok() ? *token : "";
}

std::string AgentService::CapabilityToken(const std::string& node,
                                          const rpc::Capability& capability) const {
  const absl::StatusOr<std::string> token =
      signer_.Sign({.issuer = std::string(kTokenIssuer),
                    .audience = "fileservice",
                    .kind = rpc::IdentityKind::kWorker,
                    .subject = absl::StrCat("nodes/", node),
                    .jti = context_.random.Id(),
                    .expires = context_.clock.WallNow() + kCapabilityTtl,
                    .capability = capability});
  return token.ok() ? *token : "";
}

namespace {

// The last word on how far an attempt came, for when the board has forgotten it.
struct FinalProgress {
  JobKey job;
  v1::JobProgress progress;
};

std::vector<FinalProgress> FinalProgressOf(const agent::SynchronizeRequest& request) {
  std::vector<FinalProgress> finals;
  for (const agent::ActualAttempt& actual : request.attempts()) {
    const bool over = actual.state() == agent::ActualAttempt::STATE_ENDED ||
                      actual.state() == agent::ActualAttempt::STATE_FAILED;
    const JobKey job = ParseAttemptName(actual.attempt()).first;
    if (over && !job.empty() && actual.has_progress() && Leads(actual)) {
      finals.push_back({job, actual.progress()});
    }
  }
  return finals;
}

void KeepProgress(Turn& turn, const FinalProgress& last) {
  const std::vector<std::string> ids = absl::StrSplit(last.job, '/');
  const std::string key = JobRecordKey(ids[0], ids[1]);
  absl::StatusOr<v1::Job> body = ReadResource<v1::Job>(turn, key, last.job);
  if (!body.ok() || body->status().progress().has_train_loss()) return;
  v1::JobProgress progress = last.progress;
  progress.set_steps_done(std::max(progress.steps_done(), body->status().progress().steps_done()));
  progress.clear_eta();
  *body->mutable_status()->mutable_progress() = progress;
  PutResource(turn, key, *body);
}

// What the ranks of an attempt found odd.
struct Oddities {
  JobKey job;
  std::vector<v1::Warning> warnings;
};

std::vector<Oddities> OdditiesOf(const agent::SynchronizeRequest& request) {
  std::vector<Oddities> all;
  for (const agent::ActualAttempt& actual : request.attempts()) {
    const JobKey job = ParseAttemptName(actual.attempt()).first;
    if (job.empty() || actual.warnings().empty()) continue;
    all.push_back({job, {actual.warnings().begin(), actual.warnings().end()}});
  }
  return all;
}

// Into the job's warnings: one of each code, with the newest words.
void KeepOddities(Turn& turn, const Oddities& odd) {
  const std::vector<std::string> ids = absl::StrSplit(odd.job, '/');
  const std::string key = JobRecordKey(ids[0], ids[1]);
  absl::StatusOr<v1::Job> body = ReadResource<v1::Job>(turn, key, odd.job);
  if (!body.ok()) return;  // a session
  bool changed = false;
  for (const v1::Warning& warning : odd.warnings) {
    auto& known = *body->mutable_warnings();
    auto same = std::find_if(known.begin(), known.end(),
                             [&](const v1::Warning& one) { return one.code() == warning.code(); });
    if (same == known.end()) {
      *known.Add() = warning;
    } else if (same->message() != warning.message()) {
      same->set_message(warning.message());
    } else {
      continue;
    }
    changed = true;
  }
  if (changed) PutResource(turn, key, *body);
}

std::optional<agent::Inventory> InventoryOf(const agent::SynchronizeRequest& request) {
  if (!request.has_inventory()) return std::nullopt;
  return request.inventory();
}

// What the node has changed while its worker ran: a device that broke, came back or is new.
absl::Status KeepInventory(Turn& turn, const std::string& node, int64_t epoch,
                           const agent::Inventory& inventory) {
  const std::string key = absl::StrCat("node/", node);
  absl::StatusOr<v1::Node> body = ReadResource<v1::Node>(turn, key, node);
  if (body.ok()) {
    const std::string before = DeterministicBytes(*body);
    SetInventory(inventory, *body);
    if (DeterministicBytes(*body) == before) return absl::OkStatus();
    *body->mutable_update_time() = ToTimestamp(turn.now());
    PutResource(turn, key, *body);
  }
  return turn.Step(NodeInventoried{node, epoch, ToNode(node, inventory).devices});
}

}  // namespace

void AgentService::Synchronize(std::shared_ptr<rpc::Call> call,
                               const agent::SynchronizeRequest& request,
                               rpc::Responder<Response> responder) {
  if (call->identity->subject != request.node()) {
    return responder.Answer(absl::PermissionDeniedError(
        absl::StrCat(call->identity->subject, " must not speak for ", request.node())));
  }
  const std::string node = request.node().substr(std::string("nodes/").size());
  use_.Put(node, request, context_.clock.Now());
  for (const agent::ActualAttempt& actual : request.attempts()) {
    const auto [job, attempt] = ParseAttemptName(actual.attempt());
    if (!job.empty() && actual.has_progress()) {
      progress_.Put(job, attempt, Leads(actual), actual.progress());
    }
  }
  struct State {
    State(std::shared_ptr<rpc::Call> c, rpc::Responder<Response> r)
        : call(std::move(c)), responder(std::move(r)) {}
    const std::shared_ptr<rpc::Call> call;
    rpc::Responder<Response> responder;
  };
  auto state = std::make_shared<State>(std::move(call), std::move(responder));
  const NodeSynced synced = ToSynced(node, request);
  context_.control.Submit(
      {.work =
           [synced, finals = FinalProgressOf(request), touched = MarkUsed(request),
            findings = FindingsOf(request), oddities = OdditiesOf(request),
            news = InventoryOf(request)](Turn& turn) {
             for (const JobFindings& found : findings) KeepFindings(turn, found);
             const absl::Status status = turn.Step(synced);
             if (!status.ok()) return status;
             if (news.has_value()) {
               GRAFT_RETURN_IF_ERROR(KeepInventory(turn, synced.node, synced.epoch, *news));
             }
             for (const AttemptTouched& event : touched) {
               if (absl::Status s = turn.Step(event); !s.ok()) return s;
             }
             for (const JobFindings& found : findings) AmendRunTime(turn, found);
             for (const FinalProgress& last : finals) KeepProgress(turn, last);
             for (const Oddities& odd : oddities) KeepOddities(turn, odd);
             return status;
           },
       .done =
           [this, state, synced](absl::Status status, int64_t) {
             if (!status.ok()) return state->responder.Answer(Stale(status, synced.epoch));
             context_.control.Inspect([this, state, synced](const Core& core) {
               AnswerOrHold(*state->call, synced, std::move(state->responder), core);
             });
           }});
}

void AgentService::AnswerOrHold(rpc::Call& call, const NodeSynced& synced,
                                rpc::Responder<Response> responder, const Core& core) {
  const std::string& node = synced.node;
  const NodeState* state = core.FindNode(node);
  // A worker that leaves waits for the word that nothing of it is wanted any more.
  const bool may_go = synced.leaving && state != nullptr && state->jobs.empty();
  if (state == nullptr || state->desired_revision != synced.desired_revision || may_go) {
    return responder.Answer(BuildResponse(node, core));
  }
  auto held = std::make_unique<Held>(std::move(responder));
  std::unique_ptr<Held> older;
  uint64_t id = 0;
  {
    MutexLock lock(mu_);
    id = held->id = next_held_++;
    older = std::exchange(held_[node], std::move(held));
  }
  if (older != nullptr) older->responder.Answer(absl::CancelledError("a newer call has come"));
  call.OnShutdown([this, node, id](const absl::Status& status) {
    if (auto ended = TakeHeld(node, id)) ended->responder.Answer(status);
  });
  context_.background.PostAt(context_.clock.Now() + options_.lease / 3, [this, node, id] {
    context_.control.Inspect([this, node, id](const Core& now) {
      if (auto waited = TakeHeld(node, id)) waited->responder.Answer(BuildResponse(node, now));
    });
  });
}

void AgentService::OnDesiredChanged(const std::string& node) {
  context_.control.Inspect([this, node](const Core& core) {
    if (auto held = TakeHeld(node, 0)) held->responder.Answer(BuildResponse(node, core));
  });
}

std::unique_ptr<AgentService::Held> AgentService::TakeHeld(const std::string& node, uint64_t id) {
  MutexLock lock(mu_);
  const auto it = held_.find(node);
  if (it == held_.end() || (id != 0 && it->second->id != id)) return nullptr;
  std::unique_ptr<Held> held = std::move(it->second);
  held_.erase(it);
  return held;
}

AgentService::Response AgentService::BuildResponse(const std::string& node, const Core& core) {
  Response response;
  const NodeState* state = core.FindNode(node);
  if (state == nullptr) return response;
  response.set_revision(state->desired_revision);
  response.set_draining(state->draining);
  if (std::string fresh = RenewedToken(node); !fresh.empty()) {
    response.set_access_token(std::move(fresh));
  }
  SetDuration(options_.lease / 3, response.mutable_max_wait());
  SetDuration(options_.lease / 3, response.mutable_next_call());
  for (const DesiredPart& part : core.Desired(node)) {
    FillAttempt(part, core, *response.add_attempts());
  }
  return response;
}

void AgentService::FillAttempt(const DesiredPart& part, const Core& core,
                               agent::DesiredAttempt& out) {
  const Job& job = *core.FindJob(part.job);
  out.set_attempt(AttemptName(part.job, part.attempt));
  out.set_attempt_epoch(part.epoch);
  const bool session = part.kind == GangKind::kGenerate;
  out.set_kind(part.validation ? agent::DesiredAttempt::KIND_VALIDATE
               : session       ? agent::DesiredAttempt::KIND_GENERATE
                               : agent::DesiredAttempt::KIND_TRAIN);
  out.set_goal(part.mode == AttemptMode::kRun    ? agent::DesiredAttempt::GOAL_RUN
               : part.mode == AttemptMode::kStop ? agent::DesiredAttempt::GOAL_STOP
                                                 : agent::DesiredAttempt::GOAL_CHECKPOINT_AND_STOP);
  if (part.finish && part.mode == AttemptMode::kRun) {
    out.set_goal(agent::DesiredAttempt::GOAL_FINISH);
    out.set_use_best(part.finish_with_best);
  }
  out.set_checkpoint_request(part.checkpoint_request);
  out.set_rendezvous_address(part.rendezvous);
  out.set_attempt_secret(HmacSha256(options_.attempt_secret, out.attempt()));
  for (const auto& [rank, device] : part.ranks) {
    agent::LocalRank& local = *out.add_local_ranks();
    local.set_rank(rank);
    local.set_device_index(device);
  }
  for (size_t rank = 0; rank < job.attempt.ranks.size(); ++rank) {
    const DeviceRef& ref = job.attempt.ranks[rank];
    agent::RankAddress& address = *out.add_rank_table();
    address.set_rank(static_cast<int32_t>(rank));
    address.set_node(absl::StrCat("nodes/", ref.node));
    address.set_device_index(ref.device);
    const auto peer = ReadResource<v1::Node>(context_.store, absl::StrCat("node/", ref.node), "");
    if (peer.ok()) address.set_fabric_address(peer->fabric_address());
  }
  rpc::Capability reads{.attempt = out.attempt(), .epoch = part.epoch};
  const std::string node = job.attempt.parts.begin()->first;
  if (session) {
    FillSession(out.attempt(), reads, out);
    out.set_read_token(CapabilityToken(node, reads));
    return;
  }
  const std::vector<std::string> ids = absl::StrSplit(part.job, '/');
  const auto body = ReadResource<v1::Job>(context_.store, JobRecordKey(ids[0], ids[1]), part.job);
  if (!body.ok()) return;
  out.set_run_json(RunJson(body->resolved_spec(),
                           part.validation ? LayoutOf(body->resolved_spec()) : job.attempt.layout));
  out.set_traceparent(body->traceparent());
  const v1::JobSpec& spec = body->resolved_spec();
  const std::vector<std::string> base = absl::StrSplit(spec.model().base(), '/');
  const auto model = ReadResource<v1::Model>(context_.store, ModelRecordKey(base[1], base[3]), "");
  const v1::StartFrom& start = spec.model().start_from();
  if (model.ok()) {
    const std::string& files = StartsFromModel(start) ? start.fileset_version() : model->fileset();
    AddInput(files, agent::Input::ROLE_MODEL, "model", reads, out)
        .set_size_bytes(model->spec().weight_bytes());
  }
  const auto rows = [&](const auto& sources, absl::string_view key) {
    for (int i = 0; i < sources.size(); ++i) {
      *AddInput(sources[i].fileset(), agent::Input::ROLE_DATASET, absl::StrCat(key, i), reads, out)
           .mutable_paths() = sources[i].paths();
    }
  };
  rows(spec.dataset().training(), "training");
  rows(spec.dataset().validation(), "validation");
  if (!part.resume_from.version.empty() && !part.validation) {
    AddInput(part.resume_from.version, agent::Input::ROLE_CHECKPOINT, "checkpoint", reads, out);
  } else if (TakesWeights(start) && !part.validation) {
    const auto role =
        start.has_adapter() ? agent::Input::ROLE_ADAPTER : agent::Input::ROLE_CHECKPOINT;
    AddInput(start.fileset_version(), role, "start", reads, out);
  }
  out.set_read_token(CapabilityToken(node, reads));
  if (!part.validation) FillGrants(part, job, *body, out);
}

agent::Input& AgentService::AddInput(const std::string& version, agent::Input::Role role,
                                     std::string key, rpc::Capability& reads,
                                     agent::DesiredAttempt& out) const {
  agent::Input& input = *out.add_inputs();
  input.set_version(version);
  input.set_role(role);
  input.set_key(std::move(key));
  reads.read_versions.push_back(version);
  const absl::StatusOr<Record> digest =
      context_.store.Get(Family::kRecords, absl::StrCat("version.digest/", version));
  if (digest.ok()) input.set_digest(digest->value);
  return input;
}

void AgentService::FillSession(const std::string& session, rpc::Capability& reads,
                               agent::DesiredAttempt& out) const {
  const absl::StatusOr<v1::InferenceSession> body = ReadSession(context_.store, session);
  if (!body.ok()) return;
  constexpr std::pair<agent::Input::Role, const char*> kInputs[] = {
      {agent::Input::ROLE_MODEL, "model"}, {agent::Input::ROLE_ADAPTER, "adapter"}};
  for (int i = 0; i < body->versions_size() && i < 2; ++i) {
    AddInput(body->versions(i), kInputs[i].first, kInputs[i].second, reads, out);
  }
  const absl::StatusOr<InferenceTarget> target = FindTarget(context_.store, body->model());
  Json run = Json::MakeObject();
  run.Set("version", 1).Set("model", "${inputs.model}");
  if (body->versions_size() > 1) run.Set("adapter", "${inputs.adapter}");
  if (target.ok()) {
    run.Set("chat_template", target->model.chat_template());
    if (out.inputs_size() > 0) {
      out.mutable_inputs(0)->set_size_bytes(target->model.spec().weight_bytes());
    }
  }
  out.set_run_json(run.Dump());
}

grpc::ServerBidiReactor<agent::PushEventsRequest, agent::PushEventsResponse>*
AgentService::PushEvents(std::shared_ptr<rpc::Call> call) {
  return NewEventsStream(std::move(call), context_.store);
}

grpc::ServerBidiReactor<agent::ServeInferenceRequest, agent::ServeInferenceResponse>*
AgentService::ServeInference(std::shared_ptr<rpc::Call> call) {
  return NewInferenceStream(std::move(call), context_.control, context_.clock, sessions_);
}

}  // namespace graft::scheduler
