// graft.agent.v1.AgentService: workers register, say how things are and are told how they shall be.
//
// A held Synchronize is answered when the node's desired revision is another than the one reported,
// when a newer call comes, or after a third of the lease.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "graft/agent/v1/agent.pb.h"
#include "rpc/access_token.h"
#include "scheduler/core/core.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/node_use.h"
#include "scheduler/service/progress.h"
#include "scheduler/service/session_board.h"

namespace graft::scheduler {

class AgentService {
 public:
  struct Options {
    absl::Duration lease = absl::Seconds(15);
    absl::Duration stop_after = absl::Seconds(12);
    std::string attempt_secret;  // attempts' secrets are HMACs under it
  };
  AgentService(const ServiceContext& context, const rpc::TokenSigner& signer,
               ProgressBoard& progress, NodeUseBoard& use, SessionBoard& sessions, Options options)
      : context_(context),
        signer_(signer),
        progress_(progress),
        use_(use),
        sessions_(sessions),
        options_(std::move(options)) {}

  rpc::Service Bind();

  // On the loop, after a commit.
  void OnDesiredChanged(const std::string& node);

 private:
  using Response = graft::agent::v1::SynchronizeResponse;
  struct Held {
    explicit Held(rpc::Responder<Response> r) : responder(std::move(r)) {}
    rpc::Responder<Response> responder;
    uint64_t id = 0;
  };
  // What is held for the node; with an `id` other than 0 that call alone.
  std::unique_ptr<Held> TakeHeld(const std::string& node, uint64_t id);
  // An upload session that an attempt may fill.
  struct Grant {
    std::string session;
    graft::agent::v1::Upload::Kind kind;
    bool used = false;  // the agent has filled it
  };
  struct AttemptGrants {
    std::vector<Grant> grants;
    std::set<int> opening;  // kinds
  };

  void Register(std::shared_ptr<rpc::Call> call, const graft::agent::v1::RegisterRequest& request,
                rpc::Responder<graft::agent::v1::RegisterResponse> responder);
  void Synchronize(std::shared_ptr<rpc::Call> call,
                   const graft::agent::v1::SynchronizeRequest& request,
                   rpc::Responder<Response> responder);
  grpc::ServerBidiReactor<graft::agent::v1::PushEventsRequest,
                          graft::agent::v1::PushEventsResponse>*
  PushEvents(std::shared_ptr<rpc::Call> call);
  grpc::ServerBidiReactor<graft::agent::v1::ServeInferenceRequest,
                          graft::agent::v1::ServeInferenceResponse>*
  ServeInference(std::shared_ptr<rpc::Call> call);

  absl::StatusOr<graft::agent::v1::RegisterResponse> Admit(
      Turn& turn, const graft::agent::v1::RegisterRequest& request);
  absl::StatusOr<std::string> CheckCredential(Turn& turn,
                                              const graft::agent::v1::RegisterRequest& request);
  // On the loop.
  void AnswerOrHold(rpc::Call& call, const NodeSynced& synced, rpc::Responder<Response> responder,
                    const Core& core);
  Response BuildResponse(const std::string& node, const Core& core);
  void FillAttempt(const DesiredPart& part, const Core& core,
                   graft::agent::v1::DesiredAttempt& out);
  // What a gang that answers questions needs.
  void FillSession(const std::string& session, rpc::Capability& reads,
                   graft::agent::v1::DesiredAttempt& out) const;
  graft::agent::v1::Input& AddInput(const std::string& version, graft::agent::v1::Input::Role role,
                                    std::string key, rpc::Capability& reads,
                                    graft::agent::v1::DesiredAttempt& out) const;
  // Drops what no longer serves anybody from `grants` and returns the rest.
  static std::vector<Grant> ForgetSuperseded(std::vector<Grant>& grants, const Job& job);
  // Notes the sessions that were filled; the attempts for which any is news.
  std::vector<AttemptTouched> MarkUsed(const graft::agent::v1::SynchronizeRequest& request);
  void FillGrants(const DesiredPart& part, const Job& job, const graft::v1::Job& body,
                  graft::agent::v1::DesiredAttempt& out);
  // Unless there are more or fewer of that kind than the `seen` that the caller looked at.
  void OpenGrant(const JobKey& job, int attempt, graft::agent::v1::Upload::Kind kind,
                 const std::string& fileset, size_t seen);
  static size_t CountOf(const std::vector<Grant>& grants, graft::agent::v1::Upload::Kind kind);
  std::string WorkerToken(const std::string& node) const;
  // A token to send along, when the last one is some hours old or was not made by this process.
  std::string RenewedToken(const std::string& node);
  std::string CapabilityToken(const std::string& node, const rpc::Capability& capability) const;

  const ServiceContext& context_;
  const rpc::TokenSigner& signer_;
  ProgressBoard& progress_;
  NodeUseBoard& use_;
  SessionBoard& sessions_;
  const Options options_;
  Mutex mu_;
  uint64_t next_held_ GRAFT_GUARDED_BY(mu_) = 1;
  std::map<std::string, absl::Time> token_issued_ GRAFT_GUARDED_BY(mu_);     // by node
  std::map<std::string, std::unique_ptr<Held>> held_ GRAFT_GUARDED_BY(mu_);  // by node
  std::map<std::pair<JobKey, int>, AttemptGrants> grants_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::scheduler
