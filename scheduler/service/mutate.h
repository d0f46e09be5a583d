// How a handler changes something: one function that runs in a turn of the loop and returns the
// answer, which is sent after the commit.
//
//   Mutate<v1::Queue>(context.control, std::move(responder), [=](Turn& turn) { ... return queue;
//   });
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/random.h"
#include "grpcpp/impl/codegen/proto_utils.h"  // lets gRPC carry protobuf messages
#include "rpc/call.h"
#include "rpc/service.h"
#include "scheduler/service/background.h"
#include "scheduler/service/control.h"
#include "scheduler/service/fileservice_link.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

// What every service works with. All outlive the services.
struct ServiceContext {
  Control& control;
  Store& store;
  Clock& clock;
  Random& random;
  FileserviceLink& files;
  Background& background;
  std::string cluster;              // the cluster's id
  std::string fileservice_address;  // empty: none
};

template <typename Response>
void Mutate(Control& control, rpc::Responder<Response> responder,
            std::function<absl::StatusOr<Response>(Turn&)> work) {
  // Shared by the two closures of one request, of which std::function needs copies.
  struct State {
    explicit State(rpc::Responder<Response> r) : responder(std::move(r)) {}
    rpc::Responder<Response> responder;
    absl::StatusOr<Response> result = absl::InternalError("the request was not worked on");
  };
  auto state = std::make_shared<State>(std::move(responder));
  control.Submit({.work =
                      [state, work = std::move(work)](Turn& turn) {
                        state->result = work(turn);
                        return state->result.status();
                      },
                  .done =
                      [state](absl::Status status, int64_t) {
                        if (!status.ok()) {
                          state->responder.Answer(status);
                        } else {
                          state->responder.Answer(std::move(state->result));
                        }
                      }});
}

inline void AuditCall(Turn& turn, const rpc::Call& call, absl::string_view resource,
                      absl::string_view text = "") {
  turn.Audit({call.identity->subject, call.method, std::string(resource), std::string(text)});
}

}  // namespace graft::scheduler
