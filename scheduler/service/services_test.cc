// What the services promise of resources, over real gRPC.
#include "graft/v1/auth.grpc.pb.h"
#include "graft/v1/event.grpc.pb.h"
#include "graft/v1/queue.grpc.pb.h"
#include "graft/v1/secret.grpc.pb.h"
#include "graft/v1/server.grpc.pb.h"
#include "graft/v1/template.grpc.pb.h"
#include "graft/v1/usage.grpc.pb.h"
#include "graft/v1/workspace.grpc.pb.h"
#include "scheduler/service/secret_service.h"
#include "scheduler/service/testing/test_server.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::Empty;
using ::testing::HasSubstr;
using ::testing::Test;

std::string ReasonOf(const absl::Status& status) { return rpc::ReadErrorDetails(status).reason; }

// --- Lists ---

class ListTest : public ServiceTest {
 protected:
  v1::ListJobsResponse List(const std::string& filter, const std::string& order = "", int size = 0,
                            const std::string& token = "") {
    v1::ListJobsRequest request;
    request.set_parent("workspaces/-");
    request.set_filter(filter);
    request.set_order_by(order);
    request.set_page_size(size);
    request.set_page_token(token);
    v1::ListJobsResponse response;
    status_ = Call(*jobs_, &v1::JobService::Stub::ListJobs, request, response);
    return response;
  }
  static std::string Ids(const v1::ListJobsResponse& response) {
    std::string ids;
    for (const v1::Job& job : response.jobs()) {
      absl::StrAppend(&ids, ids.empty() ? "" : " ", job.name().substr(job.name().rfind('/') + 1));
    }
    return ids;
  }
  absl::Status status_;
};

TEST_F(ListTest, NewestFirstByDefaultAndAsAskedOtherwise) {
  for (const char* id : {"bb", "cc", "aa"}) MakeJob(id);
  EXPECT_EQ(Ids(List("")), "aa cc bb");
  EXPECT_EQ(Ids(List("", "name")), "aa bb cc");
  EXPECT_EQ(Ids(List("", "name desc")), "cc bb aa");
  List("", "color");
  EXPECT_THAT(status_, StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(ListTest, FiltersCountInThePageAndNotBehindIt) {
  for (int i = 0; i < 30; ++i) {
    v1::CreateJobRequest request = NewJob(absl::StrCat("job-", 10 + i));
    (*request.mutable_job()->mutable_labels())["team"] = i % 10 == 0 ? "search" : "ads";
    v1::Job job;
    ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
  }
  const v1::ListJobsResponse first = List("labels.team = search", "", 2);
  EXPECT_EQ(Ids(first), "job-30 job-20");
  ASSERT_FALSE(first.next_page_token().empty());
  const auto second = List("labels.team = search", "", 2, first.next_page_token());
  EXPECT_EQ(Ids(second), "job-10");
  EXPECT_EQ(second.next_page_token(), "");
  EXPECT_EQ(second.revision(), first.revision());
  const v1::ListJobsResponse ordered = List("labels.team = search", "name", 2);
  EXPECT_EQ(Ids(ordered), "job-10 job-20");
  EXPECT_EQ(Ids(List("labels.team = search", "name", 2, ordered.next_page_token())), "job-30");
  List("labels.team = ads", "", 2, first.next_page_token());
  EXPECT_EQ(ReasonOf(status_), "PAGE_TOKEN_INVALID") << "a token belongs to its query";
  EXPECT_EQ(List("status.state = QUEUED AND method = SFT AND tuning = LORA").jobs_size(), 30);
  List("colour = red");
  EXPECT_EQ(ReasonOf(status_), "FILTER_INVALID");
}

TEST_F(ListTest, ReadMasksLimitWhatIsShown) {
  MakeJob("aa");
  v1::GetJobRequest request;
  request.set_name("workspaces/default/jobs/aa");
  request.mutable_read_mask()->add_paths("status.state");
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::GetJob, request, job), IsOk());
  EXPECT_EQ(job.status().state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(job.name(), "");
  EXPECT_FALSE(job.has_spec());
  request.mutable_read_mask()->add_paths("colour");
  EXPECT_EQ(ReasonOf(Call(*jobs_, &v1::JobService::Stub::GetJob, request, job)),
            "FIELD_MASK_INVALID");
}

TEST_F(ListTest, DeletedJobsAreShownWhenAskedFor) {
  MakeJob("aa");
  MakeJob("bb");
  v1::DeleteJobRequest gone;
  gone.set_name("workspaces/default/jobs/aa");
  Empty empty;
  EXPECT_EQ(ReasonOf(Call(*jobs_, &v1::JobService::Stub::DeleteJob, gone, empty)),
            "STATE_CONFLICT");
  gone.set_force(true);
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::DeleteJob, gone, empty), IsOk());
  EXPECT_EQ(Ids(List("")), "bb");
  v1::ListJobsRequest request;
  request.set_parent("workspaces/default");
  request.set_show_deleted(true);
  v1::ListJobsResponse response;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ListJobs, request, response), IsOk());
  EXPECT_EQ(Ids(response), "bb aa");
  EXPECT_TRUE(response.jobs(1).has_delete_time());
}

