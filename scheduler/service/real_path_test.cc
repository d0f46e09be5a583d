// The whole way of a job over real gRPC: created by a client, placed on a worker that speaks the
// agent protocol, run, measured, completed, and its adapter there. The fileservice and the worker's
// ranks are stand-ins.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "graft/agent/v1/agent.grpc.pb.h"
#include "graft/v1/job.grpc.pb.h"
#include "graft/v1/model.grpc.pb.h"
#include "graft/v1/node.grpc.pb.h"
#include "gtest/gtest.h"
#include "rpc/status.h"
#include "scheduler/service/testing/test_server.h"
#include "scheduler/service/testing/test_worker.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
namespace agent = graft::agent::v1;

class RealPathTest : public ServiceTest {
 protected:
  void SetUp() override {
    options_.rows_first = rows_first_;
    Start(true);
    models_ = v1::ModelService::NewStub(channel_);
    worker_ = std::make_unique<TestWorker>(channel_);
  }

  void RegisterWorker() {
    worker_->Register();
    EXPECT_THAT(worker_->TryRegister(), StatusIs(absl::StatusCode::kUnauthenticated))
        << "a join token is used once";
  }

  // Synchronises until the desired state is as wanted.
  agent::SynchronizeResponse SyncUntil(
      const std::function<bool(const agent::SynchronizeResponse&)>& wanted) {
    agent::SynchronizeResponse response;
    for (int i = 0; i < 12; ++i) {  // a call without news is held for seconds
      agent::SynchronizeRequest& report = worker_->report();
      const absl::Status status = worker_->TrySync(response);
      EXPECT_THAT(status, IsOk());
      if (!status.ok()) break;
      report.set_revision(response.revision());
      // What is desired is listed from the call on that reports the revision.
      if (response.attempts_size() > 0 &&
          (report.attempts_size() == 0 ||
           report.attempts(0).attempt() != response.attempts(0).attempt())) {
        report.clear_attempts();
        auto& actual = *report.add_attempts();
        actual.set_attempt(response.attempts(0).attempt());
        actual.set_state(agent::ActualAttempt::STATE_STAGING);
        if (response.attempts(0).kind() == agent::DesiredAttempt::KIND_VALIDATE) {
          actual.set_state(agent::ActualAttempt::STATE_ENDED);
          actual.mutable_validation()->set_training_rows(240);
          actual.mutable_validation()->set_truncated_rows(3);
          actual.mutable_validation()->set_steps(30);
          actual.mutable_validation()->set_row_format(v1::DatasetSection::FORMAT_CHAT);
          actual.mutable_validation()->add_warnings()->set_code("ROWS_TRUNCATED");
        }
      }
      if (wanted(response)) return response;
    }
    ADD_FAILURE() << "the desired state never became what was waited for: "
                  << response.ShortDebugString() << "; reported "
                  << worker_->report().ShortDebugString();
    return {};
  }

  v1::CreateJobRequest NewJob() {
    v1::CreateJobRequest request = ServiceTest::NewJob("tickets-1");
    request.set_request_id("r1");
    request.mutable_job()->mutable_spec()->mutable_output()->set_name("tickets");
    return request;
  }

  // The attempt that trains, with its grants.
  agent::DesiredAttempt Train() {
    const agent::SynchronizeResponse desired = SyncUntil([](const auto& response) {
      return response.attempts_size() == 1 &&
             response.attempts(0).kind() == agent::DesiredAttempt::KIND_TRAIN &&
             response.attempts(0).upload_grants_size() == 2;
    });
    worker_->report().mutable_attempts(0)->set_state(agent::ActualAttempt::STATE_RUNNING);
    return desired.attempts(0);
  }

  // Fills a session that is granted for it.
  void Upload(agent::Upload::Kind kind, int64_t step, std::optional<double> val_loss) {
    const auto granted = [&](const agent::SynchronizeResponse& response) -> std::string {
      for (const auto& grant : response.attempts(0).upload_grants()) {
        if (grant.kind() == kind && filled_.insert(grant.session()).second) return grant.session();
      }
      return "";
    };
    std::string session;
    worker_->report().clear_revision();  // a grant may be known already: the call must not be held
    SyncUntil([&](const auto& response) { return !(session = granted(response)).empty(); });
    agent::Upload& upload = *worker_->report().mutable_attempts(0)->add_uploads();
    upload.set_session(session);
    upload.set_kind(kind);
    upload.set_step(step);
    upload.set_size_bytes(100 + step);
    if (val_loss.has_value()) upload.set_val_loss(*val_loss);
  }

