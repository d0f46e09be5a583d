// graft.v1.InferenceService: questions are put to sessions, which are found or made on the way.
//
// A session is a gang of one rank in the queue `interactive`. It is shared by all who ask the same
// model and adapter in its workspace, and ends when nobody has asked for its idle timeout (at once
// where others wait for devices), when its model or adapter is deleted, linked anew or disabled, or
// with its worker. After a restart of the
// scheduler the agents attach their sessions again; questions under way are lost with the calls
// that asked them.
#pragma once

#include <memory>
#include <string>

#include "graft/v1/inference.pb.h"
#include "scheduler/service/inference_target.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/progress.h"
#include "scheduler/service/session_board.h"
#include "scheduler/service/watchers.h"

namespace graft::scheduler {

class InferenceService {
 public:
  InferenceService(const ServiceContext& context, SessionBoard& board, ProgressBoard& progress)
      : context_(context), board_(board), progress_(progress) {}

  rpc::Service Bind();
  // Finds the sessions of an earlier life, and looks after all of them from now on.
  void Start(Watchers& watchers);

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  template <typename Response>
  using Writer = std::shared_ptr<rpc::StreamWriter<Response>>;

  void Chat(CallPtr call, const graft::v1::ChatRequest& request,
            Writer<graft::v1::ChatResponse> writer);
  void Complete(CallPtr call, const graft::v1::CompleteRequest& request,
                Writer<graft::v1::CompleteResponse> writer);
  // Puts the question to a session; it is cancelled when the writer closes.
  template <typename Response>
  void Put(CallPtr call, const InferenceTarget& target, bool chat, SessionBoard::Command command,
           int64_t seed, Writer<Response> writer);

  void CreateInferenceSession(CallPtr call, const graft::v1::CreateInferenceSessionRequest& request,
                              rpc::Responder<graft::v1::InferenceSession> responder);
  absl::StatusOr<graft::v1::InferenceSession> GetInferenceSession(
      const rpc::Call& call, const graft::v1::GetInferenceSessionRequest& request);
  absl::StatusOr<graft::v1::ListInferenceSessionsResponse> ListInferenceSessions(
      const rpc::Call& call, const graft::v1::ListInferenceSessionsRequest& request);
  void EndInferenceSession(CallPtr call, const graft::v1::EndInferenceSessionRequest& request,
                           rpc::Responder<graft::v1::InferenceSession> responder);

  // In a turn.
  absl::StatusOr<graft::v1::InferenceSession> FindOrMake(Turn& turn, const rpc::Call& call,
                                                         const InferenceTarget& target);
  absl::StatusOr<graft::v1::InferenceSession> Make(Turn& turn, const rpc::Call& call,
                                                   const InferenceTarget& target,
                                                   const graft::v1::InferenceSession& wanted);

  // Looks at every open session: what waits is told, what is over is closed.
  void Look();
  void LookAt(const std::string& name);
  // Also ends what is idle, has lost its model or is in the way; again every second.
  void Tick();
  // An idle session gives way at once to whoever waits for devices.
  void MakeRoom();
  void EndSession(const std::string& name, graft::v1::Reason reason, const std::string& why);
  void TellPhase(const std::string& name, const graft::v1::InferenceSession& session);

  const ServiceContext& context_;
  SessionBoard& board_;
  ProgressBoard& progress_;
};

}  // namespace graft::scheduler