TEST_F(ServiceTest, ANameThatIsNoneSaysWhichPartOfIt) {
  v1::GetJobRequest get;
  v1::Job job;
  get.set_name("workspaces/default/jobs/a");
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::GetJob, get, job),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'a' is no id: 2 to 63")));
  get.set_name("workspaces/default/models/aa");
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::GetJob, get, job),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("is no name of the form workspaces/*/jobs/*")));
}

// --- Secrets ---

TEST_F(ServiceTest, ASecretsValueIsSealedAndNeverAnswered) {
  const auto stub = v1::SecretService::NewStub(channel_);
  v1::CreateSecretRequest request;
  request.set_parent("workspaces/default");
  request.set_secret_id("hub");
  request.set_request_id("r1");
  request.mutable_secret()->set_value("hf_very_secret");
  v1::Secret secret;
  ASSERT_THAT(Call(*stub, &v1::SecretService::Stub::CreateSecret, request, secret), IsOk());
  EXPECT_EQ(secret.value(), "");
  for (const Family family : {Family::kRecords, Family::kIdempotency, Family::kAudit}) {
    GRAFT_ASSERT_OK_AND_ASSIGN(const ListResult all, store_.List({.family = family}));
    for (const Record& record : all.records) {
      EXPECT_EQ(record.value.find("hf_very_secret"), std::string::npos) << record.key;
    }
  }
  const std::string key(32, 'd');
  GRAFT_ASSERT_OK_AND_ASSIGN(std::string opened, OpenSecret(store_, key, secret.name()));
  EXPECT_EQ(opened, "hf_very_secret");

  v1::UpdateSecretRequest update;
  update.mutable_secret()->set_name(secret.name());
  update.mutable_secret()->set_value("rotated");
  ASSERT_THAT(Call(*stub, &v1::SecretService::Stub::UpdateSecret, update, secret), IsOk());
  // The first create, answered again, must not bring the old value back.
  ASSERT_THAT(Call(*stub, &v1::SecretService::Stub::CreateSecret, request, secret), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(opened, OpenSecret(store_, key, secret.name()));
  EXPECT_EQ(opened, "rotated");
  request.mutable_secret()->set_value("another");
  const absl::Status reused = Call(*stub, &v1::SecretService::Stub::CreateSecret, request, secret);
  EXPECT_EQ(ReasonOf(reused), "REQUEST_ID_REUSED");
  EXPECT_EQ(rpc::ReadErrorDetails(reused).metadata.at("field"), "secret.value");
}

// --- Templates ---

class TemplateTest : public ServiceTest {
 protected:
  void SetUp() override {
    ServiceTest::SetUp();
    stub_ = v1::TemplateService::NewStub(channel_);
    v1::CreateTemplateRequest request;
    request.set_parent("workspaces/default");
    request.set_template_id("small");
    auto& version = *request.mutable_first_version();
    version.mutable_preset()->mutable_tuning()->mutable_lora()->set_rank(8);
    version.mutable_preset()->mutable_schedule()->set_epochs(2);
    version.mutable_limits()->set_max_lora_rank(32);
    version.mutable_limits()->set_max_gpus(2);
    version.mutable_limits()->add_locked_fields("optimizer.learning_rate");
    v1::Template made;
    ASSERT_THAT(Call(*stub_, &v1::TemplateService::Stub::CreateTemplate, request, made), IsOk());
    EXPECT_EQ(made.latest_version(), 1);
  }
  absl::Status Create(v1::CreateJobRequest request, v1::Job& job) {
    return Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job);
  }
  std::unique_ptr<v1::TemplateService::Stub> stub_;
};