  // Until it is published.
  v1::Job Checkpoint(const v1::Job& job, int64_t step, std::optional<double> val_loss) {
    Upload(agent::Upload::KIND_CHECKPOINT, step, val_loss);
    worker_->report().clear_revision();
    v1::Job now;
    SyncUntil([&](const auto&) {
      now = Look(job.name());
      return now.status().latest_checkpoint() == absl::StrCat(job.name(), "/checkpoints/", step);
    });
    return now;
  }

  // The attempt ends with its adapter.
  v1::Job Complete(const v1::Job& job) {
    Upload(agent::Upload::KIND_ADAPTER, 0, std::nullopt);
    worker_->report().mutable_attempts(0)->set_state(agent::ActualAttempt::STATE_ENDED);
    SyncUntil([](const auto& response) { return response.attempts_size() == 0; });
    worker_->report().clear_attempts();
    v1::WaitJobRequest wait;
    wait.set_name(job.name());
    v1::WaitJobResponse waited;
    EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::WaitJob, wait, waited), IsOk());
    EXPECT_EQ(waited.job().status().state(), v1::JOB_STATE_COMPLETED);
    return waited.job();
  }

  v1::Job Look(const std::string& name) {
    v1::GetJobRequest get;
    get.set_name(name);
    v1::Job job;
    EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::GetJob, get, job), IsOk());
    return job;
  }

  // "40 30 20*", newest first, the best marked.
  std::string CheckpointsOf(const v1::Job& job) {
    v1::ListCheckpointsRequest list;
    list.set_parent(job.name());
    v1::ListCheckpointsResponse listed;
    EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::ListCheckpoints, list, listed), IsOk());
    std::string steps;
    for (const v1::Checkpoint& checkpoint : listed.checkpoints()) {
      absl::StrAppend(&steps, steps.empty() ? "" : " ", checkpoint.step(),
                      checkpoint.best() ? "*" : "");
      EXPECT_EQ(checkpoint.size_bytes(), 100 + checkpoint.step());
    }
    return steps;
  }

  std::unique_ptr<v1::ModelService::Stub> models_;
  std::unique_ptr<TestWorker> worker_;
  std::set<std::string> filled_;  // sessions
  bool rows_first_ = true;
};

