// From a session's replies to the messages of a Chat or Complete stream.
//
// An asker that reads slowly holds nobody up: while its stream has much to send, tokens are put
// together into fewer, longer messages, which the length of an answer bounds.
#pragma once

#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "graft/v1/inference.pb.h"
#include "rpc/service.h"
#include "scheduler/service/session_board.h"

namespace graft::scheduler {

template <typename Response>
class Answer final : public Asker {
 public:
  // Above so many waiting messages tokens are put together.
  static constexpr size_t kMaxWaiting = 64;

  Answer(std::shared_ptr<rpc::StreamWriter<Response>> writer, int64_t seed)
      : writer_(std::move(writer)), seed_(seed) {}

  // The first message, before anything else comes.
  void Begin(const std::string& session, const std::vector<graft::v1::Warning>& warnings,
             const std::string& prefix) {
    Response first;
    first.set_session(session);
    first.set_delta(prefix);
    for (const graft::v1::Warning& warning : warnings) *first.add_warnings() = warning;
    Write(std::move(first));
  }

  void OnWaiting(const std::string& what_for) override {
    Response response;
    response.set_waiting(what_for);
    Write(std::move(response));
  }
  void OnTokens(const graft::agent::v1::ServeInferenceRequest::Tokens& tokens) override {
    {
      MutexLock lock(mu_);
      pending_.mutable_delta()->append(tokens.text());
      pending_.mutable_logprobs()->MergeFrom(tokens.logprobs());
      if (writer_->queued() > kMaxWaiting) return;
    }
    Flush();
  }
  void OnEnd(const graft::agent::v1::ServeInferenceRequest::End& end) override {
    Flush();
    Response last;
    last.set_finish_reason(end.finish_reason());
    *last.mutable_usage() = end.usage();
    last.mutable_usage()->set_seed(seed_);
    if constexpr (std::is_same_v<Response, graft::v1::ChatResponse>) {
      last.set_tool_calls_json(end.tool_calls_json());
    }
    Write(std::move(last));
    writer_->Finish(absl::OkStatus());
  }
  void OnFailure(const absl::Status& status) override {
    Flush();
    writer_->Finish(status);
  }

 private:
  void Flush() {
    Response response;
    {
      MutexLock lock(mu_);
      response.Swap(&pending_);
    }
    if (!response.delta().empty() || response.logprobs_size() > 0) Write(std::move(response));
  }
  void Write(Response response) {
    // A stream that is closed has cancelled the question.
    if (const absl::Status status = writer_->Write(std::move(response)); !status.ok()) {
      writer_->Finish(status);
    }
  }

  const std::shared_ptr<rpc::StreamWriter<Response>> writer_;  // shared with gRPC
  const int64_t seed_;
  Mutex mu_;
  Response pending_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::scheduler