TEST_F(TemplateTest, AJobTakesWhatItLeavesOutFromItsTemplate) {
  v1::CreateJobRequest request = NewJob("aa");
  request.mutable_job()->mutable_spec()->set_template_(
      "workspaces/default/templates/small/versions/1");
  request.mutable_job()->mutable_spec()->mutable_schedule()->set_epochs(3);
  v1::Job job;
  ASSERT_THAT(Create(request, job), IsOk());
  EXPECT_EQ(job.resolved_spec().tuning().lora().rank(), 8);
  EXPECT_EQ(job.resolved_spec().schedule().epochs(), 3);
}

TEST_F(TemplateTest, ATemplateWithoutVersionIsRefusedWithTheValidOnes) {
  v1::CreateJobRequest request = NewJob("aa");
  request.mutable_job()->mutable_spec()->set_template_("workspaces/default/templates/small");
  v1::Job job;
  const absl::Status status = Create(request, job);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(ReasonOf(status), "TEMPLATE_VERSION_MISSING");
  EXPECT_NE(status.message().find("Version is not specified in the config URN"),
            absl::string_view::npos);
  EXPECT_NE(status.message().find("workspaces/default/templates/small/versions/1"),
            absl::string_view::npos);
}

TEST_F(TemplateTest, ValuesOutsideAreRefusedByField) {
  v1::CreateJobRequest request = NewJob("aa");
  auto& spec = *request.mutable_job()->mutable_spec();
  spec.set_template_("workspaces/default/templates/small/versions/1");
  spec.mutable_tuning()->mutable_lora()->set_rank(64);
  spec.mutable_optimizer()->set_learning_rate(1e-3);
  spec.mutable_parallelism()->set_gpus_per_node(8);
  v1::Job job;
  const absl::Status status = Create(request, job);
  std::set<std::string> fields;
  for (const auto& field : rpc::ReadErrorDetails(status).fields) fields.insert(field.field);
  EXPECT_EQ(fields, (std::set<std::string>{"spec.optimizer.learning_rate", "spec.parallelism",
                                           "spec.tuning.lora.rank"}));
}

TEST_F(TemplateTest, VersionsAreImmutableAndDeprecatedOnesNoLongerTaken) {
  v1::CreateTemplateVersionRequest add;
  add.set_parent("workspaces/default/templates/small");
  add.mutable_template_version()->mutable_preset()->mutable_schedule()->set_epochs(5);
  v1::TemplateVersion version;
  ASSERT_THAT(Call(*stub_, &v1::TemplateService::Stub::CreateTemplateVersion, add, version),
              IsOk());
  EXPECT_EQ(version.name(), "workspaces/default/templates/small/versions/2");
  v1::DeprecateTemplateVersionRequest deprecate;
  deprecate.set_name("workspaces/default/templates/small/versions/1");
  ASSERT_THAT(
      Call(*stub_, &v1::TemplateService::Stub::DeprecateTemplateVersion, deprecate, version),
      IsOk());
  v1::CreateJobRequest request = NewJob("aa");
  request.mutable_job()->mutable_spec()->set_template_(deprecate.name());
  v1::Job job;
  EXPECT_EQ(ReasonOf(Create(request, job)), "TEMPLATE_VIOLATION");
}

