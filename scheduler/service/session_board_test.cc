#include "scheduler/service/session_board.h"

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class FakeAsker final : public Asker {
 public:
  void OnWaiting(const std::string& what_for) override { waited.push_back(what_for); }
  void OnTokens(const SessionBoard::Reply::Tokens& tokens) override { text += tokens.text(); }
  void OnEnd(const SessionBoard::Reply::End& end) override { finish = end.finish_reason(); }
  void OnFailure(const absl::Status& status) override { failure = status; }

  std::vector<std::string> waited;
  std::string text;
  v1::FinishReason finish = v1::FINISH_REASON_UNSPECIFIED;
  absl::Status failure;
};

class FakeStream final : public AnswerStream {
 public:
  void Send(const SessionBoard::Command& command) override {
    sent.push_back(absl::StrCat(command.cancel() ? "cancel " : "ask ", command.request_id()));
  }
  void End(const absl::Status& status) override { ended = status; }

  std::vector<std::string> sent;
  absl::Status ended;
};

class SessionBoardTest : public ::testing::Test {
 protected:
  SessionBoardTest() { board_.Open("s", absl::Minutes(5), now_); }

  std::shared_ptr<FakeAsker> Ask(const std::string& expected_id) {
    auto asker = std::make_shared<FakeAsker>();
    SessionBoard::Command command;
    command.mutable_complete()->set_prompt("x");
    const absl::StatusOr<std::string> id = board_.Ask("s", command, asker);
    EXPECT_THAT(id, IsOk());
    EXPECT_EQ(id.ok() ? *id : "", expected_id);
    return asker;
  }
  std::shared_ptr<FakeStream> AttachReady() {
    auto stream = std::make_shared<FakeStream>();
    EXPECT_THAT(board_.Attach("s", stream), IsOk());
    SessionBoard::Reply ready;
    ready.mutable_ready();
    board_.OnReply("s", stream.get(), ready, now_);
    return stream;
  }
  void Tokens(const FakeStream& from, const std::string& id, const std::string& text) {
    SessionBoard::Reply reply;
    reply.set_request_id(id);
    reply.mutable_tokens()->set_text(text);
    board_.OnReply("s", &from, reply, now_);
  }
  void End(const FakeStream& from, const std::string& id) {
    SessionBoard::Reply reply;
    reply.set_request_id(id);
    reply.mutable_end()->set_finish_reason(v1::FINISH_REASON_STOP);
    board_.OnReply("s", &from, reply, now_);
  }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  SessionBoard board_;
};

TEST_F(SessionBoardTest, QuestionsWaitUntilTheModelIsLoadedAndAreSentAFewAtATime) {
  const auto first = Ask("q1");
  Ask("q2");
  Ask("q3");
  board_.TellWaiting("s", "loading the model");
  board_.TellWaiting("s", "loading the model");
  EXPECT_THAT(first->waited, ElementsAre("loading the model"));
  const auto stream = AttachReady();
  EXPECT_THAT(stream->sent, ElementsAre("ask q1", "ask q2"));
  Tokens(*stream, "q1", "hel");
  Tokens(*stream, "q1", "lo");
  End(*stream, "q1");
  EXPECT_EQ(first->text, "hello");
  EXPECT_EQ(first->finish, v1::FINISH_REASON_STOP);
  EXPECT_THAT(stream->sent, ElementsAre("ask q1", "ask q2", "ask q3"));
}

TEST_F(SessionBoardTest, ACancelledQuestionCostsNothingUnlessItWasSent) {
  const auto stream = AttachReady();
  const auto first = Ask("q1");
  Ask("q2");
  Ask("q3");
  Ask("q4");
  board_.Cancel("s", "q3", now_);
  board_.Cancel("s", "q1", now_);
  EXPECT_THAT(stream->sent, ElementsAre("ask q1", "ask q2", "cancel q1", "ask q4"));
  Tokens(*stream, "q1", "late");
  EXPECT_EQ(first->text, "") << "its asker has left";
}

TEST_F(SessionBoardTest, WhatABrokenStreamCarriedFailsWhenTheSessionIsAttachedAgain) {
  const auto broken = AttachReady();
  const auto sent = Ask("q1");
  Ask("q2");
  const auto waiting = Ask("q3");
  board_.Detach("s", broken.get());
  EXPECT_THAT(sent->failure, IsOk()) << "the session may turn out to have ended, with a reason";
  const auto stream = AttachReady();
  EXPECT_THAT(sent->failure, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(waiting->failure, IsOk());
  EXPECT_THAT(stream->sent, ElementsAre("ask q3"));
  Tokens(*broken, "q3", "from the old stream");
  EXPECT_EQ(waiting->text, "");
}

TEST_F(SessionBoardTest, AnOlderStreamGivesWayToANewerOne) {
  const auto older = AttachReady();
  AttachReady();
  EXPECT_THAT(older->ended, StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(SessionBoardTest, AClosedSessionTellsEveryAskerWhy) {
  const auto stream = AttachReady();
  const auto sent = Ask("q1");
  Ask("q2");
  const auto waiting = Ask("q3");
  board_.Close("s", absl::UnavailableError("the trainer was killed"));
  EXPECT_THAT(sent->failure, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(waiting->failure, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(stream->ended, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(board_.Ask("s", {}, sent), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(SessionBoardTest, ASessionThatWasEndedByItsUserEndsItsAnswersAsCancelled) {
  const auto asker = Ask("q1");
  board_.Close("s", absl::OkStatus());
  EXPECT_EQ(asker->finish, v1::FINISH_REASON_CANCELLED);
}

TEST_F(SessionBoardTest, TooManyQuestionsAreRefused) {
  for (size_t i = 1; i <= SessionBoard::kMaxQuestions; ++i) Ask(absl::StrCat("q", i));
  EXPECT_THAT(board_.Ask("s", {}, std::make_shared<FakeAsker>()),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(SessionBoardTest, IdleIsASessionThatNobodyAsks) {
  const auto stream = AttachReady();
  Ask("q1");
  now_ += absl::Minutes(6);
  EXPECT_THAT(board_.Idle(now_), IsEmpty()) << "it answers";
  End(*stream, "q1");
  now_ += absl::Minutes(4);
  EXPECT_THAT(board_.Idle(now_), IsEmpty());
  now_ += absl::Minutes(1);
  EXPECT_THAT(board_.Idle(now_), ElementsAre("s"));
}

TEST_F(SessionBoardTest, TheLongestIdleIsFoundAmongThoseThatRest) {
  board_.Open("later", absl::Minutes(5), now_ + absl::Seconds(1));
  EXPECT_EQ(board_.LongestIdle(now_, absl::Seconds(1)), "");
  now_ += absl::Seconds(2);
  EXPECT_EQ(board_.LongestIdle(now_, absl::Seconds(1)), "s");
  Ask("q1");
  EXPECT_EQ(board_.LongestIdle(now_, absl::Seconds(1)), "later");
}

}  // namespace
}  // namespace graft::scheduler
