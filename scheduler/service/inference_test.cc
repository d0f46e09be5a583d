// Questions over real gRPC, from the client's stream to an agent's and back. The agent is played by
// the test.
#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "graft/agent/v1/agent.grpc.pb.h"
#include "graft/v1/inference.grpc.pb.h"
#include "graft/v1/model.pb.h"
#include "gtest/gtest.h"
#include "rpc/status.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/testing/start.h"
#include "scheduler/service/testing/test_worker.h"
#include "scheduler/store/mem_store.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
namespace agent = graft::agent::v1;
using ::testing::HasSubstr;

constexpr char kModel[] = "workspaces/default/models/base";
constexpr char kAdapter[] = "workspaces/default/models/base/adapters/tickets";

class InferenceTest : public ::testing::Test {
 protected:
  InferenceTest() : files_(NoFileservice()) {}

  void SetUp() override {
    v1::Model model;
    model.set_name(kModel);
    model.set_fileset("workspaces/default/filesets/base/versions/1");
    model.set_state(v1::Model::STATE_READY);
    model.mutable_spec()->set_chat_template("{{ messages }}");
    PutAdapter(true);
    ASSERT_THAT(store_.Commit({.writes = {{Family::kRecords, ModelRecordKey("default", "base"),
                                           EncodeResource(model)}}}),
                IsOk());
    signer_ = TestSigner();
    StartServer();
    worker_->Register();
  }

  void PutAdapter(bool enabled) {
    v1::Adapter adapter;
    adapter.set_name(kAdapter);
    adapter.set_fileset("workspaces/default/filesets/tickets/versions/1");
    adapter.set_enabled(enabled);
    adapter.set_row_format(v1::DatasetSection::FORMAT_PROMPT_COMPLETION);
    ASSERT_THAT(
        store_.Commit({.writes = {{Family::kRecords, AdapterRecordKey("default", "base", "tickets"),
                                   EncodeResource(adapter)}}}),
        IsOk());
  }

  void StartServer() {
    GRAFT_ASSERT_OK_AND_ASSIGN(
        server_, StartTestServer({store_, clock_, random_, *files_, *signer_}, {.no_auth = true}));
    channel_ = ChannelTo(*server_);
    inference_ = v1::InferenceService::NewStub(channel_);
    if (worker_ == nullptr) worker_ = std::make_unique<TestWorker>(channel_);
    worker_->Connect(channel_);
  }

  // The session's attempt as the agent is told of it, which it says is in `state` from now on.
  agent::DesiredAttempt TakeSession(agent::ActualAttempt::State state) {
    agent::SynchronizeResponse desired;
    while (desired.attempts_size() == 0) desired = worker_->Sync();
    worker_->report().clear_attempts();
    auto& actual = *worker_->report().add_attempts();
    actual.set_attempt(desired.attempts(0).attempt());
    actual.set_attempt_epoch(desired.attempts(0).attempt_epoch());
    actual.set_state(state);
    return desired.attempts(0);
  }

  // The agent's end of a session.
  struct Serving {
    grpc::ClientContext context;
    std::unique_ptr<
        grpc::ClientReaderWriter<agent::ServeInferenceRequest, agent::ServeInferenceResponse>>
        stream;
    agent::ServeInferenceResponse Next() {
      agent::ServeInferenceResponse command;
      EXPECT_TRUE(stream->Read(&command));
      return command;
    }
    void Tokens(const std::string& id, const std::string& text) {
      agent::ServeInferenceRequest reply;
      reply.set_request_id(id);
      reply.mutable_tokens()->set_text(text);
      EXPECT_TRUE(stream->Write(reply));
    }
    void End(const std::string& id) {
      agent::ServeInferenceRequest reply;
      reply.set_request_id(id);
      reply.mutable_end()->set_finish_reason(v1::FINISH_REASON_STOP);
      reply.mutable_end()->mutable_usage()->set_completion_tokens(2);
      EXPECT_TRUE(stream->Write(reply));
    }
  };
  std::unique_ptr<Serving> Serve(const agent::DesiredAttempt& attempt, int64_t epoch_offset = 0) {
    auto serving = std::make_unique<Serving>();
    worker_->Sign(serving->context);
    serving->stream = worker_->stub().ServeInference(&serving->context);
    agent::ServeInferenceRequest hello;
    hello.set_session(attempt.attempt());
    hello.set_attempt_epoch(attempt.attempt_epoch() + epoch_offset);
    hello.mutable_ready()->set_context_length(2048);
    serving->stream->Write(hello);
    return serving;
  }

