#include "scheduler/service/queue_service.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "graft/v1/job.pb.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/references.h"
#include "scheduler/service/standard.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr absl::Duration kMinRunTime = absl::Minutes(10);  // of a queue that says nothing

// What the core decides with.
absl::Status StepQueue(Turn& turn, const v1::Queue& queue) {
  Queue put{.name = queue.name().substr(std::string("queues/").size()),
            .priority = queue.priority(),
            .preempts = !queue.has_preempts() || queue.preempts(),
            .mode = queue.state() == v1::Queue::STATE_UNSPECIFIED
                        ? QueueMode::kOpen
                        : static_cast<QueueMode>(queue.state()),
            .backfill = !queue.has_backfill() || queue.backfill(),
            .fair = queue.order() != v1::Queue::ORDER_FIFO,
            .min_run_time = queue.has_min_run_time() ? absl::Seconds(queue.min_run_time().seconds())
                                                     : kMinRunTime,
            .half_life = absl::Seconds(queue.half_life().seconds())};
  for (const v1::Share& share : queue.shares()) {
    put.shares.push_back({.workspace = share.workspace().substr(std::string("workspaces/").size()),
                          .quota = share.has_quota() ? share.quota() : -1,
                          .borrow = share.has_borrow_limit() ? share.borrow_limit() : -1,
                          .weight = share.has_weight() ? share.weight() : 1});
  }
  return turn.Step(QueuePut{std::move(put)});
}

absl::Status CheckQueue(Turn& turn, const v1::Queue& queue) {
  const v1::IdlePolicy& idle = queue.idle_policy();
  if (!(idle.min_utilisation() >= 0 && idle.min_utilisation() <= 1)) {
    return InvalidField("queue.idle_policy.min_utilisation", "is a share, from 0 to 1");
  }
  if (queue.half_life().seconds() < 0) return InvalidField("queue.half_life", "is below 0");
  if (idle.after().seconds() < 0) return InvalidField("queue.idle_policy.after", "is below 0");
  for (const v1::Share& share : queue.shares()) {
    GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(share.workspace(), "workspaces/*"));
    if (!Exists(turn, absl::StrCat("workspace/", ids[0]))) return NoSuchResource(share.workspace());
  }
  return absl::OkStatus();
}

std::string QueueKey(const std::string& id) { return absl::StrCat("queue/", id); }

// Whether the queue takes jobs of a workspace in which the caller has a role.
bool Admits(const v1::Queue& queue, const rpc::Identity& who) {
  if (queue.shares().empty() || who.RoleInCluster() >= rpc::Role::kViewer) return true;
  return std::any_of(queue.shares().begin(), queue.shares().end(), [&](const v1::Share& share) {
    return who.RoleIn(share.workspace().substr(share.workspace().find('/') + 1)) >=
           rpc::Role::kViewer;
  });
}

// What waits in the queues and what runs, in one walk over the jobs.
void ShowStatus(const Core& core, const rpc::Identity& who, const std::vector<v1::Queue*>& queues) {
  absl::flat_hash_map<std::string, v1::QueueStatus*> status;
  for (v1::Queue* queue : queues) {
    status[queue->name().substr(std::string("queues/").size())] = queue->mutable_status();
  }
  for (const auto& [key, job] : core.jobs()) {
    const auto found = status.find(job.request.queue);
    if (found == status.end()) continue;
    v1::QueueStatus& out = *found->second;
    if (job.attempt.live()) {
      const auto devices = static_cast<int64_t>(job.attempt.ranks.size());
      out.set_running_jobs(out.running_jobs() + 1);
      out.set_devices_used(out.devices_used() + devices);
      const bool seen = who.RoleIn(job.request.workspace) >= rpc::Role::kViewer;
      (*out.mutable_devices_by_workspace())[seen ? job.request.workspace : "-"] += devices;
    } else if (job.state == JobState::kQueued) {
      out.set_queued_jobs(out.queued_jobs() + 1);
      out.set_devices_wanted(out.devices_wanted() + job.request.gang.layout.world());
    }
  }
}

}  // namespace