// --- Events and audit ---

TEST_F(ServiceTest, EventsTellWhatHappenedAndTheAuditChainIsWhole) {
  MakeJob("aa");
  v1::CancelJobRequest cancel;
  cancel.set_name("workspaces/default/jobs/aa");
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CancelJob, cancel, job), IsOk());
  const auto stub = v1::EventService::NewStub(channel_);
  v1::ListEventsRequest request;
  request.set_parent("workspaces/default/jobs/aa");
  v1::ListEventsResponse events;
  ASSERT_THAT(Call(*stub, &v1::EventService::Stub::ListEvents, request, events), IsOk());
  std::string types;
  for (const v1::Event& event : events.events()) absl::StrAppend(&types, event.type(), " ");
  EXPECT_EQ(types, "job.created job.queued job.cancelled ");
  EXPECT_EQ(events.events(0).actor(), "users/admin");
  request.set_filter("type = \"job.c*\"");
  ASSERT_THAT(Call(*stub, &v1::EventService::Stub::ListEvents, request, events), IsOk());
  EXPECT_EQ(events.events_size(), 2);

  v1::VerifyAuditResponse verified;
  ASSERT_THAT(Call(*stub, &v1::EventService::Stub::VerifyAudit, v1::VerifyAuditRequest(), verified),
              IsOk());
  v1::ListAuditEntriesRequest audit;
  audit.set_filter("method = \"graft.v1.JobService/CancelJob\"");
  v1::ListAuditEntriesResponse entries;
  ASSERT_THAT(Call(*stub, &v1::EventService::Stub::ListAuditEntries, audit, entries), IsOk());
  ASSERT_EQ(entries.entries_size(), 1);
  EXPECT_EQ(entries.entries(0).actor(), "users/admin");
  EXPECT_GE(verified.checked(), entries.entries(0).sequence());
}

TEST_F(ServiceTest, AnEditedAuditEntryIsFound) {
  MakeJob("aa");
  GRAFT_ASSERT_OK_AND_ASSIGN(const Record record, store_.Get(Family::kAudit, BigEndian(1)));
  std::string edited = record.value;
  edited.back() = ' ';
  ASSERT_THAT(store_.Commit({.writes = {{Family::kAudit, BigEndian(1), edited}}}), IsOk());
  const auto stub = v1::EventService::NewStub(channel_);
  v1::VerifyAuditResponse verified;
  EXPECT_THAT(Call(*stub, &v1::EventService::Stub::VerifyAudit, v1::VerifyAuditRequest(), verified),
              StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(ServiceTest, AWatchOfEventsGoesOnWithoutAGap) {
  const auto stub = v1::EventService::NewStub(channel_);
  v1::WatchEventsRequest request;
  request.set_parent("workspaces/default");
  request.set_revision(store_.revision());
  MakeJob("aa");
  grpc::ClientContext context;
  auto stream = stub->WatchEvents(&context, request);
  v1::WatchEventsResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.events(0).type(), "job.created");
  const int64_t first = response.revision();
  MakeJob("bb");
  do {
    ASSERT_TRUE(stream->Read(&response));
  } while (response.events(0).resource() != "workspaces/default/jobs/bb");
  EXPECT_GT(response.revision(), first);
  context.TryCancel();
}

TEST_F(ServiceTest, AWatchFromACompactedRevisionIsToldToListAgain) {
  MakeJob("aa");
  ASSERT_THAT(store_.Compact(store_.revision()), IsOk());
  MakeJob("bb");
  v1::WatchJobsRequest request;
  request.set_parent("workspaces/default");
  request.set_revision(1);
  grpc::ClientContext context;
  auto stream = jobs_->WatchJobs(&context, request);
  v1::WatchJobsResponse response;
  EXPECT_FALSE(stream->Read(&response));
  const absl::Status status = rpc::FromGrpcStatus(stream->Finish());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_EQ(ReasonOf(status), "REVISION_COMPACTED");
}

// --- Jobs ---

TEST_F(ServiceTest, PriorityAndLimitOfAJobMayChangeAndNothingElseOfItsSpec) {
  MakeJob("aa");
  v1::UpdateJobRequest request;
  request.mutable_job()->set_name("workspaces/default/jobs/aa");
  request.mutable_job()->mutable_spec()->mutable_resources()->set_priority(7);
  request.mutable_update_mask()->add_paths("spec.resources.priority");
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::UpdateJob, request, job), IsOk());
  EXPECT_EQ(job.resolved_spec().resources().priority(), 7);
  request.mutable_update_mask()->set_paths(0, "spec.tuning");
  EXPECT_EQ(ReasonOf(Call(*jobs_, &v1::JobService::Stub::UpdateJob, request, job)),
            "FIELD_MASK_INVALID");
}

