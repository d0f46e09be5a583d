// What someone with a token of his own, or with another's, may try at the scheduler's door.
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/json.h"
#include "graft/v1/auth.grpc.pb.h"
#include "graft/v1/event.grpc.pb.h"
#include "graft/v1/node.grpc.pb.h"
#include "graft/v1/queue.grpc.pb.h"
#include "scheduler/service/testing/generic_call.h"
#include "scheduler/service/testing/test_server.h"
#include "scheduler/service/testing/test_worker.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using rpc::Role;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kDenied = absl::StatusCode::kPermissionDenied;
constexpr absl::StatusCode kUnauthenticated = absl::StatusCode::kUnauthenticated;

class AttackTest : public ServiceTest {
 protected:
  void SetUp() override {
    Start(false);
    access_ = v1::AccessService::NewStub(channel_);
    auth_ = v1::AuthService::NewStub(channel_);
    admin_ = Exchange(server_->first_token());
  }
  std::string Exchange(const std::string& token) {
    v1::ExchangeResponse response;
    EXPECT_THAT(TryExchange(token, response), IsOk());
    return response.access_token();
  }
  absl::Status TryExchange(const std::string& token, v1::ExchangeResponse& response) {
    v1::ExchangeRequest request;
    request.set_token(token);
    return Call(*auth_, &v1::AuthService::Stub::Exchange, request, response);
  }
  void AddUser(const std::string& id) {
    v1::CreateUserRequest request;
    request.set_user_id(id);
    v1::User user;
    ASSERT_THAT(Call(*access_, &v1::AccessService::Stub::CreateUser, request, user, admin_),
                IsOk());
  }
  void Give(const std::string& user, v1::Role role) {
    v1::CreateRoleBindingRequest request;
    request.mutable_role_binding()->set_member(absl::StrCat("users/", user));
    request.mutable_role_binding()->mutable_grant()->set_resource("workspaces/default");
    request.mutable_role_binding()->mutable_grant()->set_role(role);
    ASSERT_THAT(
        Call(*access_, &v1::AccessService::Stub::CreateRoleBinding, request, binding_, admin_),
        IsOk());
  }
  absl::Status TryToken(const v1::CreateTokenRequest& request, const std::string& as,
                        v1::CreateTokenResponse& response) {
    return Call(*access_, &v1::AccessService::Stub::CreateToken, request, response, as);
  }
  // A token of the user with these grants in the workspace; none: all that the user has.
  v1::CreateTokenResponse NewToken(const std::string& user, std::optional<v1::Role> grant) {
    v1::CreateTokenRequest request;
    request.set_parent(absl::StrCat("users/", user));
    if (grant.has_value()) {
      v1::Grant& one = *request.mutable_token()->add_grants();
      one.set_resource("workspaces/default");
      one.set_role(*grant);
    }
    v1::CreateTokenResponse response;
    EXPECT_THAT(TryToken(request, admin_, response), IsOk());
    return response;
  }
  absl::Status ListJobs(const std::string& as) {
    v1::ListJobsRequest request;
    request.set_parent("workspaces/default");
    v1::ListJobsResponse response;
    return Call(*jobs_, &v1::JobService::Stub::ListJobs, request, response, as);
  }
  absl::Status Submit(const v1::CreateJobRequest& request, const std::string& as) {
    v1::Job job;
    return Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job, as);
  }

  std::unique_ptr<v1::AccessService::Stub> access_;
  std::unique_ptr<v1::AuthService::Stub> auth_;
  std::string admin_;
  v1::RoleBinding binding_;  // the last given
};

TEST_F(AttackTest, ARevokedTokensAccessEndsAtOnce) {
  AddUser("eve");
  Give("eve", v1::ROLE_USER);
  const v1::CreateTokenResponse made = NewToken("eve", std::nullopt);
  const std::string eve = Exchange(made.secret());
  ASSERT_THAT(ListJobs(eve), IsOk());
  v1::RevokeTokenRequest revoke;
  revoke.set_name(made.token().name());
  v1::Token token;
  ASSERT_THAT(Call(*access_, &v1::AccessService::Stub::RevokeToken, revoke, token, admin_), IsOk());
  EXPECT_THAT(ListJobs(eve), StatusIs(kUnauthenticated, HasSubstr("revoked")));
  v1::ExchangeResponse response;
  EXPECT_THAT(TryExchange(made.secret(), response), StatusIs(kUnauthenticated));
}