  struct Asking {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::ChatResponse>> stream;
    v1::ChatResponse first;
    // What is answered from now on; the last message with all the text.
    v1::ChatResponse Rest() {
      v1::ChatResponse response, last;
      std::string text;
      while (stream->Read(&response)) {
        text += response.delta();
        last = response;
      }
      last.set_delta(text);
      return last;
    }
    absl::Status Finish() { return rpc::FromGrpcStatus(stream->Finish()); }
  };
  std::unique_ptr<Asking> Ask(const std::string& model, const std::string& text = "hello") {
    auto asking = std::make_unique<Asking>();
    v1::ChatRequest request;
    request.set_model(model);
    auto& message = *request.add_messages();
    message.set_role("user");
    message.set_content(text);
    asking->stream = inference_->Chat(&asking->context, request);
    asking->stream->Read(&asking->first);
    return asking;
  }
  absl::Status Refused(const std::string& model) {
    const auto asking = Ask(model);
    return asking->Finish();
  }
  v1::InferenceSession Get(const std::string& name) {
    grpc::ClientContext context;
    v1::GetInferenceSessionRequest request;
    request.set_name(name);
    v1::InferenceSession session;
    EXPECT_TRUE(inference_->GetInferenceSession(&context, request, &session).ok());
    return session;
  }

  MemDisk disk_;
  MemStore store_{disk_};
  RealClock clock_;
  SecureRandom random_;
  std::unique_ptr<FileserviceLink> files_;
  std::unique_ptr<rpc::TokenSigner> signer_;
  std::unique_ptr<SchedulerServer> server_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<TestWorker> worker_;
};

TEST_F(InferenceTest, TheFirstQuestionMakesASessionThatLaterOnesShare) {
  const auto asking = Ask(kAdapter);
  EXPECT_EQ(asking->first.warnings_size(), 1) << "the adapter learnt from completions";
  const agent::DesiredAttempt attempt = TakeSession(agent::ActualAttempt::STATE_RUNNING);
  EXPECT_EQ(attempt.kind(), agent::DesiredAttempt::KIND_GENERATE);
  EXPECT_EQ(attempt.attempt(), asking->first.session());
  ASSERT_EQ(attempt.inputs_size(), 2);
  EXPECT_EQ(attempt.inputs(0).role(), agent::Input::ROLE_MODEL);
  EXPECT_EQ(attempt.inputs(1).role(), agent::Input::ROLE_ADAPTER);
  const auto serving = Serve(attempt);
  const agent::ServeInferenceResponse question = serving->Next();
  EXPECT_EQ(question.chat().messages(0).content(), "hello");
  EXPECT_EQ(question.chat().config().max_tokens(), 512);
  serving->Tokens(question.request_id(), "good ");
  serving->Tokens(question.request_id(), "day");
  serving->End(question.request_id());
  const v1::ChatResponse last = asking->Rest();
  EXPECT_THAT(asking->Finish(), IsOk());
  EXPECT_EQ(last.delta(), "good day");
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(last.usage().seed(), question.chat().config().seed());

  const auto again = Ask(kAdapter, "once more");
  EXPECT_EQ(again->first.session(), asking->first.session());
  const agent::ServeInferenceResponse second = serving->Next();
  serving->End(second.request_id());
  again->Rest();
  EXPECT_THAT(again->Finish(), IsOk());
  worker_->Sync();
  EXPECT_EQ(Get(attempt.attempt()).state(), v1::InferenceSession::STATE_READY);
}