absl::Status QueueService::Bootstrap(Turn& turn) {
  // A person waits for an interactive session: it goes first, but stops nothing that runs.
  for (const auto& [id, priority] : {std::pair("default", 0), std::pair("interactive", 100)}) {
    const std::string key = absl::StrCat("queue/", id);
    if (Exists(turn, key)) continue;
    v1::Queue queue;
    queue.set_name(absl::StrCat("queues/", id));
    queue.set_state(v1::Queue::STATE_OPEN);
    queue.set_priority(priority);
    queue.set_preempts(priority == 0);
    *queue.mutable_create_time() = ToTimestamp(turn.now());
    PutResource(turn, key, queue);
    GRAFT_RETURN_IF_ERROR(StepQueue(turn, queue));
  }
  return absl::OkStatus();
}

rpc::Service QueueService::Bind() {
  rpc::Service service("graft.v1.QueueService");
  service.Async("GetQueue", this, &QueueService::GetQueue)
      .Async("ListQueues", this, &QueueService::ListQueues)
      .Async("CreateQueue", this, &QueueService::CreateQueue)
      .Async("UpdateQueue", this, &QueueService::UpdateQueue)
      .Async("DeleteQueue", this, &QueueService::DeleteQueue)
      .Async("ListQueueEntries", this, &QueueService::ListQueueEntries);
  return service;
}

absl::StatusOr<v1::Queue> QueueService::Read(const std::string& name) const {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "queues/*"));
  return ReadResource<v1::Queue>(context_.store, QueueKey(ids[0]), name);
}

void QueueService::GetQueue(CallPtr call, const v1::GetQueueRequest& request,
                            rpc::Responder<v1::Queue> responder) {
  absl::StatusOr<v1::Queue> queue = Read(request.name());
  if (!queue.ok()) return responder.Answer(queue.status());
  auto answer = std::make_shared<rpc::Responder<v1::Queue>>(std::move(responder));
  context_.control.Inspect([call, answer, queue = *std::move(queue)](const Core& core) mutable {
    ShowStatus(core, *call->identity, {&queue});
    answer->Answer(std::move(queue));
  });
}

void QueueService::ListQueues(CallPtr call, const v1::ListQueuesRequest& request,
                              rpc::Responder<v1::ListQueuesResponse> responder) {
  static const ListFields kFields{.filter = {{"name"}, {"state"}}, .order = {"priority", "name"}};
  ListQuery query = QueryOf(*call, request, "queue/");
  query.order_by = "priority desc, name";
  auto page = ListLoaded<v1::Queue>(context_.store, context_.page_tokens, query, kFields,
                                    [&](const Record& record) -> absl::StatusOr<MessagePtr> {
                                      GRAFT_ASSIGN_OR_RETURN(v1::Queue queue,
                                                             ToResource<v1::Queue>(record));
                                      if (!Admits(queue, *call->identity)) return nullptr;
                                      return std::make_unique<v1::Queue>(std::move(queue));
                                    });
  if (!page.ok()) return responder.Answer(page.status());
  v1::ListQueuesResponse response;
  for (v1::Queue& queue : page->resources) *response.add_queues() = std::move(queue);
  response.set_next_page_token(page->next_page_token);
  auto answer = std::make_shared<rpc::Responder<v1::ListQueuesResponse>>(std::move(responder));
  context_.control.Inspect(
      [call, answer, response = std::move(response)](const Core& core) mutable {
        std::vector<v1::Queue*> queues;
        for (v1::Queue& queue : *response.mutable_queues()) queues.push_back(&queue);
        ShowStatus(core, *call->identity, queues);
        answer->Answer(std::move(response));
      });
}

void QueueService::CreateQueue(CallPtr call, const v1::CreateQueueRequest& request,
                               rpc::Responder<v1::Queue> responder) {
  Mutate<v1::Queue>(context_.control, std::move(responder),
                    [call, request](Turn& turn) -> absl::StatusOr<v1::Queue> {
                      GRAFT_RETURN_IF_ERROR(CheckId(request.queue_id(), "queue_id"));
                      v1::Queue queue = request.queue();
                      ClearOutputOnly(queue);
                      queue.set_name(absl::StrCat("queues/", request.queue_id()));
                      GRAFT_RETURN_IF_ERROR(CheckQueue(turn, queue));
                      bool is_new = false;
                      GRAFT_ASSIGN_OR_RETURN(
                          queue, CreateIn(turn, *call, request, QueueKey(request.queue_id()), queue,
                                          {.validate_only = request.validate_only(),
                                           .on_new = [&is_new](Turn&) { is_new = true; }}));
                      if (is_new) GRAFT_RETURN_IF_ERROR(StepQueue(turn, queue));
                      return queue;
                    });
}

