#include "scheduler/service/validation_records.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "graft/v1/model.pb.h"
#include "scheduler/core/core.h"
#include "scheduler/service/agent_convert.h"
#include "scheduler/service/estimates.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/recipe_warnings.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
namespace agent = graft::agent::v1;

void Fill(const agent::ValidationReport& report, v1::Job& body) {
  v1::DatasetFindings& found = *body.mutable_status()->mutable_dataset();
  found.set_training_rows(report.training_rows());
  found.set_validation_rows(report.validation_rows());
  found.set_tokens(report.tokens());
  found.set_supervised_tokens(report.supervised_tokens());
  found.set_truncated_rows(report.truncated_rows());
  found.set_skipped_rows(report.skipped_rows());
  found.set_empty_rows(report.empty_rows());
  found.set_longest_row(report.longest_row());
  found.set_steps(report.steps());
  found.set_format(report.row_format());
  body.mutable_estimate()->set_steps(report.steps());
  body.mutable_estimate()->set_tokens(report.tokens());
  for (const v1::Warning& warning : report.warnings()) *body.add_warnings() = warning;
  // What only shows beside the rows.
  for (v1::Warning& odd :
       RecipeWarnings(body.resolved_spec(),
                      {.rows = report.training_rows(), .longest_tokens = report.longest_row()})) {
    const bool told =
        std::any_of(body.warnings().begin(), body.warnings().end(),
                    [&](const v1::Warning& warning) { return warning.code() == odd.code(); });
    if (!told) *body.add_warnings() = std::move(odd);
  }
}

std::string KeyOf(Turn& turn, const v1::JobSpec& spec) {
  std::vector<std::string> digests;
  const auto add = [&](const std::string& version) {
    const auto digest = turn.Get(Family::kRecords, absl::StrCat("version.digest/", version));
    digests.push_back(digest.ok() ? digest->value : version);
  };
  for (const auto& source : spec.dataset().training()) add(source.fileset());
  for (const auto& source : spec.dataset().validation()) add(source.fileset());
  const std::vector<std::string> base = absl::StrSplit(spec.model().base(), '/');
  const auto model = ReadResource<v1::Model>(turn, ModelRecordKey(base[1], base[3]), "");
  if (model.ok()) add(model->fileset());
  return ValidationKey(spec, digests);
}

}  // namespace

std::string ValidationKey(const v1::JobSpec& resolved, const std::vector<std::string>& digests) {
  // What changes neither rows nor tokens nor steps is left out.
  v1::JobSpec relevant;
  *relevant.mutable_dataset() = resolved.dataset();
  *relevant.mutable_batch() = resolved.batch();
  relevant.mutable_schedule()->set_epochs(resolved.schedule().epochs());
  relevant.mutable_schedule()->set_max_steps(resolved.schedule().max_steps());
  relevant.mutable_model()->set_chat_template(resolved.model().chat_template());
  for (auto* sources : {relevant.mutable_dataset()->mutable_training(),
                        relevant.mutable_dataset()->mutable_validation()}) {
    for (auto& source : *sources) source.clear_fileset();  // its digest says what is in it
  }
  return absl::StrCat("validated/", Sha256::HexOf(absl::StrCat(DeterministicBytes(relevant), "\n",
                                                               absl::StrJoin(digests, "\n"))));
}

bool TakeFindings(Turn& turn, v1::Job& body) {
  const std::string key = KeyOf(turn, body.resolved_spec());
  const absl::StatusOr<Record> known = turn.Get(Family::kRecords, key);
  agent::ValidationReport report;
  if (!known.ok() || !DecodeResource(key, known->value, report).ok()) return false;
  Fill(report, body);
  return true;
}

std::vector<JobFindings> FindingsOf(const agent::SynchronizeRequest& request) {
  std::vector<JobFindings> all;
  for (const agent::ActualAttempt& actual : request.attempts()) {
    if (actual.state() != agent::ActualAttempt::STATE_ENDED || !actual.has_validation()) continue;
    const auto [job, attempt] = ParseAttemptName(actual.attempt());
    if (!job.empty()) all.push_back({job, attempt, actual.validation()});
  }
  return all;
}

void KeepFindings(Turn& turn, const JobFindings& findings) {
  const Job* job = turn.core().FindJob(findings.job);
  if (job == nullptr || !job->attempt.validation || job->attempt.number != findings.attempt) {
    return;
  }
  const std::vector<std::string> ids = absl::StrSplit(findings.job, '/');
  const std::string key = JobRecordKey(ids[0], ids[1]);
  absl::StatusOr<v1::Job> body = ReadResource<v1::Job>(turn, key, findings.job);
  if (!body.ok() || body->status().has_dataset()) return;
  turn.Put(Family::kRecords, KeyOf(turn, body->resolved_spec()), EncodeResource(findings.report));
  Fill(findings.report, *body);
  PutResource(turn, key, *body);
}

void AmendRunTime(Turn& turn, const JobFindings& findings) {
  const Job* job = turn.core().FindJob(findings.job);
  if (job == nullptr || job->state != JobState::kQueued) return;
  const std::vector<std::string> ids = absl::StrSplit(findings.job, '/');
  const auto body = ReadResource<v1::Job>(turn, JobRecordKey(ids[0], ids[1]), findings.job);
  if (!body.ok()) return;
  JobRequest request = job->request;
  request.expected_run_time = ExpectedRunTime(*body);
  if (request.expected_run_time != job->request.expected_run_time) {
    (void)turn.Step(JobAmended{std::move(request)});
  }
}

}  // namespace graft::scheduler