TEST_F(RealPathTest, AJobRunsOnAWorkerAndItsAdapterAppearsUnderTheBase) {
  RegisterWorker();
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(), job), IsOk());
  EXPECT_EQ(job.resolved_spec().tuning().lora().rank(), 16);
  EXPECT_EQ(job.resolved_spec().dataset().training(0).fileset(),
            "workspaces/default/filesets/rows/versions/1");
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::vector<FileserviceLink::PinInfo> pins, files_.ListPins());
  ASSERT_EQ(pins.size(), 1);
  EXPECT_EQ(pins[0].version, "workspaces/default/filesets/rows/versions/1");
  v1::Job again;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(), again), IsOk());
  EXPECT_EQ(again.uid(), job.uid()) << "the same request id makes one job";

  const agent::SynchronizeResponse desired = SyncUntil([](const auto& response) {
    return response.attempts_size() == 1 && response.attempts(0).upload_grants_size() == 2;
  });
  ASSERT_EQ(desired.attempts_size(), 1);
  const agent::DesiredAttempt& attempt = desired.attempts(0);
  EXPECT_EQ(attempt.attempt(), "workspaces/default/jobs/tickets-1/attempts/2")
      << "the first read the rows";
  EXPECT_EQ(attempt.local_ranks_size(), 1);
  v1::ListAttemptsRequest tries;
  tries.set_parent(job.name());
  v1::ListAttemptsResponse tried;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ListAttempts, tries, tried), IsOk());
  ASSERT_EQ(tried.attempts_size(), 1) << "reading the rows took no device";
  EXPECT_EQ(tried.attempts(0).ranks(0).device_uuid(), "cpu-n0-0");
  EXPECT_THAT(tried.attempts(0).decision(), ::testing::HasSubstr("n0"));
  EXPECT_EQ(attempt.inputs_size(), 2);
  EXPECT_NE(attempt.run_json().find("\"kind\":\"lora\""), std::string::npos);

  auto& actual = *worker_->report().mutable_attempts(0);
  actual.set_state(agent::ActualAttempt::STATE_RUNNING);
  actual.mutable_progress()->set_steps_done(3);
  worker_->report().clear_revision();  // nothing becomes new by it: the call would be held
  worker_->Sync();
  v1::GetJobRequest get;
  get.set_name(job.name());
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::GetJob, get, job), IsOk());
  EXPECT_EQ(job.status().state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(job.status().progress().steps_done(), 3);
  EXPECT_EQ(job.status().dataset().truncated_rows(), 3);
  EXPECT_EQ(job.estimate().steps(), 30);
  EXPECT_EQ(job.warnings(job.warnings_size() - 1).code(), "ROWS_TRUNCATED");

  // What training finds odd joins them, the newest words of each code.
  const int told = job.warnings_size();
  auto& odd = *actual.add_warnings();
  odd.set_code("STEP_SKIPPED");
  for (const char* words : {"step 1: not finite", "step 2: not finite", "step 2: not finite"}) {
    odd.set_message(words);
    worker_->Sync();
  }
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::GetJob, get, job), IsOk());
  ASSERT_EQ(job.warnings_size(), told + 1);
  EXPECT_EQ(job.warnings(told).message(), "step 2: not finite");

  grpc::ClientContext context;
  worker_->Sign(context);
  auto stream = worker_->stub().PushEvents(&context);
  agent::PushEventsRequest push;
  push.set_node("nodes/n0");
  auto& batch = *push.add_batches();
  batch.set_attempt(attempt.attempt());
  batch.set_first_sequence(1);
  batch.add_metric_names("train_loss");
  auto& row = *batch.add_events()->mutable_metrics();
  row.set_step(1);
  row.add_names(0);
  row.add_values(2.5);
  batch.add_events()->set_dropped(7);
  ASSERT_TRUE(stream->Write(push));
  agent::PushEventsResponse ack;
  ASSERT_TRUE(stream->Read(&ack));
  EXPECT_EQ(ack.acks(0).sequence(), 2);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  v1::QueryMetricsRequest query;
  query.set_name(job.name());
  v1::QueryMetricsResponse metrics;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::QueryMetrics, query, metrics), IsOk());
  ASSERT_EQ(metrics.series_size(), 1);
  EXPECT_EQ(metrics.series(0).points(0).value(), 2.5);
  v1::ReadLogsRequest read;
  read.set_name(job.name());
  grpc::ClientContext reading;
  auto logs = jobs_->ReadLogs(&reading, read);
  v1::ReadLogsResponse lines;
  ASSERT_TRUE(logs->Read(&lines));
  ASSERT_EQ(lines.entries_size(), 1);
  EXPECT_THAT(lines.entries(0).text(), ::testing::HasSubstr("7 lines or metrics are missing here"));

  for (const agent::UploadGrant& grant : attempt.upload_grants()) {
    if (grant.kind() != agent::Upload::KIND_ADAPTER) continue;
    auto& upload = *actual.add_uploads();
    upload.set_session(grant.session());
    upload.set_kind(grant.kind());
  }
  actual.set_state(agent::ActualAttempt::STATE_ENDED);
  SyncUntil([](const auto& response) { return response.attempts_size() == 0; });
  v1::WaitJobRequest wait;
  wait.set_name(job.name());
  v1::WaitJobResponse waited;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::WaitJob, wait, waited), IsOk());
  EXPECT_EQ(waited.job().status().state(), v1::JOB_STATE_COMPLETED);
  v1::GetAdapterRequest wanted;
  wanted.set_name("workspaces/default/models/base/adapters/tickets");
  v1::Adapter adapter;
  ASSERT_THAT(Call(*models_, &v1::ModelService::Stub::GetAdapter, wanted, adapter), IsOk());
  EXPECT_EQ(adapter.fileset(), "workspaces/default/filesets/tickets/versions/1");
  EXPECT_EQ(adapter.job(), job.name());
  EXPECT_EQ(adapter.row_format(), v1::DatasetSection::FORMAT_CHAT);

  v1::CreateJobRequest second = NewJob();
  second.set_job_id("tickets-2");
  second.set_request_id("r2");
  second.mutable_job()->mutable_spec()->mutable_output()->set_name("tickets2");
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, second, job), IsOk());
  EXPECT_EQ(job.status().state(), v1::JOB_STATE_QUEUED) << "its rows were read before";
  EXPECT_EQ(job.status().dataset().training_rows(), 240);
}

