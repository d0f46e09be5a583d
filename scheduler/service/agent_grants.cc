// AgentService: the upload sessions that attempts may fill.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "scheduler/service/agent_convert.h"
#include "scheduler/service/agent_service.h"

namespace graft::scheduler {
namespace {

namespace agent = graft::agent::v1;
namespace v1 = graft::v1;

}  // namespace

std::vector<AgentService::Grant> AgentService::ForgetSuperseded(std::vector<Grant>& grants,
                                                                const Job& job) {
  const auto latest = std::find_if(grants.begin(), grants.end(), [&job](const Grant& grant) {
    return !job.checkpoint.session.empty() && grant.session == job.checkpoint.session;
  });
  if (latest != grants.end()) {
    // Checkpoints that were filled before the latest published one serve nobody.
    grants.erase(std::remove_if(grants.begin(), latest,
                                [](const Grant& grant) {
                                  return grant.used && grant.kind == agent::Upload::KIND_CHECKPOINT;
                                }),
                 latest);
  }
  return grants;
}

size_t AgentService::CountOf(const std::vector<Grant>& grants, agent::Upload::Kind kind) {
  return static_cast<size_t>(std::count_if(
      grants.begin(), grants.end(), [kind](const Grant& grant) { return grant.kind == kind; }));
}

std::vector<AttemptTouched> AgentService::MarkUsed(const agent::SynchronizeRequest& request) {
  std::vector<AttemptTouched> touched;
  MutexLock lock(mu_);
  for (const agent::ActualAttempt& actual : request.attempts()) {
    const auto it = grants_.find(ParseAttemptName(actual.attempt()));
    if (it == grants_.end()) continue;
    bool newly = false;
    for (Grant& grant : it->second.grants) {
      for (const agent::Upload& upload : actual.uploads()) {
        if (grant.used || grant.session != upload.session()) continue;
        grant.used = newly = true;
      }
    }
    // Also where the core makes nothing of it (a checkpoint of a step that it has), the agent must
    // be told of the grant that takes its place.
    if (newly) touched.push_back({it->first.first, it->first.second});
  }
  return touched;
}

// There is always one unused grant for checkpoints, one for the output, and one for the report
// where there will be one.
void AgentService::FillGrants(const DesiredPart& part, const Job& job, const v1::Job& body,
                              agent::DesiredAttempt& out) {
  const v1::JobSpec& spec = body.resolved_spec();
  const auto output = spec.tuning().type() == v1::FINETUNING_TYPE_LORA ? agent::Upload::KIND_ADAPTER
                                                                       : agent::Upload::KIND_MODEL;
  std::vector<Grant> grants;
  {
    MutexLock lock(mu_);
    // Grants of attempts that are over go; a job has one live attempt.
    for (auto it = grants_.lower_bound({part.job, 0});
         it != grants_.end() && it->first.first == part.job && it->first.second < part.attempt;) {
      it = grants_.erase(it);
    }
    grants = ForgetSuperseded(grants_[{part.job, part.attempt}].grants, job);
  }
  bool checkpoint = false;
  bool result = false;
  bool report = !spec.evaluation().report() || body.status().dataset().validation_rows() == 0;
  for (const Grant& grant : grants) {
    const bool used = grant.used || grant.session == job.checkpoint.session ||
                      grant.session == job.publishing.session;
    agent::UploadGrant& granted = *out.add_upload_grants();
    granted.set_session(grant.session);
    granted.set_kind(grant.kind);
    granted.set_published(grant.session == job.checkpoint.session);
    granted.set_token(CapabilityToken(
        part.ranks.empty() ? "" : job.attempt.ranks[0].node,
        {.upload_session = grant.session, .attempt = out.attempt(), .epoch = part.epoch}));
    checkpoint |= grant.kind == agent::Upload::KIND_CHECKPOINT && !used;
    result |= grant.kind == output;
    report |= grant.kind == agent::Upload::KIND_REPORT;
  }
  const auto open = [&](agent::Upload::Kind kind, const std::string& fileset) {
    OpenGrant(part.job, part.attempt, kind, fileset, CountOf(grants, kind));
  };
  const std::string prefix = absl::StrCat("workspaces/", job.request.workspace, "/filesets/");
  const std::string id = part.job.substr(part.job.find('/') + 1).substr(0, 51);
  if (!checkpoint) open(agent::Upload::KIND_CHECKPOINT, absl::StrCat(prefix, id, "-checkpoints"));
  if (!report) open(agent::Upload::KIND_REPORT, absl::StrCat(prefix, id, "-report"));
  if (!result) open(output, absl::StrCat(prefix, spec.output().name()));
}

void AgentService::OpenGrant(const JobKey& job, int attempt, agent::Upload::Kind kind,
                             const std::string& fileset, size_t seen) {
  {
    MutexLock lock(mu_);
    AttemptGrants& grants = grants_[{job, attempt}];
    // One that has opened since the caller looked touches the attempt: it is looked at again.
    if (CountOf(grants.grants, kind) != seen || !grants.opening.insert(kind).second) return;
  }
  constexpr int kPurposes[] = {1, 5, 4, 2, 6};  // graft.v1.FileSetPurpose by Upload.Kind
  (void)context_.background.Post(
      [this, job, attempt, kind, fileset, seen, purpose = kPurposes[kind]] {
        absl::StatusOr<std::string> session = std::string();
        if (absl::Status made = context_.files.EnsureFileset(fileset, purpose); !made.ok()) {
          session = made;
        } else {
          session = context_.files.OpenSession(fileset);
        }
        if (!session.ok()) {
          LOG_WARNING("no upload session; trying again",
                      {{"fileset", fileset}, {"why", session.status().message()}});
          context_.background.PostAt(context_.clock.Now() + absl::Seconds(2), [=, this] {
            {
              MutexLock lock(mu_);
              grants_[{job, attempt}].opening.erase(kind);
            }
            OpenGrant(job, attempt, kind, fileset, seen);
          });
          return;
        }
        {
          MutexLock lock(mu_);
          AttemptGrants& grants = grants_[{job, attempt}];
          grants.grants.push_back({.session = *session, .kind = kind});
          grants.opening.erase(kind);
        }
        context_.control.Submit({.work = [job, attempt](Turn& turn) {
          return turn.Step(AttemptTouched{job, attempt});
        }});
      });
}

}  // namespace graft::scheduler
