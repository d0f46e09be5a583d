#include "client/cli/job_view.h"

#include <cstdio>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/cli/interrupt.h"

namespace graft::cli {
namespace {

constexpr absl::Duration kRefresh = absl::Milliseconds(400);
constexpr int kCurveRows = 8;
constexpr int kCurvePoints = 400;
constexpr int kSampleLines = 6;
constexpr int kWarningLines = 3;
constexpr int kShowsBetweenSamples = 10;
// The server may restart under a live view.
constexpr absl::Duration kOutageAllowed = absl::Minutes(2);

std::string Bar(const Terminal& terminal, const v1::Job& job) {
  const v1::JobProgress& progress = job.status().progress();
  std::string detail = absl::StrCat("step ", progress.steps_done(), " of ", progress.steps_total());
  if (progress.has_train_loss())
    absl::StrAppend(&detail, "  loss ", FormatNumber(progress.train_loss()));
  if (progress.has_val_loss())
    absl::StrAppend(&detail, "  validation ", FormatNumber(progress.val_loss()));
  if (progress.tokens_per_second() > 0) {
    absl::StrAppend(&detail, "  ", FormatCount(static_cast<int64_t>(progress.tokens_per_second())),
                    " tokens/s");
  }
  if (progress.eta().seconds() > 0) {
    absl::StrAppend(&detail, "  ", HumanDuration(absl::Seconds(progress.eta().seconds())), " left");
  }
  return RenderProgress(terminal, {.label = std::string(ShortName(job.name())),
                                   .done = static_cast<double>(progress.steps_done()),
                                   .total = static_cast<double>(progress.steps_total()),
                                   .detail = detail});
}

absl::StatusOr<std::vector<Point>> LossCurve(client::Client& client, const std::string& name) {
  v1::QueryMetricsRequest request;
  request.set_name(name);
  request.add_metrics("train_loss");
  request.set_max_points(kCurvePoints);
  GRAFT_ASSIGN_OR_RETURN(
      const auto response,
      client.Call<v1::QueryMetricsResponse>(client.jobs(), &v1::JobService::Stub::QueryMetrics,
                                            request, {.idempotent = true}));
  std::vector<Point> points;
  for (const auto& series : response.series()) {
    for (const auto& point : series.points()) {
      points.push_back({static_cast<double>(point.step()), point.value()});
    }
  }
  return points;
}

// The newest answer of the model in training; empty where there is none.
std::string NewestSample(client::Client& client, const std::string& name) {
  v1::ReadLogsRequest request;
  request.set_name(name);
  request.set_contains("sample, step ");
  request.set_min_severity(v1::LogEntry::SEVERITY_INFO);
  request.set_tail(1);
  grpc::ClientContext context;
  if (!client.connection().Prepare(context).ok()) return "";
  const auto stream = client.jobs().ReadLogs(&context, request);
  v1::ReadLogsResponse response;
  std::string newest;
  while (stream->Read(&response)) {
    for (const v1::LogEntry& entry : response.entries()) newest = Sanitize(entry.text());
  }
  return stream->Finish().ok() ? newest : "";
}

// Nobody shall take a simulated loss for a real one.
std::string FakeWord(const v1::Job& job) { return job.fake_trainer() ? " (FAKE trainer)" : ""; }

// What was said of the specification's fields, the submission has shown.
bool IsOfTraining(const v1::Warning& warning) { return warning.field().empty(); }

class LiveView {
 public:
  LiveView(Invocation& invocation, client::Client& client, std::string name)
      : invocation_(invocation), client_(client), name_(std::move(name)) {}

  absl::Status Run() {
    absl::Time reachable = absl::Now();
    while (!InterruptGuard::interrupted()) {
      absl::StatusOr<v1::Job> job = FetchJob(client_, name_);
      if (job.ok()) {
        reachable = absl::Now();
        Show(*job);
        if (IsTerminal(job->status().state()) || job->status().state() == v1::JOB_STATE_PAUSED) {
          return Verdict(*job);
        }
      } else if (!absl::IsUnavailable(job.status()) || absl::Now() - reachable > kOutageAllowed) {
        return job.status();
      }
      absl::SleepFor(kRefresh);
    }
    invocation_.Say(
        absl::StrCat("\nthe job goes on; `graft job watch ", ShortName(name_), "` shows it again"));
    return absl::CancelledError("");
  }

