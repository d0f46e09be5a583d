#include "scheduler/service/scheduler_server.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "scheduler/service/agent_service.h"
#include "scheduler/service/auth_service.h"
#include "scheduler/service/cluster_service.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/job_service.h"
#include "scheduler/service/model_service.h"

namespace graft::scheduler {
namespace {

// Sends what commits have made true to those who wait for it. The services are set when they are
// there, before the first call can come.
class Outputs final : public EngineOutput {
 public:
  void OnCommitted(int64_t) override {
    if (watchers != nullptr) watchers->OnCommitted();
  }
  void OnDesiredChanged(const std::string& node) override {
    if (agents != nullptr) agents->OnDesiredChanged(node);
  }
  void OnJobWritten(Turn& turn, const Job& job) override { WriteJobStatus(turn, job); }
  void OnPublish(const PublishCall& call) override {
    if (background == nullptr) {
      early.push_back(call);
      return;
    }
    (void)background->Post([this, call] { Publish(call); });
  }

  void Publish(const PublishCall& call) {
    const std::string job = JobNameOf(call.job);
    const absl::StatusOr<FilesetVersion> version =
        files->Publish(call.session, job,
                       call.result ? absl::StrCat("output of ", job)
                                   : absl::StrCat("checkpoint of ", job, " at step ", call.step));
    control->Submit({.work = [call, version](Turn& turn) {
      if (version.ok()) {
        turn.Put(Family::kRecords, absl::StrCat("version.digest/", version->name), version->digest);
      }
      return turn.Step(CallAnswered{call.id, version.status(), version.ok() ? version->name : ""});
    }});
  }

  Watchers* watchers = nullptr;
  AgentService* agents = nullptr;
  Background* background = nullptr;
  FileserviceLink* files = nullptr;
  Control* control = nullptr;
  std::vector<PublishCall> early;  // asked for while the engine was being opened
};

}  // namespace

struct SchedulerServer::State {
  Outputs outputs;
  std::unique_ptr<Background> background;
  std::unique_ptr<Watchers> watchers;
  std::unique_ptr<Control> control;
  ProgressBoard progress;
  std::unique_ptr<SchedulerAuthenticator> authenticator;
  std::unique_ptr<AuthService> auth;
  std::unique_ptr<ClusterService> cluster;
  std::unique_ptr<ModelService> models;
  std::unique_ptr<JobService> jobs;
  std::unique_ptr<AgentService> agents;
  std::string first_token;
  std::unique_ptr<rpc::Server> server;
};

SchedulerServer::SchedulerServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
SchedulerServer::~SchedulerServer() { Shutdown(absl::ZeroDuration()); }
int SchedulerServer::port() const { return state_->server->port(); }
int SchedulerServer::metrics_port() const { return state_->server->metrics_port(); }
const std::string& SchedulerServer::first_token() const { return state_->first_token; }

absl::StatusOr<std::unique_ptr<SchedulerServer>> SchedulerServer::Start(
    SchedulerOptions options, Store& store, Clock& clock, Random& random, FileserviceLink& files,
    const rpc::TokenSigner& signer) {
  auto state = std::make_unique<State>();
  State& s = *state;
  GRAFT_ASSIGN_OR_RETURN(s.control,
                         Control::Start(store, clock, s.outputs, {.lease = options.lease}));
  s.background = std::make_unique<Background>(clock, options.background_threads);
  s.watchers = std::make_unique<Watchers>(*s.background);

  // What is always there, and the cluster's id, in the first turn.
  struct First {
    Notification done;
    absl::Status status;
    std::string cluster;
    std::string token;
  } first;
  s.control->Submit({.work =
                         [&](Turn& turn) {
                           const auto known = turn.Get(Family::kRecords, "meta/cluster");
                           first.cluster = known.ok() ? known->value : random.Id(16);
                           turn.Put(Family::kRecords, "meta/cluster", first.cluster);
                           first.token = AuthService::Bootstrap(turn, random);
                           return ClusterService::Bootstrap(turn);
                         },
                     .done =
                         [&](absl::Status status, int64_t) {
                           first.status = status;
                           first.done.Notify();
                         }});
  first.done.Wait();
  GRAFT_RETURN_IF_ERROR(first.status);
  s.first_token = first.token;

  const ServiceContext context{
      *s.control, store,         clock,         random,
      files,      *s.background, first.cluster, options.fileservice_address};
  s.authenticator = std::make_unique<SchedulerAuthenticator>(clock, signer, options.no_auth);
  s.auth = std::make_unique<AuthService>(context, signer);
  s.cluster = std::make_unique<ClusterService>(context);
  s.models = std::make_unique<ModelService>(context);
  s.jobs = std::make_unique<JobService>(context, s.progress, *s.watchers);
  s.agents = std::make_unique<AgentService>(
      context, signer, s.progress,
      AgentService::Options{.lease = options.lease,
                            .stop_after = options.lease * 4 / 5,
                            .attempt_secret = options.attempt_secret});
  // On the loop, which reads them.
  Notification wired;
  s.control->Inspect([&](const Core&) {
    s.outputs.files = &files;
    s.outputs.control = s.control.get();
    s.outputs.background = s.background.get();
    s.outputs.agents = s.agents.get();
    s.outputs.watchers = s.watchers.get();
    for (const PublishCall& call : std::exchange(s.outputs.early, {})) s.outputs.OnPublish(call);
    wired.Notify();
  });
  wired.Wait();

  std::vector<rpc::Service> services;
  for (rpc::Service& service : s.auth->Bind()) services.push_back(std::move(service));
  for (rpc::Service& service : s.cluster->Bind()) services.push_back(std::move(service));
  services.push_back(s.models->Bind());
  services.push_back(s.jobs->Bind());
  services.push_back(s.agents->Bind());
  // Of the contract, but not of this build: its methods answer UNIMPLEMENTED by name.
  services.emplace_back("graft.v1.InferenceService");
  options.server.authenticator = s.authenticator.get();
  options.server.health = [control = s.control.get()] { return control->Health(); };
  options.server.on_drain = [agents = s.agents.get()] { agents->AnswerAll(); };
  GRAFT_ASSIGN_OR_RETURN(s.server,
                         rpc::Server::Start(std::move(options.server), std::move(services)));
  return std::unique_ptr<SchedulerServer>(new SchedulerServer(std::move(state)));
}

void SchedulerServer::Shutdown(absl::Duration grace) {
  if (state_->server != nullptr) state_->server->Shutdown(grace);
  // Nothing new comes in; what the loop and the background still do refers to the services.
  state_->background->Stop();
  state_->control->Stop();
}

}  // namespace graft::scheduler
