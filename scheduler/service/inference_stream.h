// AgentService.ServeInference: the stream on which an agent takes questions and brings answers.
//
//   first message: the session and the attempt's epoch -> fenced like every report of an agent
//   then: ready, tokens, end, failure <-> questions and cancellations
#pragma once

#include <memory>

#include "graft/agent/v1/agent.pb.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/session_board.h"

namespace graft::scheduler {

// `control`, `clock` and `board` outlive the server.
grpc::ServerBidiReactor<graft::agent::v1::ServeInferenceRequest,
                        graft::agent::v1::ServeInferenceResponse>*
NewInferenceStream(std::shared_ptr<rpc::Call> call, Control& control, Clock& clock,
                   SessionBoard& board);

}  // namespace graft::scheduler
