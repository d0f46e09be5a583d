#include "scheduler/placement/explain.h"

#include <algorithm>
#include <optional>

#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "scheduler/placement/node_match.h"

namespace graft::scheduler {
namespace {

std::string LayoutText(const Layout& layout) {
  std::string text = absl::StrCat("tp ", layout.tp, ", dp ", layout.dp, ", pp ", layout.pp);
  if (layout.cp > 1) absl::StrAppend(&text, ", cp ", layout.cp);
  if (layout.ep > 1) absl::StrAppend(&text, ", ep ", layout.ep);
  return text;
}

std::string Several(int64_t count, absl::string_view noun) {
  return absl::StrCat(count, " ", noun, count == 1 ? "" : "s");
}

class Explainer {
 public:
  Explainer(const ClusterView& cluster, const WaitingQueue& queue, const PassInput& input,
            const std::string& id)
      : cluster_(cluster), queue_(queue), input_(input) {
    const WaitingQueue::Class* of = queue.Find(id);
    GRAFT_CHECK(of != nullptr) << id << " does not wait";
    job_ = of->like;
    job_.id = id;
    job_.sequence = queue.SequenceOf(id);
  }

  Explanation Run(const std::vector<Layout>& shapes) {
    const PassResult asked = Ask(job_, input_.topology, input_.quotas);
    if (Started(asked)) {
      result_.starts_now = true;
      result_.expected_start = input_.now;
      return std::move(result_);
    }
    result_.funnel = Measure(cluster_, job_.gang);
    NoteReasons(asked);
    NoteExpectedStart();
    TryRequests(shapes);
    TryNodes();
    TryQuota();
    TryPriority();
    return std::move(result_);
  }

 private:
  PassResult Ask(const WaitingJob& job, const Topology* topology, const Quotas& quotas) const {
    PassInput what_if = input_;
    what_if.topology = topology;
    what_if.quotas = quotas;
    what_if.what_if = &job;
    return RunPass(queue_, what_if);
  }
  // Whether it would start if nobody else waited.
  bool Fits(const WaitingJob& job) const {
    return FindSeat(*input_.topology, job, input_.now).has_value();
  }
  bool Started(const PassResult& result) const {
    return !result.starts.empty() && result.starts.back().id == job_.id;
  }

  void Say(std::string code, std::string text,
           std::vector<std::pair<std::string, int64_t>> numbers) {
    result_.reasons.push_back({std::move(code), std::move(text), std::move(numbers)});
  }

  void NoteReasons(const PassResult& asked) {
    const int world = job_.gang.layout.world();
    if (const absl::Status ever = FitsEmptyCluster(cluster_, job_.gang); !ever.ok()) {
      Say(absl::IsInvalidArgument(ever) ? "INVALID_SHAPE" : "NO_NODE_MATCHES",
          std::string(ever.message()), {{"needed", world}});
    }
    if (const absl::Status quota = input_.quotas.Admit(job_.account, world); !quota.ok()) {
      Say("QUOTA", std::string(quota.message()),
          {{"needed", world}, {"used", input_.quotas.Used(job_.account)}});
    }
    const int64_t kept = static_cast<int64_t>(asked.reservations.size() + input_.claims.size());
    if (!Fits(job_)) {
      NoteShortage();
    } else if (kept > 0) {
      Say("RESERVED", absl::StrCat("its room is free, but kept for ", Several(kept, "other job")),
          {{"reservations", kept}});
    }
    if (asked.jobs_ahead > 0) {
      Say("PRIORITY",
          absl::StrCat(Several(asked.devices_ahead, "device"), " are wanted by ",
                       Several(asked.jobs_ahead, "job"), " before it"),
          {{"jobs", asked.jobs_ahead}, {"devices", asked.devices_ahead}});
    }
    if (input_.shares != nullptr && asked.jobs_ahead > 0) {
      const double deficit = input_.shares->Deficit(job_.account, input_.now);
      if (deficit < 0) {
        const int64_t percent = static_cast<int64_t>(-deficit * 100 + 0.5);
        Say("FAIR_SHARE",
            absl::StrCat("workspace ", job_.account, " has had ", percent,
                         " % of the cluster's use above its share"),
            {{"percent_above", percent}});
      }
    }
    if (result_.reasons.empty()) {
      Say("PRIORITY", "jobs before it take the room in this pass",
          {{"starts", static_cast<int64_t>(asked.starts.size())}});
    }
  }