 private:
  void Show(const v1::Job& job) {
    const v1::JobStatus& status = job.status();
    if (!invocation_.err.is_terminal) {
      ShowLine(job);
      return;
    }
    std::string text = PaintState(invocation_.err, status.state()) + FakeWord(job);
    if (!status.progress().phase().empty()) {
      absl::StrAppend(&text, " (", Sanitize(status.progress().phase()),
                      status.progress().has_phase_fraction()
                          ? absl::StrFormat(" %d %%", static_cast<int>(
                                                          status.progress().phase_fraction() * 100))
                          : "",
                      ")");
    }
    if (!status.message().empty()) absl::StrAppend(&text, "  ", Sanitize(status.message()));
    absl::StrAppend(&text, "\n");
    if (status.progress().steps_total() > 0) {
      absl::StrAppend(&text, Bar(invocation_.err, job), "\n");
      if (const auto curve = LossCurve(client_, name_); curve.ok()) {
        absl::StrAppend(&text, RenderCurve(invocation_.err, *curve, kCurveRows));
      }
      if (job.spec().evaluation().sample_rows() > 0) {
        const bool last = IsTerminal(status.state());
        if (last || shows_++ % kShowsBetweenSamples == 0) sample_ = NewestSample(client_, name_);
        for (const std::string& line : WrapToWidth(sample_, invocation_.err.width, kSampleLines)) {
          absl::StrAppend(&text, line, "\n");
        }
      }
      for (const v1::Warning& warning : job.warnings()) {
        if (!IsOfTraining(warning)) continue;
        const std::string words = absl::StrCat("warning: ", WarningText(warning));
        for (const std::string& line : WrapToWidth(words, invocation_.err.width, kWarningLines)) {
          absl::StrAppend(&text, invocation_.err.Paint(Style::kYellow, line), "\n");
        }
      }
    }
    Redraw(text);
  }

  void Redraw(const std::string& text) {
    std::string out;
    if (lines_ > 0) out = absl::StrCat("\x1b[", lines_, "A");
    lines_ = 0;
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      absl::StrAppend(&out, "\x1b[K", line, "\n");
      ++lines_;
    }
    absl::StrAppend(&out, "\x1b[J");
    fputs(out.c_str(), stderr);
  }

  // A line for each change of state, each tenth of the steps and each new warning.
  void ShowLine(const v1::Job& job) {
    for (const v1::Warning& warning : job.warnings()) {
      if (!IsOfTraining(warning) || !told_.insert(WarningText(warning)).second) continue;
      invocation_.Say(absl::StrCat("warning: ", WarningText(warning)));
    }
    const v1::JobProgress& progress = job.status().progress();
    const int64_t tenth =
        progress.steps_total() > 0 ? progress.steps_done() * 10 / progress.steps_total() : 0;
    if (job.status().state() == shown_state_ && tenth == shown_tenth_) return;
    shown_state_ = job.status().state();
    shown_tenth_ = tenth;
    std::string line =
        absl::StrCat(ShortName(name_), ": ", JobStateWord(shown_state_), FakeWord(job));
    if (progress.steps_total() > 0)
      absl::StrAppend(&line, ", step ", progress.steps_done(), " of ", progress.steps_total());
    if (progress.has_train_loss())
      absl::StrAppend(&line, ", loss ", FormatNumber(progress.train_loss()));
    if (progress.has_val_loss())
      absl::StrAppend(&line, ", validation loss ", FormatNumber(progress.val_loss()));
    if (!job.status().message().empty())
      absl::StrAppend(&line, ", ", Sanitize(job.status().message()));
    invocation_.Say(line);
  }

  absl::Status Verdict(const v1::Job& job) {
    const v1::JobStatus& status = job.status();
    for (const v1::JobResult& result : status.results()) {
      invocation_.Say(absl::StrCat("result: ", Sanitize(result.resource())));
    }
    switch (status.state()) {
      case v1::JOB_STATE_COMPLETED:
        return absl::OkStatus();
      case v1::JOB_STATE_PAUSED:
        invocation_.Say(absl::StrCat("paused; `graft job resume ", ShortName(name_), "` goes on"));
        return absl::OkStatus();
      default:
        return absl::AbortedError(absl::StrCat("the job ", JobStateWord(status.state()),
                                               status.message().empty() ? "" : ": ",
                                               status.message()));
    }
  }

  Invocation& invocation_;
  client::Client& client_;
  const std::string name_;
  int lines_ = 0;
  v1::JobState shown_state_ = v1::JOB_STATE_UNSPECIFIED;
  int64_t shown_tenth_ = -1;
  int shows_ = 0;
  std::string sample_;
  std::set<std::string> told_;
};

}  // namespace

absl::StatusOr<v1::Job> FetchJob(client::Client& client, const std::string& name) {
  v1::GetJobRequest request;
  request.set_name(name);
  return client.Call<v1::Job>(client.jobs(), &v1::JobService::Stub::GetJob, request,
                              {.idempotent = true});
}

