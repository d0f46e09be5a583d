#include "scheduler/service/records.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace graft::scheduler {
namespace {

constexpr int kVersion = 1;

Json Begin() {
  Json json = Json::MakeObject();
  json.Set("v", kVersion);
  return json;
}

absl::StatusOr<Json> Parse(absl::string_view bytes, absl::string_view what) {
  absl::StatusOr<Json> json = Json::Parse(bytes);
  if (!json.ok() || !json->is_object()) {
    return absl::DataLossError(absl::StrCat("a stored ", what, " cannot be read"));
  }
  if (const int64_t version = json->GetInt("v"); version < 1 || version > kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("a stored ", what, " has version ", version,
                                                      "; this program reads up to ", kVersion,
                                                      ": start the newer program"));
  }
  return json;
}

Json Time(absl::Time time) { return Json(absl::ToUnixMicros(time)); }
absl::Time TimeOf(const Json& json, absl::string_view key) {
  return json.Find(key) == nullptr ? absl::InfiniteFuture()
                                   : absl::FromUnixMicros(json.GetInt(key));
}
void SetTime(Json& json, absl::string_view key, absl::Time time) {
  if (time != absl::InfiniteFuture()) json.Set(key, Time(time));
}

Json Strings(const std::vector<std::string>& values) {
  Json json = Json::MakeArray();
  for (const std::string& value : values) json.Append(value);
  return json;
}
std::vector<std::string> StringsOf(const Json& json, absl::string_view key) {
  std::vector<std::string> values;
  const Json* list = json.Find(key);
  if (list == nullptr || !list->is_array()) return values;
  for (const Json& value : list->as_array()) {
    if (value.is_string()) values.push_back(value.as_string());
  }
  return values;
}

Json Labels(const absl::btree_map<std::string, std::string>& labels) {
  Json json = Json::MakeObject();
  for (const auto& [key, value] : labels) json.Set(key, value);
  return json;
}
absl::btree_map<std::string, std::string> LabelsOf(const Json& json, absl::string_view key) {
  absl::btree_map<std::string, std::string> labels;
  const Json* map = json.Find(key);
  if (map == nullptr || !map->is_object()) return labels;
  for (const auto& [name, value] : map->as_object()) {
    if (value.is_string()) labels[name] = value.as_string();
  }
  return labels;
}

Json LayoutJson(const Layout& layout) {
  Json json = Json::MakeObject();
  json.Set("tp", layout.tp).Set("cp", layout.cp).Set("dp", layout.dp);
  json.Set("pp", layout.pp).Set("ep", layout.ep);
  return json;
}
Layout LayoutOf(const Json& json) {
  const auto factor = [&](absl::string_view key) { return static_cast<int>(json.GetInt(key, 1)); };
  return {factor("tp"), factor("cp"), factor("dp"), factor("pp"), factor("ep")};
}
Json LayoutsJson(const std::vector<Layout>& layouts) {
  Json json = Json::MakeArray();
  for (const Layout& layout : layouts) json.Append(LayoutJson(layout));
  return json;
}
std::vector<Layout> LayoutsOf(const Json& json, absl::string_view key) {
  std::vector<Layout> layouts;
  const Json* list = json.Find(key);
  if (list == nullptr || !list->is_array()) return layouts;
  for (const Json& layout : list->as_array()) layouts.push_back(LayoutOf(layout));
  return layouts;
}

Json GangJson(const GangRequest& gang) {
  Json json = LayoutJson(gang.layout);
  json.Set("kind", gang.device_kind).Set("memory", gang.min_memory_bytes);
  json.Set("labels", Labels(gang.labels)).Set("tolerations", Strings(gang.tolerations));
  json.Set("across", gang.allow_tp_across_domains);
  json.Set("max_level", static_cast<int>(gang.max_level)).Set("nodes", gang.nodes);
  if (!gang.only_nodes.empty()) json.Set("only_nodes", Strings(gang.only_nodes));
  return json;
}
GangRequest GangOf(const Json& json) {
  GangRequest gang;
  gang.layout = LayoutOf(json);
  gang.device_kind = json.GetString("kind");
  gang.min_memory_bytes = json.GetInt("memory");
  gang.labels = LabelsOf(json, "labels");
  gang.tolerations = StringsOf(json, "tolerations");
  gang.allow_tp_across_domains = json.GetBool("across");
  gang.max_level = static_cast<Level>(json.GetInt("max_level", static_cast<int>(Level::kCluster)));
  gang.nodes = static_cast<int>(json.GetInt("nodes"));
  gang.only_nodes = StringsOf(json, "only_nodes");
  return gang;
}