TEST_F(AttackTest, ADisabledOrDeletedUsersAccessEndsAtOnceAlsoAfterARestart) {
  AddUser("eve");
  AddUser("mal");
  Give("eve", v1::ROLE_USER);
  Give("mal", v1::ROLE_USER);
  const std::string eve = Exchange(NewToken("eve", std::nullopt).secret());
  const std::string mal = Exchange(NewToken("mal", std::nullopt).secret());
  ASSERT_THAT(ListJobs(eve), IsOk());
  v1::UpdateUserRequest update;
  update.mutable_user()->set_name("users/eve");
  update.mutable_user()->set_disabled(true);
  update.mutable_update_mask()->add_paths("disabled");
  v1::User user;
  ASSERT_THAT(Call(*access_, &v1::AccessService::Stub::UpdateUser, update, user, admin_), IsOk());
  EXPECT_THAT(ListJobs(eve), StatusIs(kDenied, HasSubstr("disabled")));
  v1::DeleteUserRequest remove;
  remove.set_name("users/mal");
  google::protobuf::Empty empty;
  ASSERT_THAT(Call(*access_, &v1::AccessService::Stub::DeleteUser, remove, empty, admin_), IsOk());
  EXPECT_THAT(ListJobs(mal), StatusIs(kUnauthenticated));
  server_.reset();
  Start(false);
  EXPECT_THAT(ListJobs(mal), StatusIs(kUnauthenticated)) << "what was never asked before";
}