TEST_F(RealPathTest, TheNewestCheckpointsStayAndTheBest) {
  RegisterWorker();
  v1::CreateJobRequest request = NewJob();
  request.mutable_job()->mutable_spec()->mutable_schedule()->set_keep_checkpoints(2);
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
  Train();
  job = Checkpoint(job, 10, 3.0);
  EXPECT_EQ(job.status().best_checkpoint(), job.name() + "/checkpoints/10");
  Checkpoint(job, 20, 1.0);
  EXPECT_EQ(CheckpointsOf(job), "20* 10");
  Checkpoint(job, 30, std::nullopt);
  job = Checkpoint(job, 40, 2.0);
  EXPECT_EQ(CheckpointsOf(job), "40 30 20*");
  EXPECT_EQ(job.status().best_checkpoint(), job.name() + "/checkpoints/20");
  job = Checkpoint(job, 50, 0.5);
  EXPECT_EQ(CheckpointsOf(job), "50* 40");
  const auto given_up = store_.List({.prefix = "version.given-up/"});
  ASSERT_THAT(given_up, IsOk());
  EXPECT_EQ(given_up->records.size(), 3) << "their files go, too";

  Complete(job);
  v1::DeleteJobRequest gone;
  gone.set_name(job.name());
  google::protobuf::Empty nothing;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::DeleteJob, gone, nothing), IsOk());
  EXPECT_EQ(store_.List({.prefix = "version.given-up/"})->records.size(), 5);
}

TEST_F(RealPathTest, AJobMayStartFromAnAdapterOrACheckpoint) {
  RegisterWorker();
  v1::CreateJobRequest request = NewJob();
  v1::Lora& lora = *request.mutable_job()->mutable_spec()->mutable_tuning()->mutable_lora();
  lora.set_rank(4);
  lora.set_alpha(6);
  lora.add_target_modules("q_proj");
  v1::Job first;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, first), IsOk());
  Train();
  Checkpoint(first, 10, 1.0);
  Checkpoint(first, 20, 2.0);
  Complete(first);

  const auto start = [&](const auto& fill, const std::string& id) {
    v1::CreateJobRequest create = ServiceTest::NewJob(id);
    fill(*create.mutable_job()->mutable_spec()->mutable_model()->mutable_start_from());
    return create;
  };
  v1::Job job;
  const auto adapter =
      start([&](v1::StartFrom& from) { from.set_job(first.name()); }, "from-adapter");
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, adapter, job), IsOk());
  const v1::JobSpec& spec = job.resolved_spec();
  EXPECT_EQ(spec.tuning().lora().rank(), 4) << "as the adapter has it";
  EXPECT_EQ(spec.tuning().lora().alpha(), 6);
  ASSERT_EQ(spec.tuning().lora().target_modules_size(), 1);
  EXPECT_EQ(spec.model().start_from().adapter(), "workspaces/default/models/base/adapters/tickets");
  const std::string version = "workspaces/default/filesets/tickets/versions/1";
  EXPECT_EQ(spec.model().start_from().fileset_version(), version);
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::vector<FileserviceLink::PinInfo> pins, files_.ListPins());
  EXPECT_TRUE(std::any_of(pins.begin(), pins.end(), [&](const auto& pin) {
    return pin.version == version && pin.holder == job.name();
  }));
  const agent::DesiredAttempt attempt = Train();
  ASSERT_EQ(attempt.inputs_size(), 3);
  EXPECT_EQ(attempt.inputs(2).key(), "start");
  EXPECT_EQ(attempt.inputs(2).version(), version);
  EXPECT_NE(attempt.run_json().find(R"("start_from":"${inputs.start}")"), std::string::npos);
  Complete(job);

  const auto best =
      start([&](v1::StartFrom& from) { from.set_checkpoint(first.name() + "/checkpoints/best"); },
            "best");
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, best, job), IsOk());
  EXPECT_EQ(job.resolved_spec().model().start_from().checkpoint(),
            first.name() + "/checkpoints/10");
  EXPECT_EQ(Train().inputs(2).version(),
            "workspaces/default/filesets/tickets-1-checkpoints/versions/1");
  Complete(job);

  // A fork goes on with everything, or with the weights where the rest is of no use.
  v1::ForkJobRequest fork;
  fork.set_name(first.name());
  fork.set_job_id("fork");
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ForkJob, fork, job), IsOk());
  EXPECT_TRUE(job.resolved_spec().model().start_from().with_optimizer_state());
  const agent::DesiredAttempt forked = Train();
  EXPECT_EQ(forked.inputs(2).key(), "checkpoint");
  EXPECT_EQ(forked.run_json().find("start_from"), std::string::npos);
  Complete(job);
  fork.set_job_id("fork-2");
  fork.set_from("10");
  fork.mutable_spec()->mutable_optimizer()->set_learning_rate(1e-5);
  fork.mutable_update_mask()->add_paths("optimizer.learning_rate");
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ForkJob, fork, job), IsOk());
  EXPECT_FALSE(job.resolved_spec().model().start_from().with_optimizer_state());
  EXPECT_EQ(Train().inputs(2).key(), "start");
  Complete(job);

  const auto refusal = [&](v1::CreateJobRequest create) {
    const absl::Status status = Call(*jobs_, &v1::JobService::Stub::CreateJob, create, job);
    const auto details = rpc::ReadErrorDetails(status);
    return details.fields.empty() ? status.ToString() : details.fields[0].field;
  };
  v1::CreateJobRequest other = adapter;
  v1::JobSpec& changed = *other.mutable_job()->mutable_spec();
  other.set_job_id("other");
  changed.mutable_tuning()->mutable_lora()->set_rank(8);
  EXPECT_EQ(refusal(other), "spec.tuning.lora.rank");
  changed.mutable_tuning()->Clear();
  changed.mutable_tuning()->set_type(v1::FINETUNING_TYPE_ALL_WEIGHTS);
  EXPECT_EQ(refusal(other), "spec.tuning.type");
  changed.mutable_tuning()->Clear();
  changed.mutable_model()->mutable_start_from()->set_with_optimizer_state(true);
  EXPECT_EQ(refusal(other), "spec.model.start_from");
  changed.mutable_model()->mutable_start_from()->Clear();
  EXPECT_EQ(refusal(other), "spec.model.start_from");
  changed.mutable_model()->mutable_start_from()->set_adapter(
      "workspaces/default/models/base/adapters/absent");
  EXPECT_EQ(refusal(other), "spec.model.start_from");
  fork.set_job_id("fork-3");
  fork.set_with_optimizer_state(true);
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::ForkJob, fork, job),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("spec.optimizer.learning_rate is not that of")));
}