TEST_F(ServiceTest, AForkTakesTheSpecAndTheChanges) {
  const v1::Job first = MakeJob("aa");
  v1::ForkJobRequest request;
  request.set_name(first.name());
  request.set_job_id("bb");
  request.mutable_spec()->mutable_tuning()->mutable_lora()->set_rank(4);
  request.mutable_update_mask()->add_paths("tuning.lora.rank");
  v1::Job job;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ForkJob, request, job), IsOk());
  EXPECT_EQ(job.forked_from(), first.name());
  EXPECT_EQ(job.resolved_spec().tuning().lora().rank(), 4);
  EXPECT_EQ(job.resolved_spec().schedule().seed(), first.resolved_spec().schedule().seed());
  EXPECT_NE(job.resolved_spec().output().name(), first.resolved_spec().output().name());
  request.set_job_id("cc");
  request.set_from("17");
  EXPECT_EQ(ReasonOf(Call(*jobs_, &v1::JobService::Stub::ForkJob, request, job)),
            "REFERENCE_NOT_FOUND");
}

TEST_F(ServiceTest, OnlyARunningJobCanBeAskedForACheckpointOrToFinish) {
  MakeJob("aa");
  v1::CheckpointJobRequest checkpoint;
  checkpoint.set_name("workspaces/default/jobs/aa");
  v1::Job job;
  EXPECT_EQ(ReasonOf(Call(*jobs_, &v1::JobService::Stub::CheckpointJob, checkpoint, job)),
            "STATE_CONFLICT");
  v1::FinishJobRequest finish;
  finish.set_name("workspaces/default/jobs/aa");
  EXPECT_EQ(ReasonOf(Call(*jobs_, &v1::JobService::Stub::FinishJob, finish, job)),
            "STATE_CONFLICT");
}

TEST_F(ServiceTest, AClosedQueueTakesNoJobs) {
  const auto queues = v1::QueueService::NewStub(channel_);
  v1::UpdateQueueRequest close;
  close.mutable_queue()->set_name("queues/default");
  close.mutable_queue()->set_state(v1::Queue::STATE_CLOSED);
  v1::Queue queue;
  ASSERT_THAT(Call(*queues, &v1::QueueService::Stub::UpdateQueue, close, queue), IsOk());
  v1::Job job;
  EXPECT_EQ(ReasonOf(Call(*jobs_, &v1::JobService::Stub::CreateJob, NewJob("aa"), job)),
            "QUEUE_CLOSED");
}

