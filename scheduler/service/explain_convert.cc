#include "scheduler/service/explain_convert.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

absl::string_view LevelField(Level level) {
  switch (level) {
    case Level::kNode:
      return "LEVEL_NODE";
    case Level::kDomain:
      return "LEVEL_NVLINK_DOMAIN";
    case Level::kRack:
      return "LEVEL_RACK";
    case Level::kRailGroup:
    case Level::kSpine:
      return "LEVEL_SPINE";
    case Level::kCluster:
      return "LEVEL_CLUSTER";
  }
  return "";
}

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", text, "\""); }

// The fields of the specification that the change sets; none where it is not the job's to make.
void SetFields(const Counterfactual& change, v1::Explanation::Counterfactual& message) {
  auto& fields = *message.mutable_set();
  const GangRequest& gang = change.job.gang;
  const auto set = [&](absl::string_view path, std::string value) {
    fields[absl::StrCat("spec.", path)] = std::move(value);
  };
  // Without a number of nodes the gang goes on as many as it takes.
  const auto set_devices = [&] {
    set("parallelism.nodes", gang.nodes > 0 ? absl::StrCat(gang.nodes) : "null");
    set("parallelism.gpus_per_node", absl::StrCat(gang.layout.world() / std::max(gang.nodes, 1)));
  };
  switch (change.remedy) {
    case Remedy::kMaxLevel:
      return set("resources.max_level", Quoted(LevelField(gang.max_level)));
    case Remedy::kReplicas:
    case Remedy::kShape:
      set("parallelism.tensor_parallel_size", absl::StrCat(gang.layout.tp));
      set("parallelism.pipeline_parallel_size", absl::StrCat(gang.layout.pp));
      set("parallelism.context_parallel_size", absl::StrCat(gang.layout.cp));
      set("parallelism.expert_parallel_size", absl::StrCat(gang.layout.ep));
      return set_devices();
    case Remedy::kNodes:
      return set_devices();
    case Remedy::kSplitTp:
      return set("parallelism.allow_tp_across_nodes", "true");
    case Remedy::kTolerations:
      return set("resources.tolerations",
                 absl::StrCat("[",
                              absl::StrJoin(gang.tolerations, ",",
                                            [](std::string* out, const std::string& one) {
                                              absl::StrAppend(out, Quoted(one));
                                            }),
                              "]"));
    case Remedy::kLabels:
      return set("resources.node_selector",
                 absl::StrCat("{",
                              absl::StrJoin(gang.labels, ",",
                                            [](std::string* out, const auto& one) {
                                              absl::StrAppend(out, Quoted(one.first), ":",
                                                              Quoted(one.second));
                                            }),
                              "}"));
    case Remedy::kPriority:
      return set("resources.priority", absl::StrCat(change.job.priority));
    case Remedy::kUncordon:
    case Remedy::kQuota:
      return;
  }
}

}  // namespace

void FillExplanation(const JobExplanation& why, bool queued, v1::Explanation& message) {
  for (const WhyWaiting& reason : why.reasons) {
    v1::Explanation::Cause& cause = *message.add_causes();
    cause.set_code(CauseCode(reason.code));
    cause.set_message(reason.text);
    for (const auto& [name, value] : reason.numbers) {
      (*cause.mutable_values())[name] = absl::StrCat(value);
    }
    absl::StrAppend(message.mutable_text(), message.text().empty() ? "" : "; ", reason.text);
  }
  const auto step = [&](absl::string_view demand, int64_t nodes, int64_t devices) {
    v1::Explanation::FunnelStep& one = *message.add_funnel();
    one.set_demand(std::string(demand));
    one.set_nodes(nodes);
    one.set_devices(devices);
  };
  if (queued) {
    step("all nodes", why.funnel.nodes, 0);
    step("labels, taints, device kind and memory", why.funnel.nodes_matching,
         why.funnel.devices_matching);
    step("takes jobs", why.funnel.nodes_schedulable, why.funnel.devices_schedulable);
    step("free", why.funnel.nodes_schedulable, why.funnel.devices_free);
  }
  for (const Counterfactual& change : why.counterfactuals) {
    v1::Explanation::Counterfactual& one = *message.add_counterfactuals();
    one.set_change(change.text);
    SetFields(change, one);
  }
  if (why.expected_start != absl::InfiniteFuture()) {
    *message.mutable_expected_start_time() = ToTimestamp(why.expected_start);
  }
  if (why.expected_start_p90 != absl::InfiniteFuture()) {
    *message.mutable_expected_start_time_p90() = ToTimestamp(why.expected_start_p90);
  }
}

}  // namespace graft::scheduler