Json RequestJson(const JobRequest& request) {
  Json json = Json::MakeObject();
  json.Set("key", request.key).Set("workspace", request.workspace).Set("queue", request.queue);
  json.Set("priority", request.priority).Set("gang", GangJson(request.gang));
  json.Set("other_layouts", LayoutsJson(request.other_layouts));
  if (request.expected_run_time != absl::InfiniteDuration()) {
    json.Set("expected_us", absl::ToInt64Microseconds(request.expected_run_time));
  }
  json.Set("max_restarts", request.max_restarts).Set("validate", request.needs_validation);
  json.Set("preemptible", request.preemptible).Set("kind", static_cast<int>(request.kind));
  json.Set("time_limit_us", absl::ToInt64Microseconds(request.time_limit));
  json.Set("pause_at_limit", request.at_time_limit == AtTimeLimit::kPause);
  json.Set("complete_at_limit", request.at_time_limit == AtTimeLimit::kComplete);
  json.Set("hold", request.hold);
  if (!request.after.empty()) json.Set("after", Strings(request.after));
  json.Set("start_version", request.start_version).Set("start_step", request.start_step);
  return json;
}
JobRequest RequestOf(const Json& json) {
  JobRequest request;
  request.key = json.GetString("key");
  request.workspace = json.GetString("workspace");
  request.queue = json.GetString("queue");
  request.priority = static_cast<int>(json.GetInt("priority"));
  if (const Json* gang = json.Find("gang")) request.gang = GangOf(*gang);
  request.other_layouts = LayoutsOf(json, "other_layouts");
  if (json.Find("expected_us") != nullptr) {
    request.expected_run_time = absl::Microseconds(json.GetInt("expected_us"));
  }
  request.max_restarts = static_cast<int>(json.GetInt("max_restarts"));
  request.needs_validation = json.GetBool("validate");
  request.preemptible = json.GetBool("preemptible", true);
  request.kind = static_cast<GangKind>(json.GetInt("kind"));
  request.time_limit = absl::Microseconds(json.GetInt("time_limit_us"));
  request.at_time_limit = json.GetBool("complete_at_limit")      ? AtTimeLimit::kComplete
                          : json.GetBool("pause_at_limit", true) ? AtTimeLimit::kPause
                                                                 : AtTimeLimit::kFail;
  request.hold = json.GetBool("hold");
  request.after = StringsOf(json, "after");
  request.start_version = json.GetString("start_version");
  request.start_step = json.GetInt("start_step");
  return request;
}

Json AttemptJson(const Attempt& attempt) {
  Json json = Json::MakeObject();
  json.Set("number", attempt.number).Set("validation", attempt.validation);
  json.Set("mode", static_cast<int>(attempt.mode)).Set("end", static_cast<int>(attempt.end));
  json.Set("message", attempt.end_message).Set("rendezvous", attempt.rendezvous);
  json.Set("result", attempt.result_session);
  json.Set("layout", LayoutJson(attempt.layout)).Set("device_seconds", attempt.device_seconds);
  SetTime(json, "started_us", attempt.started);
  SetTime(json, "running_us", attempt.running);
  SetTime(json, "told_us", attempt.told);
  Json ranks = Json::MakeArray();
  for (const DeviceRef& ref : attempt.ranks) {
    Json rank = Json::MakeArray();
    rank.Append(ref.node);
    rank.Append(ref.device);
    ranks.Append(std::move(rank));
  }
  json.Set("ranks", std::move(ranks));
  Json parts = Json::MakeObject();
  for (const auto& [node, part] : attempt.parts) {
    Json one = Json::MakeArray();
    one.Append(part.epoch);
    one.Append(static_cast<int>(part.state));
    parts.Set(node, std::move(one));
  }
  json.Set("parts", std::move(parts));
  return json;
}
Attempt AttemptOf(const Json& json) {
  Attempt attempt;
  attempt.number = static_cast<int>(json.GetInt("number"));
  attempt.validation = json.GetBool("validation");
  attempt.mode = static_cast<AttemptMode>(json.GetInt("mode"));
  attempt.end = static_cast<AttemptEnd>(json.GetInt("end"));
  attempt.end_message = json.GetString("message");
  attempt.rendezvous = json.GetString("rendezvous");
  attempt.result_session = json.GetString("result");
  if (const Json* layout = json.Find("layout")) attempt.layout = LayoutOf(*layout);
  attempt.device_seconds = json.GetDouble("device_seconds");
  attempt.started = TimeOf(json, "started_us");
  attempt.running = TimeOf(json, "running_us");
  attempt.told = TimeOf(json, "told_us");
  if (const Json* ranks = json.Find("ranks"); ranks != nullptr && ranks->is_array()) {
    for (const Json& rank : ranks->as_array()) {
      attempt.ranks.push_back(
          {rank.as_array()[0].as_string(), static_cast<int>(rank.as_array()[1].as_int())});
    }
  }
  if (const Json* parts = json.Find("parts"); parts != nullptr && parts->is_object()) {
    for (const auto& [node, part] : parts->as_object()) {
      attempt.parts[node] = {part.as_array()[0].as_int(),
                             static_cast<PartState>(part.as_array()[1].as_int())};
    }
  }
  return attempt;
}