TEST_F(ServiceTest, AnIdlePolicyOutOfBoundsIsNotKept) {
  const auto queues = v1::QueueService::NewStub(channel_);
  v1::UpdateQueueRequest request;
  request.mutable_queue()->set_name("queues/default");
  request.mutable_queue()->mutable_idle_policy()->set_min_utilisation(5);
  v1::Queue queue;
  EXPECT_THAT(
      Call(*queues, &v1::QueueService::Stub::UpdateQueue, request, queue),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("queue.idle_policy.min_utilisation")));
  request.mutable_queue()->mutable_idle_policy()->set_min_utilisation(0.1);
  EXPECT_THAT(Call(*queues, &v1::QueueService::Stub::UpdateQueue, request, queue), IsOk());
}

TEST_F(ServiceTest, AQueueShowsWhatWaitsInItPageByPage) {
  // The place of the job, asked for until it is as expected or ten seconds have gone.
  const auto place_soon = [&](const std::string& id, int64_t expected) {
    v1::GetJobRequest get;
    get.set_name(absl::StrCat("workspaces/default/jobs/", id));
    v1::Job job;
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    do {
      EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::GetJob, get, job), IsOk());
    } while (job.status().queue_position() != expected && absl::Now() < deadline);
    return job.status().queue_position();
  };

  const auto queues = v1::QueueService::NewStub(channel_);
  for (const char* id : {"a1", "a2", "a3"}) MakeJob(id);
  v1::GetQueueRequest get;
  get.set_name("queues/default");
  v1::Queue queue;
  ASSERT_THAT(Call(*queues, &v1::QueueService::Stub::GetQueue, get, queue), IsOk());
  EXPECT_EQ(queue.status().queued_jobs(), 3);
  EXPECT_EQ(queue.status().devices_wanted(), 3);
  v1::ListQueueEntriesRequest list;
  list.set_parent("queues/default");
  list.set_page_size(2);
  v1::ListQueueEntriesResponse page;
  ASSERT_THAT(Call(*queues, &v1::QueueService::Stub::ListQueueEntries, list, page), IsOk());
  ASSERT_EQ(page.entries_size(), 2);
  EXPECT_EQ(page.entries(0).job(), "workspaces/default/jobs/a1");
  list.set_page_token(page.next_page_token());
  ASSERT_THAT(Call(*queues, &v1::QueueService::Stub::ListQueueEntries, list, page), IsOk());
  ASSERT_EQ(page.entries_size(), 1);
  EXPECT_EQ(page.entries(0).position(), 3);
  EXPECT_EQ(page.next_page_token(), "");

  EXPECT_EQ(place_soon("a3", 3), 3);
  EXPECT_EQ(place_soon("a1", 1), 1);
  v1::CancelJobRequest cancel;
  cancel.set_name("workspaces/default/jobs/a2");
  v1::Job cancelled;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CancelJob, cancel, cancelled), IsOk());
  EXPECT_EQ(place_soon("a3", 2), 2);
  EXPECT_EQ(place_soon("a2", 0), 0);

  list.set_parent("queues/none");
  EXPECT_THAT(Call(*queues, &v1::QueueService::Stub::ListQueueEntries, list, page),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("queues/none")));
}

TEST_F(ServiceTest, AQueuesNodesAreThoseOfItsNewJobs) {
  const auto queues = v1::QueueService::NewStub(channel_);
  v1::UpdateQueueRequest update;
  update.mutable_queue()->set_name("queues/default");
  (*update.mutable_queue()->mutable_node_selector())["pool"] = "a";
  v1::Queue queue;
  ASSERT_THAT(Call(*queues, &v1::QueueService::Stub::UpdateQueue, update, queue), IsOk());
  EXPECT_EQ(MakeJob("in").resolved_spec().resources().node_selector().at("pool"), "a");
  v1::CreateJobRequest other = NewJob("out");
  (*other.mutable_job()->mutable_spec()->mutable_resources()->mutable_node_selector())["pool"] =
      "b";
  v1::Job job;
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, other, job),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("pool=b")));
}

// --- Workspaces and access ---

