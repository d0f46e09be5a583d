// A session with the simulated trainer as a real process; the scheduler is played by the test.
#include "worker/agent/inference_runner.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "worker/agent/fake_generate.h"

namespace graft::agent {
namespace {

using ::testing::HasSubstr;
constexpr absl::Duration kPatience = absl::Seconds(30);

// Keeps what agents say on their inference streams, and says what the test wants.
class FakeScheduler final : public SchedulerLink {
 public:
  absl::StatusOr<v1::RegisterResponse> Register(const v1::RegisterRequest&,
                                                absl::Duration) override {
    return absl::UnimplementedError("");
  }
  void SetAccessToken(const std::string&) override {}
  void Synchronize(const v1::SynchronizeRequest&, absl::Duration, OnSynchronized) override {}
  void CancelSynchronize() override {}
  class Events final : public EventStream {
   public:
    bool Write(const v1::PushEventsRequest&) override { return true; }
    void Cancel() override {}
  };
  std::unique_ptr<EventStream> OpenEvents(EventStream::OnAck) override {
    return std::make_unique<Events>();
  }

  class Stream final : public InferenceStream {
   public:
    Stream(FakeScheduler& owner, OnInference on_command, std::function<void(absl::Status)> on_end)
        : owner_(owner), on_command_(std::move(on_command)), on_end_(std::move(on_end)) {}
    ~Stream() override {
      MutexLock lock(owner_.mu_);
      owner_.stream_ = nullptr;
    }
    bool Write(const v1::ServeInferenceRequest& request) override {
      MutexLock lock(owner_.mu_);
      if (cancelled_) return false;
      owner_.said_.push_back(request);
      owner_.changed_.SignalAll();
      return true;
    }
    void Cancel() override { cancelled_ = true; }
    void Say(const v1::ServeInferenceResponse& command) { on_command_(command); }
    void Break() {
      cancelled_ = true;
      on_end_(absl::UnavailableError("broken by the test"));
    }

   private:
    FakeScheduler& owner_;
    const OnInference on_command_;
    const std::function<void(absl::Status)> on_end_;
    std::atomic<bool> cancelled_{false};
  };
  std::unique_ptr<InferenceStream> OpenInference(
      OnInference on_command, std::function<void(absl::Status)> on_end) override {
    auto stream = std::make_unique<Stream>(*this, std::move(on_command), std::move(on_end));
    MutexLock lock(mu_);
    stream_ = stream.get();
    return stream;
  }