  WaitingJob OnAnyNodes() const {
    WaitingJob loose = job_;
    loose.gang.nodes = 0;
    return loose;
  }

  // What of the cluster is missing.
  void NoteShortage() {
    const Funnel& funnel = result_.funnel;
    const int world = job_.gang.layout.world();
    const std::string counts =
        absl::StrCat("needs ", world, " devices; ", funnel.nodes, " nodes, ", funnel.nodes_matching,
                     " match, ", funnel.nodes_schedulable, " of them take jobs; ",
                     funnel.devices_matching, " devices match, ", funnel.devices_free, " are free");
    if (funnel.devices_schedulable < world && funnel.devices_matching >= world) {
      Say("DRAINING", absl::StrCat(counts, "; nodes that would do are cordoned or lost"),
          {{"needed", world}, {"schedulable", funnel.devices_schedulable}});
    } else if (funnel.devices_free < world) {
      Say("CAPACITY", counts, {{"needed", world}, {"free", funnel.devices_free}});
    } else if (job_.gang.nodes > 0 && Fits(OnAnyNodes())) {
      const int share = world / job_.gang.nodes;
      Say("NODE_COUNT",
          absl::StrCat(counts, "; ", funnel.nodes_with_room, " nodes have the ", share,
                       " of one kind free that each of its ", job_.gang.nodes, " nodes gives"),
          {{"nodes", job_.gang.nodes},
           {"devices_of_each", share},
           {"nodes_with_room", funnel.nodes_with_room}});
    } else {
      Say("FRAGMENTED",
          absl::StrCat(counts, ", at most ", funnel.largest_free_domain, " in one NVLink domain (",
                       funnel.largest_free_domain_name, "); a TP group needs ", job_.gang.layout.tp,
                       ", the gang must stay in one ", LevelName(job_.gang.max_level)),
          {{"needed", world},
           {"free", funnel.devices_free},
           {"largest_domain", funnel.largest_free_domain}});
    }
  }

  // Behind the room of all before it, whether that is kept already or not.
  void NoteExpectedStart() {
    PassInput patient = input_;
    patient.keeps_room = nullptr;
    patient.what_if = &job_;
    const PassResult asked = RunPass(queue_, patient);
    Topology free = *input_.topology;
    Timeline timeline(free, input_.Running());
    for (const PassStart& start : asked.starts) {
      if (start.id == job_.id) continue;
      free.Take(start.placement.ranks);
      timeline.Add(free, start.placement.ranks, input_.now + queue_.Find(start.id)->like.estimate);
    }
    Reservation found;
    if (!timeline.Find(free, job_.gang, asked.reservations, input_.now, found)) return;
    result_.expected_start = found.start;
  }

  bool TryJob(Remedy remedy, const WaitingJob& changed, const std::string& text) {
    // A job that does not fit what is free does not start, whoever stands before it.
    if (!Fits(changed)) return false;
    if (!Started(Ask(changed, input_.topology, input_.quotas))) return false;
    result_.counterfactuals.push_back({remedy, absl::StrCat("would start now ", text), changed});
    return true;
  }