Json UsageJson(const JobUsage& usage) {
  Json json = Json::MakeObject();
  json.Set("device", usage.device_seconds).Set("busy", usage.busy_device_seconds);
  json.Set("lost_s", usage.lost_seconds).Set("queued", usage.queued_seconds);
  json.Set("preempted", usage.preempted_seconds).Set("preemptions", usage.preemptions);
  return json;
}
JobUsage UsageOf(const Json& json) {
  return {.device_seconds = json.GetDouble("device"),
          .busy_device_seconds = json.GetDouble("busy"),
          .lost_seconds = json.GetDouble("lost_s"),
          .queued_seconds = json.GetDouble("queued"),
          .preempted_seconds = json.GetDouble("preempted"),
          .preemptions = static_cast<int>(json.GetInt("preemptions"))};
}

void SetCheckpoint(Json& json, absl::string_view key, const Checkpoint& checkpoint) {
  json.Set(key, checkpoint.version).Set(absl::StrCat(key, "_step"), checkpoint.step);
  json.Set(absl::StrCat(key, "_session"), checkpoint.session);
  json.Set(absl::StrCat(key, "_bytes"), checkpoint.bytes);
  if (checkpoint.val_loss) json.Set(absl::StrCat(key, "_val_loss"), *checkpoint.val_loss);
  if (checkpoint.published != absl::InfinitePast()) {
    SetTime(json, absl::StrCat(key, "_us"), checkpoint.published);
  }
}

Checkpoint CheckpointOf(const Json& json, absl::string_view key) {
  Checkpoint checkpoint{.version = json.GetString(key),
                        .step = json.GetInt(absl::StrCat(key, "_step")),
                        .session = json.GetString(absl::StrCat(key, "_session")),
                        .bytes = json.GetInt(absl::StrCat(key, "_bytes"))};
  const std::string loss = absl::StrCat(key, "_val_loss"), time = absl::StrCat(key, "_us");
  if (json.Find(loss) != nullptr) checkpoint.val_loss = json.GetDouble(loss);
  if (json.Find(time) != nullptr) checkpoint.published = TimeOf(json, time);
  return checkpoint;
}

Json DeviceJson(const Device& device) {
  Json json = Json::MakeObject();
  json.Set("index", device.index).Set("kind", device.kind).Set("memory", device.memory_bytes);
  json.Set("domain", device.nvlink_domain).Set("healthy", device.healthy);
  json.Set("card", device.card);
  return json;
}

}  // namespace