TEST_F(RealPathTest, BadRowsFailTheJobBeforeAnyDeviceIsTaken) {
  RegisterWorker();
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(), job), IsOk());
  const agent::SynchronizeResponse desired = worker_->Sync();
  ASSERT_EQ(desired.attempts_size(), 1);
  EXPECT_EQ(desired.attempts(0).kind(), agent::DesiredAttempt::KIND_VALIDATE);
  EXPECT_EQ(desired.attempts(0).local_ranks_size(), 0);
  auto& actual = *worker_->report().add_attempts();
  actual.set_attempt(desired.attempts(0).attempt());
  actual.set_state(agent::ActualAttempt::STATE_FAILED);
  actual.set_message("training.jsonl:3:1: expected an object");
  worker_->Sync();
  v1::GetJobRequest get;
  get.set_name(job.name());
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::GetJob, get, job), IsOk());
  EXPECT_EQ(job.status().state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(job.status().message(), "training.jsonl:3:1: expected an object");
}

TEST_F(RealPathTest, ADeviceThatBreaksWhileItsWorkerRunsIsGivenToNobodyUntilItIsWell) {
  RegisterWorker();
  agent::Inventory inventory = worker_->introduction().inventory();
  inventory.mutable_devices(0)->set_health(v1::Device::HEALTH_FAULTY);
  *worker_->report().mutable_inventory() = inventory;
  worker_->Sync();
  worker_->report().clear_inventory();
  v1::GetNodeRequest get;
  get.set_name("nodes/n0");
  v1::Node node;
  const auto nodes = v1::NodeService::NewStub(channel_);
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::GetNode, get, node), IsOk());
  EXPECT_EQ(node.devices(0).health(), v1::Device::HEALTH_FAULTY);
  v1::Job job;
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(), job),
              StatusIs(absl::StatusCode::kInvalidArgument))
      << "no device could ever carry it";
  inventory.mutable_devices(0)->set_health(v1::Device::HEALTH_OK);
  *worker_->report().mutable_inventory() = inventory;
  worker_->Sync();
  worker_->report().clear_inventory();
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(), job), IsOk());
  EXPECT_EQ(worker_->Sync().attempts_size(), 1);
}