TEST_F(InferenceTest, UnknownNamesAndDisabledAdaptersAreRefusedWithWhatToDo) {
  EXPECT_THAT(Refused("workspaces/default/models/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("models/none")));
  EXPECT_THAT(Refused("workspaces/default/models/base/adapters/none"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("adapters/none")));
  PutAdapter(false);
  EXPECT_THAT(Refused(kAdapter), StatusIs(absl::StatusCode::kFailedPrecondition,
                                          HasSubstr("graft adapter enable base tickets")));
}

TEST_F(InferenceTest, AnAskerWhoLeavesCancelsItsQuestion) {
  const auto asking = Ask(kModel);
  const auto serving = Serve(TakeSession(agent::ActualAttempt::STATE_RUNNING));
  const agent::ServeInferenceResponse question = serving->Next();
  asking->context.TryCancel();
  const agent::ServeInferenceResponse cancel = serving->Next();
  EXPECT_TRUE(cancel.cancel());
  EXPECT_EQ(cancel.request_id(), question.request_id());
  asking->Finish().IgnoreError();
}

TEST_F(InferenceTest, ATrainerThatDiesIsTheReasonThatTheAskerIsGiven) {
  const auto asking = Ask(kModel);
  const auto serving = Serve(TakeSession(agent::ActualAttempt::STATE_RUNNING));
  serving->Next();
  auto& actual = *worker_->report().mutable_attempts(0);
  actual.set_state(agent::ActualAttempt::STATE_FAILED);
  actual.set_message("the trainer ended by signal 9 (Killed)");
  worker_->Sync();
  asking->Rest();
  EXPECT_THAT(asking->Finish(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("signal 9 (Killed)")));
  const v1::InferenceSession session = Get(asking->first.session());
  EXPECT_EQ(session.state(), v1::InferenceSession::STATE_ENDED);
  EXPECT_EQ(session.reason(), v1::REASON_RANK_FAILED);
}

TEST_F(InferenceTest, AnotherEpochDoesNotServeASession) {
  const auto asking = Ask(kModel);
  const auto serving = Serve(TakeSession(agent::ActualAttempt::STATE_RUNNING), -1);
  agent::ServeInferenceResponse nothing;
  EXPECT_FALSE(serving->stream->Read(&nothing));
  EXPECT_THAT(rpc::FromGrpcStatus(serving->stream->Finish()),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  asking->context.TryCancel();
  asking->Finish().IgnoreError();
}

TEST_F(InferenceTest, AnEndedSessionEndsItsAnswersAndIsListed) {
  const auto asking = Ask(kModel);
  const auto serving = Serve(TakeSession(agent::ActualAttempt::STATE_RUNNING));
  serving->Next();
  grpc::ClientContext context;
  v1::EndInferenceSessionRequest end;
  end.set_name(asking->first.session());
  v1::InferenceSession session;
  ASSERT_TRUE(inference_->EndInferenceSession(&context, end, &session).ok());
  worker_->report().mutable_attempts(0)->set_state(agent::ActualAttempt::STATE_ENDED);
  while (Get(end.name()).state() != v1::InferenceSession::STATE_ENDED) worker_->Sync();
  EXPECT_EQ(asking->Rest().finish_reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_THAT(asking->Finish(), IsOk());
  EXPECT_EQ(Get(end.name()).reason(), v1::REASON_CANCELLED_BY_USER);
  grpc::ClientContext list_context;
  v1::ListInferenceSessionsRequest list;
  list.set_parent("workspaces/default");
  v1::ListInferenceSessionsResponse listed;
  ASSERT_TRUE(inference_->ListInferenceSessions(&list_context, list, &listed).ok());
  ASSERT_EQ(listed.inference_sessions_size(), 1);
  EXPECT_EQ(listed.inference_sessions(0).name(), end.name());
}

TEST_F(InferenceTest, AnIdleSessionGivesWayToWhoeverWaitsForItsDevice) {
  const auto asking = Ask(kModel);
  const auto serving = Serve(TakeSession(agent::ActualAttempt::STATE_RUNNING));
  serving->End(serving->Next().request_id());
  asking->Rest();
  ASSERT_THAT(asking->Finish(), IsOk());
  const auto other = Ask(kAdapter);
  while (worker_->Sync().attempts(0).goal() != agent::DesiredAttempt::GOAL_STOP) {
    EXPECT_NE(Get(asking->first.session()).state(), v1::InferenceSession::STATE_ENDED);
  }
  worker_->report().mutable_attempts(0)->set_state(agent::ActualAttempt::STATE_ENDED);
  worker_->Sync();
  EXPECT_EQ(Get(asking->first.session()).reason(), v1::REASON_PREEMPTED);
  worker_->report().clear_attempts();
  const agent::DesiredAttempt attempt = TakeSession(agent::ActualAttempt::STATE_RUNNING);
  EXPECT_EQ(attempt.attempt(), other->first.session());
  other->context.TryCancel();
  other->Finish().IgnoreError();
}

TEST_F(InferenceTest, AfterARestartOfTheSchedulerTheAgentAttachesAgain) {
  const agent::DesiredAttempt attempt = [&] {
    const auto asking = Ask(kModel);
    const agent::DesiredAttempt taken = TakeSession(agent::ActualAttempt::STATE_RUNNING);
    worker_->Sync();
    server_->Shutdown(absl::ZeroDuration());
    asking->Rest();
    EXPECT_THAT(asking->Finish(), StatusIs(absl::StatusCode::kUnavailable));
    return taken;
  }();
  server_.reset();
  StartServer();
  const auto asking = Ask(kModel);
  EXPECT_EQ(asking->first.session(), attempt.attempt()) << "the session has lived on";
  const auto serving = Serve(attempt);
  const agent::ServeInferenceResponse question = serving->Next();
  serving->End(question.request_id());
  asking->Rest();
  EXPECT_THAT(asking->Finish(), IsOk());
}

}  // namespace
}  // namespace graft::scheduler