std::string EncodeJob(const Job& job) {
  Json json = Begin();
  json.Set("request", RequestJson(job.request)).Set("sequence", job.sequence);
  json.Set("state", static_cast<int>(job.state));
  json.Set("code", job.reason_code).Set("reason", job.reason);
  json.Set("attempts", job.attempts).Set("restarts", job.restarts);
  if (job.attempt.live()) json.Set("attempt", AttemptJson(job.attempt));
  SetCheckpoint(json, "checkpoint", job.checkpoint);
  json.Set("checkpoint_request", job.checkpoint_request).Set("finish", job.finish);
  json.Set("finish_with_best", job.finish_with_best);
  SetCheckpoint(json, "publishing", job.publishing);
  json.Set("result", job.result_version).Set("time_is_up", job.time_is_up);
  if (!job.failed_with.empty()) json.Set("failed_with", job.failed_with);
  json.Set("report_session", job.report_session).Set("report", job.report_version);
  json.Set("usage", UsageJson(job.usage)).Set("uncounted", job.device_seconds_limited);
  SetTime(json, "since_us", job.since);
  json.Set("step", job.step).Set("steps", job.steps_total);
  SetTime(json, "created_us", job.created);
  SetTime(json, "started_us", job.started);
  SetTime(json, "finished_us", job.finished);
  json.Set("failed_nodes", Strings(job.failed_nodes));
  return json.Dump();
}

absl::StatusOr<Job> DecodeJob(absl::string_view bytes) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, Parse(bytes, "job"));
  Job job;
  if (const Json* request = json.Find("request")) job.request = RequestOf(*request);
  job.sequence = json.GetInt("sequence");
  job.state = static_cast<JobState>(json.GetInt("state"));
  job.reason_code = json.GetString("code");
  job.reason = json.GetString("reason");
  job.attempts = static_cast<int>(json.GetInt("attempts"));
  job.restarts = static_cast<int>(json.GetInt("restarts"));
  if (const Json* attempt = json.Find("attempt")) job.attempt = AttemptOf(*attempt);
  job.checkpoint = CheckpointOf(json, "checkpoint");
  job.checkpoint_request = json.GetInt("checkpoint_request");
  job.finish = json.GetBool("finish");
  job.finish_with_best = json.GetBool("finish_with_best");
  job.publishing = CheckpointOf(json, "publishing");
  job.result_version = json.GetString("result");
  job.report_session = json.GetString("report_session");
  job.report_version = json.GetString("report");
  job.time_is_up = json.GetBool("time_is_up");
  job.failed_with = json.GetString("failed_with");
  if (const Json* usage = json.Find("usage")) job.usage = UsageOf(*usage);
  job.device_seconds_limited = json.GetDouble("uncounted");
  job.step = json.GetInt("step");
  job.steps_total = json.GetInt("steps");
  job.created = TimeOf(json, "created_us");
  job.since = json.Find("since_us") == nullptr ? job.created : TimeOf(json, "since_us");
  job.started = TimeOf(json, "started_us");
  job.finished = TimeOf(json, "finished_us");
  job.failed_nodes = StringsOf(json, "failed_nodes");
  if (job.request.key.empty()) return absl::DataLossError("a stored job has no key");
  return job;
}

std::string EncodeNode(const NodeState& state, const Node& node) {
  Json json = Begin();
  json.Set("name", state.name).Set("epoch", state.epoch).Set("alive", state.alive);
  json.Set("cordoned", state.cordoned).Set("draining", state.draining).Set("why", state.why);
  json.Set("leaving", state.leaving);
  SetTime(json, "drain_until_us", state.drain_until);
  json.Set("labels", Labels(node.labels)).Set("taints", Strings(node.taints));
  json.Set("rack", node.rack).Set("rail_group", node.rail_group).Set("spine", node.spine);
  SetTime(json, "available_until_us", node.available_until);
  Json devices = Json::MakeArray();
  for (const Device& device : node.devices) devices.Append(DeviceJson(device));
  json.Set("devices", std::move(devices));
  return json.Dump();
}

std::vector<Holder> HoldersOf(const Core& core, const NodeState& node) {
  std::vector<Holder> holders;
  for (const JobKey& key : node.jobs) {
    const Attempt& attempt = core.FindJob(key)->attempt;
    Holder& holder = holders.emplace_back(Holder{key, attempt.number, {}});
    for (const DeviceRef& ref : attempt.ranks) {
      if (ref.node == node.name) holder.devices.push_back(ref.device);
    }
    std::sort(holder.devices.begin(), holder.devices.end());
  }
  return holders;
}

std::string EncodeHolders(const std::vector<Holder>& holders) {
  Json json = Begin();
  Json list = Json::MakeArray();
  for (const Holder& holder : holders) {
    Json one = Json::MakeObject();
    Json devices = Json::MakeArray();
    for (int device : holder.devices) devices.Append(device);
    one.Set("job", holder.job).Set("attempt", holder.attempt).Set("devices", std::move(devices));
    list.Append(std::move(one));
  }
  json.Set("holders", std::move(list));
  return json.Dump();
}

