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
#include "rpc/page_token.h"
#include "rpc/service.h"
#include "scheduler/service/background.h"
#include "scheduler/service/control.h"
#include "scheduler/service/fileservice_link.h"
#include "scheduler/service/watchers.h"
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
  const rpc::PageTokenCodec& page_tokens;
  Watchers& watchers;
  std::string data_key;  // seals what is secret at rest
  // A worker reads the rows of a job before it is queued.
  bool rows_first = false;
  // Training is simulated; jobs and GetServerInfo say so.
  bool fake_trainer = false;
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

// The trail's line of a call and its event: `{kind}.created` for CreateJob and the like.
void AuditCall(Turn& turn, const rpc::Call& call, absl::string_view resource,
               absl::string_view text = "");
// The event alone.
void TellOfCall(Turn& turn, const rpc::Call& call, absl::string_view resource,
                absl::string_view message = "");
// "job" of "workspaces/w/jobs/j"; empty for what is no resource's name.
std::string KindOf(absl::string_view resource);

}  // namespace graft::scheduler
