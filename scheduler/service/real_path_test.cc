// The whole way of a job over real gRPC: created by a client, placed on a worker that speaks the
// agent protocol, run, measured, completed, and its adapter there. The fileservice and the worker's
// ranks are stand-ins.
#include <grpcpp/grpcpp.h>

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

  std::unique_ptr<v1::ModelService::Stub> models_;
  std::unique_ptr<TestWorker> worker_;
  bool rows_first_ = true;
};

TEST_F(RealPathTest, AJobRunsOnAWorkerAndItsAdapterAppearsUnderTheBase) {
  RegisterWorker();
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(), job), IsOk());
  EXPECT_EQ(job.resolved_spec().tuning().lora().rank(), 16);
  EXPECT_EQ(job.resolved_spec().dataset().training(0).fileset(),
            "workspaces/default/filesets/rows/versions/1");
  ASSERT_EQ(files_.pins.size(), 1);
  EXPECT_EQ(files_.pins[0].version, "workspaces/default/filesets/rows/versions/1");
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
  ASSERT_TRUE(stream->Write(push));
  agent::PushEventsResponse ack;
  ASSERT_TRUE(stream->Read(&ack));
  EXPECT_EQ(ack.acks(0).sequence(), 1);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  v1::QueryMetricsRequest query;
  query.set_name(job.name());
  v1::QueryMetricsResponse metrics;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::QueryMetrics, query, metrics), IsOk());
  ASSERT_EQ(metrics.series_size(), 1);
  EXPECT_EQ(metrics.series(0).points(0).value(), 2.5);

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