  void TryRequests(const std::vector<Layout>& shapes) {
    for (int level = static_cast<int>(job_.gang.max_level) + 1;
         level <= static_cast<int>(Level::kCluster); ++level) {
      WaitingJob wider = job_;
      wider.gang.max_level = static_cast<Level>(level);
      const absl::string_view name = LevelName(wider.gang.max_level);
      if (TryJob(Remedy::kMaxLevel, wider, absl::StrCat("with max_level ", name))) break;
    }
    const Layout& layout = job_.gang.layout;
    for (int dp = layout.dp - 1; dp >= 1; --dp) {
      if (layout.dp % dp != 0 || (layout.cp * dp) % layout.ep != 0) continue;
      WaitingJob fewer = job_;
      fewer.gang.layout.dp = dp;
      if (job_.gang.nodes > 0) {
        // As many of each node while that comes out, on fewer of them.
        const int share = layout.world() / job_.gang.nodes;
        const int world = fewer.gang.layout.world();
        if (world % share == 0) fewer.gang.nodes = world / share;
      }
      if (TryJob(Remedy::kReplicas, fewer, absl::StrCat("with dp ", dp))) break;
    }
    if (job_.gang.nodes > 0) TryJob(Remedy::kNodes, OnAnyNodes(), "on any number of nodes");
    for (const Layout& shape : shapes) {
      WaitingJob other = job_;
      other.gang.layout = shape;
      if (TryJob(Remedy::kShape, other, absl::StrCat("with ", LayoutText(shape)))) break;
    }
    if (!job_.gang.allow_tp_across_domains && layout.tp > 1) {
      WaitingJob split = job_;
      split.gang.allow_tp_across_domains = true;
      TryJob(Remedy::kSplitTp, split, "with allow_tp_across_nodes, at a slower step");
    }
    for (const auto& [key, value] : job_.gang.labels) {
      WaitingJob without = job_;
      without.gang.labels.erase(key);
      TryJob(Remedy::kLabels, without, absl::StrCat("without the label ", key, "=", value));
    }
    TryTaints();
  }

  void TryTaints() {
    absl::btree_set<std::string> taints;
    for (const auto& [name, node] : cluster_.nodes()) {
      taints.insert(node.taints.begin(), node.taints.end());
    }
    for (const std::string& known : job_.gang.tolerations) taints.erase(known);
    for (const std::string& taint : taints) {
      WaitingJob tolerant = job_;
      tolerant.gang.tolerations.push_back(taint);
      TryJob(Remedy::kTolerations, tolerant, absl::StrCat("if it tolerated ", taint));
    }
  }

  // With all nodes back; then with no more of them than it would take.
  void TryNodes() {
    std::vector<std::string> closed;
    for (const auto& [name, node] : cluster_.nodes()) {
      if (node.schedulable || node.available_until < input_.now + kLeastStay) continue;
      if (NodeMisfit(node, job_.gang).empty()) closed.push_back(name);
    }
    for (int round = 0; round < 2 && !closed.empty(); ++round) {
      Topology open = *input_.topology;
      for (const std::string& node : closed) open.SetUp(node, true);
      const PassResult asked = Ask(job_, &open, input_.quotas);
      if (!Started(asked)) return;
      if (round == 1) result_.counterfactuals.pop_back();
      result_.counterfactuals.push_back(
          {Remedy::kUncordon,
           absl::StrCat("would start now if these nodes took jobs: ", absl::StrJoin(closed, ", ")),
           job_, closed});
      const std::vector<std::string> used = asked.starts.back().placement.Nodes();
      std::vector<std::string> needed;
      std::set_intersection(closed.begin(), closed.end(), used.begin(), used.end(),
                            std::back_inserter(needed));
      if (needed.size() == closed.size()) return;
      closed = std::move(needed);
    }
  }

  void TryQuota() {
    const int world = job_.gang.layout.world();
    if (input_.quotas.Admits(job_.account, world)) return;
    const int enough = input_.quotas.Used(job_.account) + world;
    Quotas raised = input_.quotas;
    raised.SetGuarantee(job_.account, enough);
    if (!Started(Ask(job_, input_.topology, raised))) return;
    result_.counterfactuals.push_back({Remedy::kQuota,
                                       absl::StrCat("would start now if workspace ", job_.account,
                                                    " were guaranteed ", enough, " devices"),
                                       job_,
                                       {},
                                       enough});
  }

  void TryPriority() {
    int most = job_.priority;
    for (const auto& [key, of] : queue_.classes()) most = std::max(most, of.like.priority);
    WaitingJob first = job_;
    first.priority = most + 1;
    TryJob(Remedy::kPriority, first, absl::StrCat("with priority ", first.priority));
  }

  const ClusterView& cluster_;
  const WaitingQueue& queue_;
  const PassInput& input_;
  WaitingJob job_;
  Explanation result_;
};

}  // namespace

Explanation Explain(const ClusterView& cluster, const WaitingQueue& queue, const PassInput& input,
                    const std::string& id, const std::vector<Layout>& shapes) {
  return Explainer(cluster, queue, input, id).Run(shapes);
}

}  // namespace graft::scheduler