std::string JobStateWord(v1::JobState state) {
  return WordOf(v1::JobState_Name(state), "JOB_STATE_");
}

std::string PaintState(const Terminal& terminal, v1::JobState state) {
  Style style = Style::kPlain;
  if (state == v1::JOB_STATE_RUNNING || state == v1::JOB_STATE_STARTING) style = Style::kCyan;
  if (state == v1::JOB_STATE_COMPLETED) style = Style::kGreen;
  if (state == v1::JOB_STATE_FAILED) style = Style::kRed;
  if (state == v1::JOB_STATE_CANCELLED || state == v1::JOB_STATE_PAUSED) style = Style::kYellow;
  return terminal.Paint(style, JobStateWord(state));
}

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_COMPLETED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

std::string WarningText(const v1::Warning& warning) {
  return Sanitize(
      absl::StrCat(warning.field(), warning.field().empty() ? "" : ": ", warning.message()));
}

std::string JobTable(const Terminal& terminal, const std::vector<v1::Job>& jobs) {
  Table table({"NAME", "STATE", "MODEL", "STEPS", "LOSS", "VALIDATION", "AGE", "MESSAGE"});
  for (size_t column : {3u, 4u, 5u}) table.AlignRight(column);
  for (const v1::Job& job : jobs) {
    const v1::JobProgress& progress = job.status().progress();
    table.Add({ShortName(job.name()), PaintState(terminal, job.status().state()) + FakeWord(job),
               ShortName(job.spec().model().base()),
               progress.steps_total() > 0
                   ? absl::StrCat(progress.steps_done(), "/", progress.steps_total())
                   : "-",
               progress.has_train_loss() ? FormatNumber(progress.train_loss()) : "-",
               progress.has_val_loss() ? FormatNumber(progress.val_loss()) : "-",
               AgeOf(job.create_time()), CutToWidth(Sanitize(job.status().message()), 60)});
  }
  return table.Render(terminal);
}

std::string JobPage(const Terminal& terminal, const v1::Job& job) {
  Table table({"FIELD", "VALUE"});
  const v1::JobStatus& status = job.status();
  table.Add({"name", Sanitize(job.name())});
  table.Add({"state", PaintState(terminal, status.state()) + FakeWord(job)});
  if (!status.message().empty()) table.Add({"message", Sanitize(status.message())});
  if (status.queue_position() > 0) {
    table.Add({"place", absl::StrCat(status.queue_position(), " in queue ",
                                     ShortName(job.resolved_spec().resources().queue()))});
  }
  if (status.has_expected_start_time()) {
    table.Add({"expected start", ClockTime(status.expected_start_time())});
  }
  table.Add({"model", Sanitize(job.spec().model().base())});
  const v1::StartFrom& start = job.resolved_spec().model().start_from();
  if (start.source_case() != v1::StartFrom::SOURCE_NOT_SET) {
    table.Add(
        {"starts from", absl::StrCat(Sanitize(start.has_adapter() ? start.adapter()
                                              : start.has_job()   ? start.job()
                                                                  : start.checkpoint()),
                                     start.with_optimizer_state() ? ", with its optimizer" : "")});
  }
  for (const auto& source : job.spec().dataset().training())
    table.Add({"training", Sanitize(source.fileset())});
  const v1::JobProgress& progress = status.progress();
  if (progress.steps_total() > 0) {
    table.Add({"steps", absl::StrCat(progress.steps_done(), " of ", progress.steps_total())});
  }
  if (progress.has_train_loss()) table.Add({"loss", FormatNumber(progress.train_loss())});
  if (progress.has_val_loss()) table.Add({"validation loss", FormatNumber(progress.val_loss())});
  if (progress.tokens_per_second() > 0) {
    table.Add({"tokens/s", FormatCount(static_cast<int64_t>(progress.tokens_per_second()))});
  }
  table.Add({"attempt", absl::StrCat(status.attempt(), ", ", status.restarts(), " restarts")});
  if (!status.latest_checkpoint().empty())
    table.Add({"checkpoint", Sanitize(status.latest_checkpoint())});
  for (const v1::JobResult& result : status.results())
    table.Add({"result", Sanitize(result.resource())});
  for (const v1::Warning& warning : job.warnings()) table.Add({"warning", WarningText(warning)});
  return table.Render(terminal);
}

absl::Status FollowJob(Invocation& invocation, client::Client& client, const std::string& name) {
  const InterruptGuard guard;
  return LiveView(invocation, client, name).Run();
}

}  // namespace graft::cli