TEST_F(RealPathTest, ANodeTellsWhoHoldsItsDevicesAndWhenItIsDrained) {
  RegisterWorker();
  const auto nodes = v1::NodeService::NewStub(channel_);
  const auto look = [&] {
    v1::GetNodeRequest get;
    get.set_name("nodes/n0");
    v1::Node node;
    EXPECT_THAT(Call(*nodes, &v1::NodeService::Stub::GetNode, get, node), IsOk());
    return node;
  };
  v1::DrainNodeRequest drain;
  drain.set_name("nodes/n0");
  v1::Node node;
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::DrainNode, drain, node), IsOk());
  EXPECT_EQ(node.drain().state(), v1::Drain::STATE_DRAINED) << "nothing ran there";
  v1::UncordonNodeRequest uncordon;
  uncordon.set_name("nodes/n0");
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::UncordonNode, uncordon, node), IsOk());

  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(), job), IsOk());
  EXPECT_EQ(look().devices(0).attempt(), "") << "rows are read on no device";
  SyncUntil([](const auto& response) {
    return response.attempts_size() == 1 &&
           response.attempts(0).kind() != agent::DesiredAttempt::KIND_VALIDATE;
  });
  EXPECT_EQ(look().devices(0).attempt(), "workspaces/default/jobs/tickets-1/attempts/2");
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::DrainNode, drain, node), IsOk());
  EXPECT_EQ(node.drain().state(), v1::Drain::STATE_DRAINING);
  EXPECT_EQ(look().drain().attempts_left(), 1);
  worker_->report().mutable_attempts(0)->set_state(agent::ActualAttempt::STATE_ENDED);
  SyncUntil([](const auto& response) { return response.attempts_size() == 0; });
  EXPECT_EQ(look().drain().state(), v1::Drain::STATE_DRAINED);
  EXPECT_EQ(look().devices(0).attempt(), "");
}

TEST_F(RealPathTest, AnAttemptThatMovesIsClosedWhenItsSuccessorStartsAtOnce) {
  RegisterWorker();
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(), job), IsOk());
  SyncUntil([](const auto& response) {
    return response.attempts_size() == 1 &&
           response.attempts(0).kind() != agent::DesiredAttempt::KIND_VALIDATE;
  });
  TestWorker other(channel_, "n1");
  other.Register();
  const auto nodes = v1::NodeService::NewStub(channel_);
  v1::DrainNodeRequest drain;
  drain.set_name("nodes/n0");
  v1::Node node;
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::DrainNode, drain, node), IsOk());
  worker_->report().mutable_attempts(0)->set_state(agent::ActualAttempt::STATE_ENDED);
  SyncUntil([](const auto& response) { return response.attempts_size() == 0; });
  v1::ListAttemptsRequest list;
  list.set_parent(job.name());
  v1::ListAttemptsResponse tried;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ListAttempts, list, tried), IsOk());
  ASSERT_EQ(tried.attempts_size(), 2);
  EXPECT_EQ(tried.attempts(0).ranks(0).device_uuid(), "cpu-n1-0");
  EXPECT_EQ(tried.attempts(1).state(), v1::Attempt::STATE_ENDED);
  EXPECT_TRUE(tried.attempts(1).has_end_time());
  EXPECT_THAT(tried.attempts(1).message(), ::testing::HasSubstr("goes on as attempt 3"));
}

TEST_F(RealPathTest, EveryViolationIsAnsweredAtOnce) {
  v1::CreateJobRequest request = NewJob();
  auto& spec = *request.mutable_job()->mutable_spec();
  spec.mutable_tuning()->mutable_lora()->set_rank(0);
  spec.mutable_parallelism()->set_tensor_parallel_size(2);
  spec.mutable_dataset()->mutable_training(0)->set_fileset("workspaces/default/filesets/absent");
  v1::Job job;
  const absl::Status status = Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(rpc::ReadErrorDetails(status).fields.size(), 3) << rpc::DescribeError(status);
}

TEST_F(RealPathTest, AWaitingJobExplainsItself) {
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(), job), IsOk());
  v1::ExplainJobRequest request;
  request.set_name(job.name());
  v1::Explanation explanation;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ExplainJob, request, explanation), IsOk());
  ASSERT_GT(explanation.causes_size(), 0);
  EXPECT_EQ(explanation.causes(0).code(), v1::Explanation::CODE_VALIDATION);
}

}  // namespace
}  // namespace graft::scheduler
