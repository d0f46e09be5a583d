#include "scheduler/service/scheduler_server.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/seal.h"
#include "base/status_macros.h"
#include "scheduler/service/access_service.h"
#include "scheduler/service/agent_service.h"
#include "scheduler/service/auth_service.h"
#include "scheduler/service/engine.h"
#include "scheduler/service/event_service.h"
#include "scheduler/service/idle_watch.h"
#include "scheduler/service/inference_service.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/job_service.h"
#include "scheduler/service/metered_store.h"
#include "scheduler/service/model_service.h"
#include "scheduler/service/node_service.h"
#include "scheduler/service/pins.h"
#include "scheduler/service/queue_service.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/secret_service.h"
#include "scheduler/service/server_service.h"
#include "scheduler/service/session_records.h"
#include "scheduler/service/template_service.h"
#include "scheduler/service/upkeep.h"
#include "scheduler/service/usage_service.h"
#include "scheduler/service/workspace_service.h"

namespace graft::scheduler {
namespace {

// Sends what commits have made true to those who wait for it. The services are set when they are
// there, before the first call can come.
class Outputs final : public EngineOutput {
 public:
  void OnCommitted(int64_t) override {
    if (watchers != nullptr) watchers->OnCommitted();
    if (places != nullptr) places->OnCommitted();
    if (metrics != nullptr) metrics->CountDecisions(std::exchange(decisions, 0));
    if (jobs != nullptr && std::exchange(doomed, false)) {
      (void)background->Post([this] { jobs->EraseDoomed(); });
    }
  }
  void OnDesiredChanged(const std::string& node) override {
    if (agents != nullptr) agents->OnDesiredChanged(node);
  }
  void OnJobWritten(Turn& turn, const Job& job) override {
    if (job.request.kind == GangKind::kGenerate) return WriteSessionStatus(turn, job);
    decisions += WriteJobStatus(turn, job) ? 1 : 0;
    doomed |= IsTerminal(job.state) && Exists(turn, DoomedJobKey(job.request.key));
  }
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
                       call.result   ? absl::StrCat("output of ", job)
                       : call.report ? absl::StrCat("report of ", job)
                                     : absl::StrCat("checkpoint of ", job, " at step ", call.step));
    control->Submit({.work = [call, version](Turn& turn) {
      if (version.ok()) {
        turn.Put(Family::kRecords, absl::StrCat("version.digest/", version->name), version->digest);
      }
      return turn.Step(CallAnswered{call.id, version.status(), version.ok() ? version->name : ""});
    }});
  }

  PlaceBoard* places = nullptr;
  Watchers* watchers = nullptr;
  AgentService* agents = nullptr;
  JobService* jobs = nullptr;
  SchedulerMetrics* metrics = nullptr;
  int decisions = 0;    // of the turn
  bool doomed = false;  // a job that is to be deleted has come to its end
  Background* background = nullptr;
  FileserviceLink* files = nullptr;
  Control* control = nullptr;
  std::vector<PublishCall> early;  // asked for while the engine was being opened
};

}  // namespace