TEST_F(ServiceTest, AWorkspaceIsDeletedWithWhatIsInIt) {
  const auto stub = v1::WorkspaceService::NewStub(channel_);
  v1::CreateWorkspaceRequest create;
  create.set_workspace_id("lab");
  v1::Workspace workspace;
  ASSERT_THAT(Call(*stub, &v1::WorkspaceService::Stub::CreateWorkspace, create, workspace), IsOk());
  v1::CreateProjectRequest project;
  project.set_parent("workspaces/lab");
  project.set_project_id("pp");
  v1::Project made;
  ASSERT_THAT(Call(*stub, &v1::WorkspaceService::Stub::CreateProject, project, made), IsOk());
  AddModel("lab", "base");

  v1::DeleteWorkspaceRequest remove;
  remove.set_name("workspaces/lab");
  remove.set_validate_only(true);
  v1::DeleteWorkspaceResponse response;
  ASSERT_THAT(Call(*stub, &v1::WorkspaceService::Stub::DeleteWorkspace, remove, response), IsOk());
  EXPECT_EQ(response.counts().at("projects"), 1);
  EXPECT_EQ(response.counts().at("models"), 1);
  remove.set_validate_only(false);
  EXPECT_EQ(ReasonOf(Call(*stub, &v1::WorkspaceService::Stub::DeleteWorkspace, remove, response)),
            "RESOURCE_IN_USE");
  remove.set_force(true);
  ASSERT_THAT(Call(*stub, &v1::WorkspaceService::Stub::DeleteWorkspace, remove, response), IsOk());
  // Its end is an event; a watch from before sees it.
  const auto events = v1::EventService::NewStub(channel_);
  v1::WatchEventsRequest watch;
  watch.set_parent("workspaces/-");
  watch.set_filter("type = \"workspace.gone\"");
  watch.set_revision(1);
  grpc::ClientContext context;
  auto stream = events->WatchEvents(&context, watch);
  v1::WatchEventsResponse gone;
  ASSERT_TRUE(stream->Read(&gone));
  context.TryCancel();
  EXPECT_FALSE(store_.Get(Family::kRecords, "workspace/lab").ok());
  EXPECT_FALSE(store_.Get(Family::kRecords, ModelRecordKey("lab", "base")).ok());
  MutexLock lock(files_.mu);
  EXPECT_EQ(files_.emptied.count("workspaces/lab"), 1);
}

TEST_F(ServiceTest, TheLastAdministratorCannotGo) {
  const auto stub = v1::AccessService::NewStub(channel_);
  v1::DeleteUserRequest gone;
  gone.set_name("users/admin");
  Empty empty;
  EXPECT_EQ(ReasonOf(Call(*stub, &v1::AccessService::Stub::DeleteUser, gone, empty)), "LAST_ADMIN");
  v1::UpdateUserRequest disable;
  disable.mutable_user()->set_name("users/admin");
  disable.mutable_user()->set_disabled(true);
  v1::User user;
  EXPECT_EQ(ReasonOf(Call(*stub, &v1::AccessService::Stub::UpdateUser, disable, user)),
            "LAST_ADMIN");
  v1::DeleteRoleBindingRequest binding;
  binding.set_name("roleBindings/admin-cluster");
  EXPECT_EQ(ReasonOf(Call(*stub, &v1::AccessService::Stub::DeleteRoleBinding, binding, empty)),
            "LAST_ADMIN");
}

TEST_F(ServiceTest, EveryServiceOfTheSchedulerIsTold) {
  v1::ServerInfo info;
  const auto stub = v1::ServerService::NewStub(channel_);
  ASSERT_THAT(
      Call(*stub, &v1::ServerService::Stub::GetServerInfo, v1::GetServerInfoRequest(), info),
      IsOk());
  std::map<std::string, bool> features;
  for (const auto& feature : info.features()) features[feature.name()] = feature.available();
  EXPECT_TRUE(features.at("secrets"));
  EXPECT_FALSE(features.at("evaluation"));
}

}  // namespace
}  // namespace graft::scheduler
