#include "worker/agent/report_maker.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "worker/trainer/generate_protocol.h"

namespace graft::agent {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(100);

// The answers of one process, as its reader thread collects them.
class Answers {
 public:
  void OnLine(const std::string& line) {
    const absl::StatusOr<trainer::GenerateReply> reply = trainer::ParseGenerateReply(line);
    if (!reply.ok()) return;
    MutexLock lock(mu_);
    if (std::holds_alternative<trainer::ReadyReply>(*reply)) {
      ready_ = true;
    } else if (const auto* token = std::get_if<trainer::TokenReply>(&*reply)) {
      text_[token->id] += token->text;
    } else if (const auto* end = std::get_if<trainer::EndReply>(&*reply)) {
      done_[end->id] = text_[end->id];
    } else if (const auto* failed = std::get_if<trainer::FailedReply>(&*reply)) {
      done_[failed->id] = "";  // no answer is the worst answer
    }
    changed_.SignalAll();
  }
  void OnExit(const std::string& how) {
    MutexLock lock(mu_);
    exited_ = how;
    changed_.SignalAll();
  }
  void OnLog(std::string line) {
    MutexLock lock(mu_);
    last_words_ = std::move(line);
  }

  // False when the process has left, the time is up, or nobody wants it any more.
  bool WaitReady(absl::Time deadline, const CancelFlag& cancel) {
    MutexLock lock(mu_);
    while (!ready_ && !exited_.has_value() && !cancel && absl::Now() < deadline) {
      changed_.WaitFor(mu_, kPoll);
    }
    return ready_ && !cancel;
  }
  // What was answered in time.
  std::map<std::string, std::string> WaitDone(size_t count, absl::Time deadline,
                                              const CancelFlag& cancel) {
    MutexLock lock(mu_);
    while (done_.size() < count && !exited_.has_value() && !cancel && absl::Now() < deadline) {
      changed_.WaitFor(mu_, kPoll);
    }
    return done_;
  }
  std::string WhyNone() {
    MutexLock lock(mu_);
    if (!exited_.has_value()) return "it did not answer in time";
    return last_words_.empty() ? *exited_ : absl::StrCat(*exited_, ": ", last_words_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool ready_ GRAFT_GUARDED_BY(mu_) = false;
  std::optional<std::string> exited_ GRAFT_GUARDED_BY(mu_);
  std::string last_words_ GRAFT_GUARDED_BY(mu_);
  std::map<std::string, std::string> text_ GRAFT_GUARDED_BY(mu_);
  std::map<std::string, std::string> done_ GRAFT_GUARDED_BY(mu_);
};

// Fills in `answer` of the rows that were answered; their number in `answered`.
absl::StatusOr<std::vector<bool>> AskAll(const RankCommand& command, absl::Duration limit,
                                         const CancelFlag& cancel,
                                         std::string trainer::ReportRow::*answer,
                                         std::vector<trainer::ReportRow>& rows) {
  const absl::Time deadline = absl::Now() + limit;
  Answers answers;
  GRAFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<RankProcess> process,
      RankProcess::Start(
          command, {.on_event = [&answers](std::string line) { answers.OnLine(line); },
                    .on_log = [&answers](std::string line) { answers.OnLog(std::move(line)); },
                    .on_exit = [&answers](RankExit exit) { answers.OnExit(exit.Describe()); }}));
  if (!answers.WaitReady(deadline, cancel)) {
    return absl::UnavailableError(absl::StrCat("a model did not load: ", answers.WhyNone()));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    trainer::GenerateRequest question = rows[i].question;
    question.id = absl::StrCat(i);
    GRAFT_RETURN_IF_ERROR(process->Send(trainer::FormatGenerateInput(question)));
  }
  const auto done = answers.WaitDone(rows.size(), deadline, cancel);
  if (cancel) return absl::CancelledError("the report is wanted no more");
  if (done.empty()) {
    return absl::UnavailableError(absl::StrCat("no row was answered: ", answers.WhyNone()));
  }
  std::vector<bool> answered(rows.size(), false);
  for (const auto& [id, text] : done) {
    size_t index = 0;
    if (!absl::SimpleAtoi(id, &index) || index >= rows.size()) continue;
    rows[index].*answer = text;
    answered[index] = true;
  }
  return answered;
}

}  // namespace

absl::Status MakeReport(ReportRequest request, const CancelFlag& cancel) {
  const auto& evaluation = request.config.evaluation;
  GRAFT_ASSIGN_OR_RETURN(std::vector<trainer::ReportRow> rows,
                         trainer::ChooseRows(request.config, request.split_rows,
                                             evaluation.report_rows, evaluation.report_tokens));
  request.report.rows_chosen = static_cast<int64_t>(rows.size());
  if (!rows.empty()) {
    GRAFT_ASSIGN_OR_RETURN(
        const std::vector<bool> before,
        AskAll(request.base, request.limit, cancel, &trainer::ReportRow::before, rows));
    GRAFT_ASSIGN_OR_RETURN(
        const std::vector<bool> after,
        AskAll(request.tuned, request.limit, cancel, &trainer::ReportRow::after, rows));
    for (size_t i = 0; i < rows.size(); ++i) {
      if (before[i] && after[i]) request.report.rows.push_back(std::move(rows[i]));
    }
  }
  return trainer::WriteReport(request.report, request.folder);
}

}  // namespace graft::agent
