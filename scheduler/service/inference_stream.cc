#include "scheduler/service/inference_stream.h"

#include <deque>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/session_records.h"

namespace graft::scheduler {
namespace {

namespace agent = graft::agent::v1;

absl::Status CheckServes(const Core& core, const std::string& node,
                         const agent::ServeInferenceRequest& first) {
  const Job* job = core.FindJob(SessionKeyOf(first.session()));
  if (job == nullptr || !job->attempt.live() || job->attempt.mode != AttemptMode::kRun) {
    return absl::NotFoundError(absl::StrCat("the session '", first.session(), "' has ended"));
  }
  const auto part = job->attempt.parts.find(node);
  if (part == job->attempt.parts.end() || part->second.epoch != first.attempt_epoch() ||
      part->second.state == PartState::kEnded) {
    return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                             absl::StrCat("epoch ", first.attempt_epoch(), " of ", node,
                                          " does not serve ", first.session()))
        .Reason("STALE_EPOCH")
        .Build();
  }
  return absl::OkStatus();
}

// Kept alive by gRPC until OnDone and by the board while it is attached.
class InferenceStream final
    : public grpc::ServerBidiReactor<agent::ServeInferenceRequest, agent::ServeInferenceResponse>,
      public AnswerStream,
      public std::enable_shared_from_this<InferenceStream> {
 public:
  InferenceStream(std::shared_ptr<rpc::Call> call, Control& control, Clock& clock,
                  SessionBoard& board)
      : call_(std::move(call)), control_(control), clock_(clock), board_(board) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&request_);
    call_->OnShutdown([weak = weak_from_this()](const absl::Status& status) {
      if (const auto self = weak.lock()) self->End(status);
    });
  }

  void Send(const agent::ServeInferenceResponse& command) override {
    MutexLock lock(mu_);
    if (ended_) return;
    queue_.push_back(command);
    if (queue_.size() == 1) StartWrite(&queue_.front());
  }
  void End(const absl::Status& status) override {
    std::string session;
    {
      MutexLock lock(mu_);
      if (ended_) return;
      ended_ = true;
      session = session_;
      Finish(rpc::ToGrpcStatus(call_->Finish(status)));
    }
    board_.Detach(session, this);
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());
    std::string session;
    {
      MutexLock lock(mu_);
      session = session_;
    }
    if (session.empty()) return Introduce();
    board_.OnReply(session, this, request_, clock_.Now());
    ReadOn();
  }

  void ReadOn() {
    MutexLock lock(mu_);
    if (!ended_) StartRead(&request_);
  }

  void Introduce() {
    const std::string node(absl::StripPrefix(call_->identity->subject, "nodes/"));
    control_.Inspect([self = self_, node, first = request_](const Core& core) {
      absl::Status status = CheckServes(core, node, first);
      if (status.ok()) status = self->board_.Attach(first.session(), self);
      if (!status.ok()) return self->End(status);
      {
        MutexLock lock(self->mu_);
        self->session_ = first.session();
        if (self->ended_) status = absl::CancelledError("");
      }
      if (!status.ok()) return self->board_.Detach(first.session(), self.get());
      // The first message may say that the model is loaded already.
      self->board_.OnReply(first.session(), self.get(), first, self->clock_.Now());
      self->ReadOn();
    });
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mu_);
    if (!ok || ended_) return;  // the failed read that follows says so
    queue_.pop_front();
    if (!queue_.empty()) StartWrite(&queue_.front());
  }
  void OnCancel() override { End(absl::CancelledError("the agent has gone away")); }
  void OnDone() override { const std::shared_ptr<InferenceStream> self = std::move(self_); }

  const std::shared_ptr<rpc::Call> call_;
  Control& control_;
  Clock& clock_;
  SessionBoard& board_;
  agent::ServeInferenceRequest request_;
  Mutex mu_;
  std::string session_ GRAFT_GUARDED_BY(mu_);  // empty until it is introduced
  std::deque<agent::ServeInferenceResponse> queue_ GRAFT_GUARDED_BY(mu_);
  bool ended_ GRAFT_GUARDED_BY(mu_) = false;
  std::shared_ptr<InferenceStream> self_;
};

}  // namespace

grpc::ServerBidiReactor<agent::ServeInferenceRequest, agent::ServeInferenceResponse>*
NewInferenceStream(std::shared_ptr<rpc::Call> call, Control& control, Clock& clock,
                   SessionBoard& board) {
  const auto stream = std::make_shared<InferenceStream>(std::move(call), control, clock, board);
  stream->Begin();
  return stream.get();
}

}  // namespace graft::scheduler