absl::StatusOr<std::vector<Holder>> DecodeHolders(absl::string_view bytes) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, Parse(bytes, "node's holders"));
  std::vector<Holder> holders;
  const Json* list = json.Find("holders");
  if (list == nullptr || !list->is_array()) return holders;
  for (const Json& one : list->as_array()) {
    Holder& holder = holders.emplace_back();
    holder.job = one.GetString("job");
    holder.attempt = static_cast<int>(one.GetInt("attempt"));
    const Json* devices = one.Find("devices");
    if (devices == nullptr || !devices->is_array()) continue;
    for (const Json& device : devices->as_array()) {
      holder.devices.push_back(static_cast<int>(device.as_int()));
    }
  }
  return holders;
}

absl::StatusOr<std::pair<NodeState, Node>> DecodeNode(absl::string_view bytes) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, Parse(bytes, "node"));
  NodeState state;
  state.name = json.GetString("name");
  state.epoch = json.GetInt("epoch");
  state.alive = json.GetBool("alive");
  state.cordoned = json.GetBool("cordoned");
  state.draining = json.GetBool("draining");
  state.leaving = json.GetBool("leaving");
  state.drain_until = TimeOf(json, "drain_until_us");
  state.why = json.GetString("why");
  Node node{.name = state.name};
  node.labels = LabelsOf(json, "labels");
  node.taints = StringsOf(json, "taints");
  node.rack = json.GetString("rack");
  node.rail_group = json.GetString("rail_group");
  node.spine = json.GetString("spine");
  node.available_until = TimeOf(json, "available_until_us");
  if (const Json* devices = json.Find("devices"); devices != nullptr && devices->is_array()) {
    for (const Json& device : devices->as_array()) {
      node.devices.push_back({.index = static_cast<int>(device.GetInt("index")),
                              .kind = device.GetString("kind"),
                              .memory_bytes = device.GetInt("memory"),
                              .nvlink_domain = device.GetString("domain"),
                              .healthy = device.GetBool("healthy", true),
                              .card = static_cast<int>(device.GetInt("card", -1))});
    }
  }
  if (state.name.empty()) return absl::DataLossError("a stored node has no name");
  return std::make_pair(std::move(state), std::move(node));
}

std::string EncodeQueue(const Queue& queue) {
  Json json = Begin();
  json.Set("name", queue.name).Set("priority", queue.priority).Set("preempts", queue.preempts);
  json.Set("mode", static_cast<int>(queue.mode)).Set("backfill", queue.backfill);
  json.Set("fair", queue.fair);
  json.Set("min_run_us", absl::ToInt64Microseconds(queue.min_run_time));
  json.Set("half_life_us", absl::ToInt64Microseconds(queue.half_life));
  Json shares = Json::MakeArray();
  for (const Share& share : queue.shares) {
    Json one = Json::MakeObject();
    one.Set("workspace", share.workspace).Set("quota", share.quota).Set("borrow", share.borrow);
    one.Set("weight", share.weight);
    shares.Append(std::move(one));
  }
  json.Set("shares", std::move(shares));
  return json.Dump();
}

absl::StatusOr<Queue> DecodeQueue(absl::string_view bytes) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, Parse(bytes, "queue"));
  Queue queue{.name = json.GetString("name"),
              .priority = static_cast<int>(json.GetInt("priority")),
              .preempts = json.GetBool("preempts", true),
              .mode = static_cast<QueueMode>(json.GetInt("mode", 1)),
              .backfill = json.GetBool("backfill", true),
              .fair = json.GetBool("fair", true),
              .min_run_time = absl::Microseconds(json.GetInt("min_run_us")),
              .half_life = absl::Microseconds(json.GetInt("half_life_us"))};
  const Json* shares = json.Find("shares");
  if (shares == nullptr || !shares->is_array()) return queue;
  for (const Json& share : shares->as_array()) {
    queue.shares.push_back({.workspace = share.GetString("workspace"),
                            .quota = static_cast<int>(share.GetInt("quota", -1)),
                            .borrow = static_cast<int>(share.GetInt("borrow", -1)),
                            .weight = share.GetDouble("weight", 1)});
  }
  return queue;
}

}  // namespace graft::scheduler