  void Ask(const std::string& id, const std::string& prompt) {
    v1::ServeInferenceResponse command;
    command.set_request_id(id);
    command.mutable_complete()->set_prompt(prompt);
    command.mutable_complete()->mutable_config()->set_max_tokens(100000);
    command.mutable_complete()->mutable_config()->set_top_p(1);
    stream()->Say(command);
  }
  void Cancel(const std::string& id) {
    v1::ServeInferenceResponse command;
    command.set_request_id(id);
    command.set_cancel(true);
    stream()->Say(command);
  }
  Stream* stream() {
    MutexLock lock(mu_);
    return stream_;
  }
  template <typename Predicate>
  bool WaitFor(Predicate predicate) {
    const absl::Time deadline = absl::Now() + kPatience;
    MutexLock lock(mu_);
    while (!predicate(said_)) {
      if (absl::Now() > deadline) return false;
      changed_.WaitFor(mu_, absl::Milliseconds(50));
    }
    return true;
  }
  bool WaitForHello(int streams) {
    return WaitFor([streams](const auto& said) {
      return std::count_if(said.begin(), said.end(),
                           [](const auto& one) { return one.has_ready(); }) == streams;
    });
  }
  // The end or failure of the question.
  v1::ServeInferenceRequest Outcome(const std::string& id) {
    v1::ServeInferenceRequest outcome;
    EXPECT_TRUE(WaitFor([&](const auto& said) {
      for (const auto& one : said) {
        if (one.request_id() == id && (one.has_end() || one.has_failure())) outcome = one;
      }
      return outcome.request_id() == id;
    })) << "no outcome of "
        << id;
    return outcome;
  }
  std::string Text(const std::string& id) {
    MutexLock lock(mu_);
    std::string text;
    for (const auto& one : said_) {
      if (one.request_id() == id) text += one.tokens().text();
    }
    return text;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  Stream* stream_ = nullptr;
  std::vector<v1::ServeInferenceRequest> said_;
};

class NoFiles final : public FileLink {
 public:
  absl::StatusOr<std::string> Fetch(const v1::Input&, const std::string&, const std::string&,
                                    const CancelFlag&, const OnProgress&) override {
    return std::string("/");
  }
  void Release(const std::string&) override {}
  absl::StatusOr<int64_t> Upload(const std::string&, const std::string&, const std::string&,
                                 const CancelFlag&) override {
    return absl::UnimplementedError("");
  }
};

class InferenceRunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    signal(SIGPIPE, SIG_IGN);
    folder_ = absl::StrCat(::testing::TempDir(), "/inference.", getpid());
    ASSERT_THAT(RemoveTree(folder_), IsOk());
    ASSERT_THAT(MakeDirectories(folder_), IsOk());
    GRAFT_ASSERT_OK_AND_ASSIGN(relay_, EventRelay::Open(JoinPath(folder_, "spool"), scheduler_));
    const char* build = std::getenv("GRAFT_BINARY_DIR");
    ASSERT_NE(build, nullptr) << "run by ctest";
    environment_ = std::make_unique<RunnerEnvironment>(
        RunnerEnvironment{.loop = loop_,
                          .clock = clock_,
                          .scheduler = scheduler_,
                          .files = files_,
                          .relay = *relay_,
                          .root = folder_,
                          .trainer_program = absl::StrCat(build, "/bin/graft-fake-trainer"),
                          .fabric_address = "127.0.0.1",
                          .on_changed =
                              [this] {
                                if (runner_ != nullptr && runner_->over()) over_.Notify();
                              },
                          .on_progress = [] {}});
  }
  void TearDown() override {
    OnLoop([this] { runner_.reset(); });
    loop_.Stop();
    relay_.reset();
    unsetenv("GRAFT_FAKE_TOKEN_SECONDS");
    EXPECT_THAT(RemoveTree(folder_), IsOk());
  }
  void OnLoop(std::function<void()> what) {
    Notification done;
    ASSERT_THAT(loop_.Post([&] {
      what();
      done.Notify();
    }),
                IsOk());
    done.Wait();
  }
  static v1::DesiredAttempt Wish() {
    v1::DesiredAttempt wish;
    wish.set_attempt("workspaces/w/inferenceSessions/s");
    wish.set_attempt_epoch(3);
    wish.set_kind(v1::DesiredAttempt::KIND_GENERATE);
    wish.set_goal(v1::DesiredAttempt::GOAL_RUN);
    wish.set_run_json(R"({"version":1,"model":"${inputs.model}"})");
    v1::Input& input = *wish.add_inputs();
    input.set_key("model");
    input.set_version("workspaces/w/filesets/m/versions/1");
    return wish;
  }
  void Begin() {
    OnLoop([this] { runner_ = MakeRunner(*environment_, Wish()); });
    ASSERT_TRUE(scheduler_.WaitForHello(1));
  }
  v1::ActualAttempt Report() {
    v1::ActualAttempt report;
    OnLoop([&] { report = runner_->Report(); });
    return report;
  }
  v1::ActualAttempt ReportWhenOver() {
    EXPECT_TRUE(over_.WaitFor(kPatience));
    return Report();
  }

