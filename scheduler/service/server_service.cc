#include "scheduler/service/server_service.h"

#include <string>

#include "base/check.h"
#include "graft/v1/evaluation.pb.h"
#include "graft/v1/inference.pb.h"
#include "graft/v1/notification.pb.h"
#include "rpc/page_token.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/upkeep.h"
#include "worker/spec/load.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

// What the contract has and this build has, or has not. Services that are absent as a whole are
// kAbsentServices'.
struct Feature {
  const char* name;
  bool available;
  const char* why_not;
};
constexpr Feature kFeatures[] = {
    {"templates", true, ""},
    {"secrets", true, ""},
    {"events", true, ""},
    {"usage", true, ""},
    {"oidc", false, "OIDC tokens are not accepted; use Graft's own"},
    {"output.merged_4bit", false, "merged models are written in full precision"}};

}  // namespace

ServerService::ServerService(const ServiceContext& context, Bounds bounds)
    : context_(context), bounds_(bounds), started_(context.clock.WallNow()) {
  // Absent services are found by name: their descriptors must be linked into the program.
  for (const auto* linked : {v1::Evaluation::descriptor(), v1::Notification::descriptor(),
                             v1::InferenceSession::descriptor()}) {
    GRAFT_CHECK(linked != nullptr) << "a part of the contract is missing";
  }
}

rpc::Service ServerService::Bind() {
  rpc::Service service("graft.v1.ServerService");
  service.Unary("GetServerInfo", this, &ServerService::GetServerInfo);
  return service;
}

absl::StatusOr<v1::ServerInfo> ServerService::GetServerInfo(const rpc::Call&,
                                                            const v1::GetServerInfoRequest&) {
  v1::ServerInfo info;
  info.set_program("scheduler");
  info.set_version(GRAFT_VERSION);
  info.set_cluster(context_.cluster);
  info.add_api_versions("v1");
  info.add_agent_versions(1);
  v1::ServerInfo::Limits& limits = *info.mutable_limits();
  limits.set_max_page_size(rpc::kMaxPageSize);
  limits.set_max_message_bytes(16 << 20);
  limits.set_request_id_ttl_s(24 * 3600);
  limits.set_watch_horizon_s(absl::ToInt64Seconds(kWatchHorizon));
  limits.set_access_token_ttl_s(600);
  limits.set_default_deadline_s(60);
  limits.set_calls_per_second(bounds_.calls_per_second);
  limits.set_concurrent_streams(bounds_.concurrent_streams);
  info.add_methods(v1::METHOD_SFT);
  for (const Feature& feature : kFeatures) {
    v1::ServerInfo::Feature& one = *info.add_features();
    one.set_name(feature.name);
    one.set_available(feature.available);
    one.set_message(feature.why_not);
  }
  for (const AbsentService& absent : kAbsentServices) {
    v1::ServerInfo::Feature& one = *info.add_features();
    one.set_name(std::string(absent.feature));
    one.set_message(absl::StrCat(absent.service, " is not in this build"));
  }
  for (const std::string& family : spec::KnownFamilies()) info.add_model_families(family);
  info.set_fileservice_address(context_.fileservice_address);
  info.set_fake_trainer(context_.fake_trainer);
  *info.mutable_start_time() = ToTimestamp(started_);
  *info.mutable_time() = ToTimestamp(context_.clock.WallNow());
  info.set_revision(context_.store.revision());
  return info;
}

}  // namespace graft::scheduler