TEST_F(AttackTest, ATakenRoleEndsWithItsBinding) {
  AddUser("eve");
  Give("eve", v1::ROLE_USER);
  const v1::CreateTokenResponse made = NewToken("eve", std::nullopt);
  const std::string eve = Exchange(made.secret());
  v1::DeleteRoleBindingRequest take;
  take.set_name(binding_.name());
  google::protobuf::Empty empty;
  ASSERT_THAT(Call(*access_, &v1::AccessService::Stub::DeleteRoleBinding, take, empty, admin_),
              IsOk());
  EXPECT_THAT(ListJobs(eve), StatusIs(kUnauthenticated, HasSubstr("roles of its user")));
  EXPECT_THAT(ListJobs(Exchange(made.secret())), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(AttackTest, ATokenForLessMakesNoneForMore) {
  AddUser("eve");
  Give("eve", v1::ROLE_OPERATOR);
  const std::string viewer = Exchange(NewToken("eve", v1::ROLE_VIEWER).secret());
  v1::CreateTokenRequest request;
  request.set_parent("users/me");
  v1::CreateTokenResponse response;
  EXPECT_THAT(TryToken(request, viewer, response), StatusIs(kDenied));
  v1::Grant& grant = *request.mutable_token()->add_grants();
  grant.set_resource("workspaces/default");
  grant.set_role(v1::ROLE_OPERATOR);
  EXPECT_THAT(TryToken(request, viewer, response), StatusIs(kDenied));
  grant.set_role(v1::ROLE_VIEWER);
  EXPECT_THAT(TryToken(request, viewer, response), IsOk());
}

TEST_F(AttackTest, AWorkersTokenOpensNothingButTheWorkersDoor) {
  TestWorker worker(channel_);
  worker.introduction().set_join_token([&] {
    v1::CreateJoinTokenResponse token;
    auto nodes = v1::NodeService::NewStub(channel_);
    EXPECT_THAT(Call(*nodes, &v1::NodeService::Stub::CreateJoinToken, v1::CreateJoinTokenRequest(),
                     token, admin_),
                IsOk());
    return token.token();
  }());
  ASSERT_THAT(worker.TryRegister(), IsOk());
  const std::string token = worker.registered().access_token();
  const auto& pool = *google::protobuf::DescriptorPool::generated_pool();
  GenericCaller caller(channel_);
  int refused = 0;
  for (const char* name : kContractServices) {
    const auto* service = pool.FindServiceByName(name);
    for (int i = 0; i < service->method_count(); ++i) {
      const auto& method = *service->method(i);
      GRAFT_ASSERT_OK_AND_ASSIGN(const rpc::AccessRule rule, rpc::AccessRuleOf(method));
      if (rule.scope != rpc::Scope::kCluster && rule.scope != rpc::Scope::kScheduler) continue;
      const absl::Status status = caller.Call(method, "", token, std::chrono::seconds(20));
      if (absl::IsUnimplemented(status)) continue;
      EXPECT_THAT(status, StatusIs(kDenied)) << method.full_name();
      ++refused;
    }
  }
  EXPECT_GT(refused, 15);
  EXPECT_THAT(ListJobs(token), Not(IsOk()));
}

TEST_F(AttackTest, AWorkerSpeaksForNoOtherAndNotForWhatItWas) {
  server_.reset();
  Start(true);
  TestWorker a(channel_, "na"), b(channel_, "nb");
  a.Register();
  b.Register();
  a.report().set_node("nodes/nb");
  a.report().set_epoch(b.report().epoch());
  agent::v1::SynchronizeResponse desired;
  EXPECT_THAT(a.TrySync(desired), StatusIs(kDenied));
  b.report().set_epoch(b.report().epoch() - 1);
  EXPECT_THAT(b.TrySync(desired), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(AttackTest, CountsThatOverflowAreRefusedAndTakeNothing) {
  const std::string eve = TokenFor("users/eve", {{"default", Role::kUser}});
  const auto refused = [&](auto change) {
    v1::CreateJobRequest request = NewJob("big");
    change(*request.mutable_job()->mutable_spec());
    EXPECT_THAT(Submit(request, eve), StatusIs(kInvalid)) << request.ShortDebugString();
  };
  for (const int many : {-1, 0, 65536, INT32_MAX, INT32_MIN}) {
    refused([&](v1::JobSpec& spec) {
      spec.mutable_parallelism()->set_nodes(many);
      spec.mutable_parallelism()->set_gpus_per_node(many);
    });
    refused([&](v1::JobSpec& spec) {
      spec.mutable_parallelism()->set_tensor_parallel_size(many);
      spec.mutable_parallelism()->set_pipeline_parallel_size(many);
      spec.mutable_parallelism()->set_context_parallel_size(many);
    });
  }
  for (const int64_t seconds : {int64_t{-1}, INT64_MAX, INT64_MIN}) {
    refused([&](v1::JobSpec& spec) {
      spec.mutable_resources()->mutable_time_limit()->set_seconds(seconds);
    });
  }
  for (const int priority : {1'000'000, INT32_MAX, INT32_MIN}) {
    v1::CreateJobRequest request = NewJob("first");
    request.mutable_job()->mutable_spec()->mutable_resources()->set_priority(priority);
    EXPECT_THAT(Submit(request, eve), Not(IsOk())) << priority;
  }
}

TEST_F(AttackTest, NamesCarryNoPathsCommandsOrControlCharacters) {
  const std::string eve = TokenFor("users/eve", {{"default", Role::kUser}});
  for (const std::string& id :
       {std::string("../other"), std::string("a/b"), std::string("a\nb"), std::string("$(id)"),
        std::string("a\0b", 3), std::string("%2e%2e"), std::string("\xc2\xad"),
        std::string("\x1b[31m"), std::string(1000, 'a')}) {
    v1::CreateJobRequest request = NewJob(id);
    EXPECT_THAT(Submit(request, eve), StatusIs(kInvalid)) << id;
    request = NewJob("fine");
    request.mutable_job()->mutable_spec()->mutable_output()->set_name(id);
    EXPECT_THAT(Submit(request, eve), StatusIs(kInvalid)) << id;
    request = NewJob("fine");
    auto& dataset = *request.mutable_job()->mutable_spec()->mutable_dataset();
    dataset.mutable_training(0)->set_fileset(absl::StrCat("workspaces/default/filesets/", id));
    EXPECT_THAT(Submit(request, eve), StatusIs(kInvalid)) << id;
  }
}

// What callers send stands in the log: as text, in the line that it belongs to.
TEST_F(AttackTest, TheLogKeepsItsLinesWhateverIsSent) {
  ::testing::internal::CaptureStderr();
  const std::string forged = "a\n{\"level\":\"error\",\"message\":\"forged\"}\x1b[2J";
  v1::CreateJobRequest request = NewJob(forged);
  EXPECT_THAT(Submit(request, admin_), StatusIs(kInvalid));
  v1::ExchangeResponse response;
  EXPECT_THAT(TryExchange("very-secret-token", response), Not(IsOk()));
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(
      log, AllOf(HasSubstr("forged"), Not(HasSubstr("\x1b")), Not(HasSubstr("very-secret-token"))));
  for (const absl::string_view line : absl::StrSplit(log, '\n', absl::SkipEmpty())) {
    const absl::StatusOr<Json> json = Json::Parse(line);
    ASSERT_THAT(json.status(), IsOk()) << line;
    EXPECT_NE(json->GetString("message"), "forged");
  }
}

// The same id of a request from two callers is two requests.
TEST_F(AttackTest, ARequestIdOfAnotherCallerTellsNothingOfHisRequest) {
  const std::string ann = TokenFor("users/ann", {{"default", Role::kUser}});
  const std::string eve = TokenFor("users/eve", {{"default", Role::kUser}});
  v1::CreateJobRequest request = NewJob("mine");
  request.set_request_id("same");
  v1::Job first;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, first, ann), IsOk());
  request.set_job_id("other");
  v1::Job second;
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, second, eve), IsOk());
  EXPECT_NE(first.uid(), second.uid());
  EXPECT_EQ(second.creator(), "users/eve");
}