void QueueService::UpdateQueue(CallPtr call, const v1::UpdateQueueRequest& request,
                               rpc::Responder<v1::Queue> responder) {
  Mutate<v1::Queue>(context_.control, std::move(responder),
                    [call, request](Turn& turn) -> absl::StatusOr<v1::Queue> {
                      GRAFT_ASSIGN_OR_RETURN(const auto ids,
                                             ParseName(request.queue().name(), "queues/*"));
                      GRAFT_ASSIGN_OR_RETURN(
                          const v1::Queue queue,
                          UpdateIn<v1::Queue>(
                              turn, *call, QueueKey(ids[0]), request.queue(), request.update_mask(),
                              [&turn](v1::Queue& now) { return CheckQueue(turn, now); },
                              request.validate_only()));
                      if (!request.validate_only()) GRAFT_RETURN_IF_ERROR(StepQueue(turn, queue));
                      return queue;
                    });
}

void QueueService::DeleteQueue(CallPtr call, const v1::DeleteQueueRequest& request,
                               rpc::Responder<google::protobuf::Empty> responder) {
  using google::protobuf::Empty;
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "queues/*"));
        std::vector<std::string> holders = LiveJobsThat(turn, [&](const v1::Job& job) {
          return job.resolved_spec().resources().queue() == request.name();
        });
        if (ids[0] == "default" || ids[0] == "interactive") holders = {"the cluster itself"};
        if (!holders.empty()) return InUse(request.name(), holders);
        GRAFT_RETURN_IF_ERROR(
            DeleteIn<v1::Queue>(turn, *call, QueueKey(ids[0]), request.name(), request.etag())
                .status());
        GRAFT_RETURN_IF_ERROR(turn.Step(QueueRemoved{ids[0]}));
        return Empty();
      });
}

void QueueService::ListQueueEntries(CallPtr call, const v1::ListQueueEntriesRequest& request,
                                    rpc::Responder<v1::ListQueueEntriesResponse> responder) {
  const absl::StatusOr<v1::Queue> queue = Read(request.parent());
  if (!queue.ok()) return responder.Answer(queue.status());
  const absl::StatusOr<int> size = rpc::EffectivePageSize(request.page_size());
  if (!size.ok()) return responder.Answer(size.status());
  // Places move while people page: the token holds the last one shown, where lists have a revision.
  int64_t passed = 0;
  if (!request.page_token().empty()) {
    const auto token = context_.page_tokens.Decode(request.page_token(), request.parent());
    if (!token.ok()) return responder.Answer(token.status());
    passed = static_cast<int64_t>(token->revision);
  }
  auto answer =
      std::make_shared<rpc::Responder<v1::ListQueueEntriesResponse>>(std::move(responder));
  context_.control.Inspect(
      [this, call, answer, size = *size, passed, name = request.parent(),
       open = queue->visibility() == v1::Queue::VISIBILITY_NAMES](const Core& core) {
        v1::ListQueueEntriesResponse response;
        int64_t position = 0;
        for (const Job* job : core.Waiting(context_.clock.Now())) {
          if (absl::StrCat("queues/", job->request.queue) != name || ++position <= passed) continue;
          if (response.entries_size() == size) {
            response.set_next_page_token(context_.page_tokens.Encode(
                {.revision = static_cast<uint64_t>(position - 1)}, name));
            break;
          }
          v1::QueueEntry& entry = *response.add_entries();
          if (open || call->identity->RoleIn(job->request.workspace) >= rpc::Role::kViewer) {
            entry.set_job(JobNameOf(job->request.key));
          }
          entry.set_position(position);
          entry.set_devices(job->request.gang.layout.world());
          entry.set_priority(job->request.priority);
          *entry.mutable_queued_time() = ToTimestamp(job->created);
          const absl::Time start = places_.ExpectedStart(job->request.key);
          if (start != absl::InfiniteFuture()) {
            *entry.mutable_expected_start_time() = ToTimestamp(start);
          }
          entry.set_cause(CauseCode(core.WaitCode(*job, context_.clock.Now())));
        }
        answer->Answer(std::move(response));
      });
}

}  // namespace graft::scheduler