struct SchedulerServer::State {
  SchedulerMetrics metrics;
  std::unique_ptr<MeteredStore> store;
  Outputs outputs;
  std::unique_ptr<Background> background;
  std::unique_ptr<Watchers> watchers;
  std::unique_ptr<Control> control;
  std::unique_ptr<rpc::PageTokenCodec> page_tokens;
  std::unique_ptr<const ServiceContext> context;
  ProgressBoard progress;
  std::unique_ptr<PlaceBoard> places;
  NodeUseBoard use;
  IdleWatch idle{progress, use};
  SessionBoard sessions;
  std::unique_ptr<SchedulerAuthenticator> authenticator;
  std::unique_ptr<AuthService> auth;
  std::unique_ptr<AccessService> access;
  std::unique_ptr<NodeService> nodes;
  std::unique_ptr<QueueService> queues;
  std::unique_ptr<WorkspaceService> workspaces;
  std::unique_ptr<ServerService> info;
  std::unique_ptr<ModelService> models;
  std::unique_ptr<JobService> jobs;
  std::unique_ptr<AgentService> agents;
  std::unique_ptr<SecretService> secrets;
  std::unique_ptr<TemplateService> templates;
  std::unique_ptr<EventService> events;
  std::unique_ptr<UsageService> usage;
  std::unique_ptr<Upkeep> upkeep;
  std::unique_ptr<InferenceService> inference;
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
  if (options.data_key.size() != kSealKeyBytes) {
    return absl::InvalidArgumentError("the data key has 32 bytes");
  }
  auto state = std::make_unique<State>();
  State& s = *state;
  s.store = std::make_unique<MeteredStore>(store, clock, s.metrics);
  GRAFT_ASSIGN_OR_RETURN(s.control, Control::Start(*s.store, clock, s.outputs,
                                                   {.lease = options.lease,
                                                    .keep_room_after = options.keep_room_after}));
  s.background = std::make_unique<Background>(clock, options.background_threads);
  s.watchers = std::make_unique<Watchers>(*s.background, store);

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
                           first.token = AccessService::Bootstrap(turn, random);
                           WorkspaceService::Bootstrap(turn);
                           return QueueService::Bootstrap(turn);
                         },
                     .done =
                         [&](absl::Status status, int64_t) {
                           first.status = status;
                           first.done.Notify();
                         }});
  first.done.Wait();
  GRAFT_RETURN_IF_ERROR(first.status);
  s.first_token = first.token;

  s.page_tokens =
      std::make_unique<rpc::PageTokenCodec>(HmacSha256(options.data_key, "page tokens"));
  s.context = std::make_unique<const ServiceContext>(
      ServiceContext{*s.control, store, clock, random, files, *s.background, first.cluster,
                     options.fileservice_address, *s.page_tokens, *s.watchers, options.data_key,
                     options.rows_first, options.fake_trainer});
  const ServiceContext& context = *s.context;
  s.places = std::make_unique<PlaceBoard>(*s.control, *s.background, clock);
  s.authenticator = std::make_unique<SchedulerAuthenticator>(
      clock, signer, store,
      SchedulerAuthenticator::Options{.open = options.no_auth,
                                      .access_changes = &s.store->access_changes()});
  s.auth = std::make_unique<AuthService>(context, signer);
  s.access = std::make_unique<AccessService>(context);
  s.nodes = std::make_unique<NodeService>(context, s.use);
  s.queues = std::make_unique<QueueService>(context, *s.places);
  s.workspaces = std::make_unique<WorkspaceService>(context);
  s.info = std::make_unique<ServerService>(
      context,
      ServerService::Bounds{options.server.calls_per_second, options.server.concurrent_streams});
  s.models = std::make_unique<ModelService>(context);
  s.jobs = std::make_unique<JobService>(context, s.progress, *s.places);
  s.agents = std::make_unique<AgentService>(
      context, signer, s.progress, s.use, s.sessions,
      AgentService::Options{.lease = options.lease,
                            .stop_after = options.lease * 4 / 5,
                            .attempt_secret = options.attempt_secret});
  s.secrets = std::make_unique<SecretService>(context);
  s.templates = std::make_unique<TemplateService>(context);
  s.events = std::make_unique<EventService>(context);
  s.usage = std::make_unique<UsageService>(context);
  Upkeep::Options upkeep;
  upkeep.also = [&s] {
    s.jobs->EraseDoomed();
    s.workspaces->AdvanceDeletions();
    ReconcilePins(*s.context);
  };
  upkeep.also_often = [&s] {
    LookForIdleJobs(*s.context, s.idle);
    s.control->Inspect([&s](const Core& core) {
      s.metrics.Show(SampleOf(core), s.watchers->lag(), s.idle.idle());
    });
  };
  s.upkeep = std::make_unique<Upkeep>(context, std::move(upkeep));
  s.inference = std::make_unique<InferenceService>(context, s.sessions, s.progress);
  // On the loop, which reads them.
  Notification wired;
  s.control->Inspect([&](const Core&) {
    s.outputs.files = &files;
    s.outputs.places = s.places.get();
    s.outputs.control = s.control.get();
    s.outputs.background = s.background.get();
    s.outputs.agents = s.agents.get();
    s.outputs.jobs = s.jobs.get();
    s.outputs.metrics = &s.metrics;
    s.outputs.watchers = s.watchers.get();
    for (const PublishCall& call : std::exchange(s.outputs.early, {})) s.outputs.OnPublish(call);
    s.places->OnCommitted();
    wired.Notify();
  });
  wired.Wait();
  s.inference->Start(*s.watchers);

  std::vector<rpc::Service> services;
  services.push_back(s.auth->Bind());
  services.push_back(s.access->Bind());
  services.push_back(s.nodes->Bind());
  services.push_back(s.queues->Bind());
  services.push_back(s.workspaces->Bind());
  services.push_back(s.info->Bind());
  services.push_back(s.models->Bind());
  services.push_back(s.jobs->Bind());
  services.push_back(s.agents->Bind());
  services.push_back(s.inference->Bind());
  services.push_back(s.secrets->Bind());
  services.push_back(s.templates->Bind());
  services.push_back(s.events->Bind());
  services.push_back(s.usage->Bind());
  // Of the contract, but not of this build: their methods answer UNIMPLEMENTED by name.
  for (const AbsentService& absent : kAbsentServices) services.emplace_back(absent.service);
  options.server.authenticator = s.authenticator.get();
  options.server.health = [control = s.control.get()] { return control->Health(); };
  GRAFT_ASSIGN_OR_RETURN(s.server,
                         rpc::Server::Start(std::move(options.server), std::move(services)));
  s.metrics.Register(s.server->registry());
  s.upkeep->Start();
  return std::unique_ptr<SchedulerServer>(new SchedulerServer(std::move(state)));
}

void SchedulerServer::Shutdown(absl::Duration grace) {
  if (state_->server != nullptr) state_->server->Shutdown(grace);
  // Nothing new comes in; what the loop and the background still do refers to the services.
  state_->background->Stop();
  state_->control->Stop();
}

}  // namespace graft::scheduler