TEST_F(AttackTest, AForeignTenantsJobsAreCountedAndNeverNamed) {
  const std::string ann = TokenFor("users/ann", {{"default", Role::kUser}});
  v1::CreateJobRequest request = NewJob("secret-project");
  ASSERT_THAT(Submit(request, ann), IsOk());
  AddModel("other", "base");
  const std::string eve = TokenFor("users/eve", {{"other", Role::kAdmin}});
  v1::ExplainJobRequest explain;
  explain.set_parent("workspaces/other");
  *explain.mutable_spec() = NewJob("x").job().spec();
  explain.mutable_spec()->mutable_model()->set_base("workspaces/other/models/base");
  explain.mutable_spec()->mutable_dataset()->mutable_training(0)->set_fileset(
      "workspaces/other/filesets/rows");
  v1::Explanation why;
  const absl::Status status = Call(*jobs_, &v1::JobService::Stub::ExplainJob, explain, why, eve);
  EXPECT_THAT(absl::StrCat(why.ShortDebugString(), status.message()),
              Not(HasSubstr("secret-project")));
  EXPECT_EQ(why.foreign_jobs_ahead(), 1) << status;
  auto queues = v1::QueueService::NewStub(channel_);
  v1::UpdateQueueRequest show;
  show.mutable_queue()->set_name("queues/default");
  show.mutable_queue()->set_visibility(v1::Queue::VISIBILITY_NAMES);
  show.mutable_update_mask()->add_paths("visibility");
  v1::Queue queue;
  ASSERT_THAT(Call(*queues, &v1::QueueService::Stub::UpdateQueue, show, queue, admin_), IsOk());
  why.Clear();
  ASSERT_THAT(Call(*jobs_, &v1::JobService::Stub::ExplainJob, explain, why, eve), IsOk());
  EXPECT_EQ(why.jobs_ahead_size(), 1) << "its queue shows names";
  auto events = v1::EventService::NewStub(channel_);
  v1::ListEventsRequest list;
  list.set_parent("workspaces/-");
  v1::ListEventsResponse told;
  EXPECT_THAT(Call(*events, &v1::EventService::Stub::ListEvents, list, told, eve), IsOk());
  EXPECT_THAT(told.ShortDebugString(), Not(HasSubstr("secret-project")));
  v1::ListJobsRequest all;
  all.set_parent("workspaces/-");
  v1::ListJobsResponse jobs;
  EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::ListJobs, all, jobs, eve), IsOk());
  EXPECT_EQ(jobs.jobs_size(), 0);
}

TEST_F(AttackTest, PagesAndFiltersHaveBounds) {
  v1::ListJobsRequest request;
  request.set_parent("workspaces/default");
  v1::ListJobsResponse response;
  const auto list = [&] {
    return Call(*jobs_, &v1::JobService::Stub::ListJobs, request, response, admin_);
  };
  request.set_page_size(-1);
  EXPECT_THAT(list(), StatusIs(kInvalid, HasSubstr("page_size")));
  request.set_page_size(INT32_MAX);
  EXPECT_THAT(list(), IsOk());
  request.set_filter(std::string(100'000, '('));
  EXPECT_THAT(list(), StatusIs(kInvalid));
  std::string nested;
  for (int i = 0; i < 500; ++i) absl::StrAppend(&nested, "NOT (");
  request.set_filter(nested);
  EXPECT_THAT(list(), StatusIs(kInvalid));
  request.clear_filter();
  request.set_page_token("forged");
  EXPECT_THAT(list(), StatusIs(kInvalid, HasSubstr("page token")));
}

}  // namespace
}  // namespace graft::scheduler