  std::string folder_;
  RealClock clock_;
  FakeScheduler scheduler_;
  NoFiles files_;
  Loop loop_{clock_};
  std::unique_ptr<EventRelay> relay_;
  std::unique_ptr<RunnerEnvironment> environment_;
  std::unique_ptr<Runner> runner_;
  Notification over_;  // the runner is
};

TEST_F(InferenceRunnerTest, AnswersComeBackWordByWord) {
  Begin();
  EXPECT_EQ(Report().state(), v1::ActualAttempt::STATE_RUNNING);
  scheduler_.Ask("q1", "one two three");
  const v1::ServeInferenceRequest end = scheduler_.Outcome("q1");
  EXPECT_EQ(end.end().finish_reason(), graft::v1::FINISH_REASON_STOP);
  EXPECT_EQ(end.end().usage().completion_tokens(), 3);
  EXPECT_EQ(scheduler_.Text("q1"), "(fake) one two three");
}

TEST_F(InferenceRunnerTest, ALongPromptIsRefusedWithNumbersAndTheNextIsAnswered) {
  Begin();
  scheduler_.Ask("q1", absl::StrJoin(std::vector<std::string>(kFakeContext + 1, "word"), " "));
  const v1::ServeInferenceRequest failed = scheduler_.Outcome("q1");
  EXPECT_EQ(failed.failure().reason(), graft::v1::REASON_CONTEXT_EXCEEDED);
  EXPECT_THAT(failed.failure().message(), HasSubstr("has 2049 tokens; the context holds 2048"));
  scheduler_.Ask("q2", "short");
  EXPECT_TRUE(scheduler_.Outcome("q2").has_end());
}

TEST_F(InferenceRunnerTest, ACancelledAnswerEnds) {
  setenv("GRAFT_FAKE_TOKEN_SECONDS", "0.02", 1);
  Begin();
  scheduler_.Ask("q1", absl::StrJoin(std::vector<std::string>(kFakeContext - 1, "word"), " "));
  ASSERT_TRUE(scheduler_.WaitFor([](const auto& said) { return said.size() > 3; }));
  scheduler_.Cancel("q1");
  EXPECT_EQ(scheduler_.Outcome("q1").end().finish_reason(), graft::v1::FINISH_REASON_CANCELLED);
}

TEST_F(InferenceRunnerTest, ABrokenStreamIsDialledAgainAndItsQuestionsAreGivenUp) {
  setenv("GRAFT_FAKE_TOKEN_SECONDS", "0.02", 1);
  Begin();
  scheduler_.Ask("q1", absl::StrJoin(std::vector<std::string>(kFakeContext - 1, "word"), " "));
  ASSERT_TRUE(scheduler_.WaitFor([](const auto& said) { return said.size() > 3; }));
  scheduler_.stream()->Break();
  ASSERT_TRUE(scheduler_.WaitForHello(2));
  scheduler_.Ask("q2", "after");
  EXPECT_TRUE(scheduler_.Outcome("q2").has_end()) << "the trainer was busy with q1 no longer";
}

TEST_F(InferenceRunnerTest, ATrainerThatDiesFailsTheSessionWithTheSignal) {
  Begin();
  kill(static_cast<pid_t>(Report().ranks(0).pid()), SIGKILL);
  const v1::ActualAttempt report = ReportWhenOver();
  EXPECT_EQ(report.state(), v1::ActualAttempt::STATE_FAILED);
  EXPECT_THAT(report.message(), HasSubstr("signal 9"));
}

TEST_F(InferenceRunnerTest, ASessionEndsWhenItIsTold) {
  Begin();
  const pid_t pid = static_cast<pid_t>(Report().ranks(0).pid());
  v1::DesiredAttempt wish = Wish();
  wish.set_goal(v1::DesiredAttempt::GOAL_STOP);
  OnLoop([&] { runner_->Update(wish); });
  EXPECT_EQ(Report().state(), v1::ActualAttempt::STATE_ENDED);
  EXPECT_EQ(kill(pid, 0), -1);
}

}  // namespace
}  // namespace graft::agent
