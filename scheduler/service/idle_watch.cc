#include "scheduler/service/idle_watch.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr char kQueuePrefix[] = "queue/";
constexpr int kMostQueues = 10'000;

IdleWatch::Policies ReadPolicies(const Store& store) {
  IdleWatch::Policies policies;
  const auto page = store.List({.prefix = kQueuePrefix, .limit = kMostQueues});
  if (!page.ok()) {
    LOG_WARNING("idle jobs are not looked for", {{"why", page.status().message()}});
    return policies;
  }
  for (const Record& record : page->records) {
    const auto queue = ToResource<v1::Queue>(record);
    if (!queue.ok() || !queue->has_idle_policy()) continue;
    policies[record.key.substr(sizeof(kQueuePrefix) - 1)] =
        IdleWatch::PolicyOf(queue->idle_policy());
  }
  return policies;
}

// Where a device stands in its node's inventory.
std::optional<size_t> PositionOf(const ClusterView& cluster, const DeviceRef& ref) {
  const Node* node = cluster.Find(ref.node);
  if (node == nullptr) return std::nullopt;
  for (size_t i = 0; i < node->devices.size(); ++i) {
    if (node->devices[i].index == ref.device) return i;
  }
  return std::nullopt;
}

}  // namespace

IdleWatch::Policy IdleWatch::PolicyOf(const v1::IdlePolicy& policy) {
  Policy out;
  if (policy.has_min_utilisation()) out.min_utilisation = policy.min_utilisation();
  if (policy.after().seconds() > 0) out.after = absl::Seconds(policy.after().seconds());
  out.stop = policy.stop();
  return out;
}

bool IdleWatch::Busy(const Core& core, const Attempt& attempt, double least, absl::Time now) const {
  double sum = 0;
  for (const DeviceRef& ref : attempt.ranks) {
    const auto position = PositionOf(core.cluster(), ref);
    if (!position.has_value()) return true;
    const auto share = use_.Utilisation(ref.node, *position, now);
    if (!share.has_value()) return true;
    sum += *share;
  }
  return sum >= least * static_cast<double>(attempt.ranks.size());
}

std::string IdleWatch::Judge(const Core& core, const Job& job, const Policy& policy, absl::Time now,
                             Watched& watched) const {
  const int64_t steps = progress_.StepsDone(job.request.key);
  if (steps > watched.steps) watched.stepped = now;
  watched.steps = std::max(watched.steps, steps);
  if (Busy(core, job.attempt, policy.min_utilisation, now)) watched.busy = now;
  const auto text = [&](absl::Time since) {
    return absl::FormatDuration(absl::Trunc(now - since, absl::Seconds(1)));
  };
  if (now - watched.stepped >= policy.after) {
    return absl::StrCat("it has made no step for ", text(watched.stepped));
  }
  if (now - watched.busy >= policy.after) {
    return absl::StrCat("its devices were less than ", 100 * policy.min_utilisation, " % busy for ",
                        text(watched.busy));
  }
  return "";
}

std::vector<IdleWatch::Finding> IdleWatch::Look(const Core& core, const Policies& policies,
                                                absl::Time now) {
  std::vector<Finding> findings;
  absl::flat_hash_map<JobKey, Watched> seen;
  int64_t idle = 0;
  for (const auto& [key, job] : core.jobs()) {
    if (policies.empty()) break;
    const auto policy = policies.find(job.request.queue);
    const bool trains = job.state == JobState::kRunning && job.attempt.live() &&
                        !job.attempt.validation && job.request.kind == GangKind::kTrain;
    if (policy == policies.end() || !trains) continue;
    Watched& watched = seen[key] = {.attempt = job.attempt.number, .stepped = now, .busy = now};
    const auto before = watched_.find(key);
    if (before != watched_.end() && before->second.attempt == job.attempt.number) {
      watched = before->second;
    }
    std::string why = Judge(core, job, policy->second, now, watched);
    const bool is_idle = !why.empty();
    idle += is_idle ? 1 : 0;
    if (is_idle && !watched.told) findings.push_back({key, std::move(why), policy->second.stop});
    watched.told = is_idle;
  }
  watched_ = std::move(seen);
  idle_ = idle;
  return findings;
}

void LookForIdleJobs(const ServiceContext& context, IdleWatch& watch) {
  const ServiceContext* services = &context;
  context.control.Inspect([services, watch = &watch,
                           policies = ReadPolicies(context.store)](const Core& core) {
    std::vector<IdleWatch::Finding> found = watch->Look(core, policies, services->clock.Now());
    if (found.empty()) return;
    services->control.Submit({.work = [found = std::move(found)](Turn& turn) {
      for (const IdleWatch::Finding& one : found) {
        turn.Emit({.type = "job.idle",
                   .resource = JobNameOf(one.job),
                   .reason = v1::REASON_IDLE,
                   .message = one.why});
        if (!one.stop) continue;
        const absl::Status paused = turn.Step(JobCommanded{one.job, JobVerb::kPauseIdle, one.why});
        if (!paused.ok()) {  // it has ended meanwhile
          LOG_INFO("an idle job is not paused", {{"job", one.job}, {"why", paused.message()}});
        }
      }
      return absl::OkStatus();
    }});
  });
}

}  // namespace graft::scheduler
