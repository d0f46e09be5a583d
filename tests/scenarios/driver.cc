#include "tests/scenarios/driver.h"

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace graft::scheduler {
namespace {

absl::Status Unmet(absl::string_view what) { return absl::AbortedError(what); }

absl::StatusOr<Level> LevelNamed(const std::string& name) {
  static const std::map<std::string, Level> kLevels = {
      {"node", Level::kNode},      {"domain", Level::kDomain}, {"rack", Level::kRack},
      {"rail", Level::kRailGroup}, {"spine", Level::kSpine},   {"cluster", Level::kCluster}};
  const auto it = kLevels.find(name);
  if (it == kLevels.end()) return absl::InvalidArgumentError(absl::StrCat("no level ", name));
  return it->second;
}

}  // namespace

int Scenario::Line::Number(const std::string& key, int otherwise) const {
  const auto it = pairs.find(key);
  int value = otherwise;
  GRAFT_CHECK(it == pairs.end() || absl::SimpleAtoi(it->second, &value)) << key;
  return value;
}

absl::Duration Scenario::Line::Time(const std::string& key, absl::Duration otherwise) const {
  const auto it = pairs.find(key);
  absl::Duration value = otherwise;
  GRAFT_CHECK(it == pairs.end() || absl::ParseDuration(it->second, &value)) << key;
  return value;
}

std::string Scenario::Line::Text(const std::string& key, const std::string& otherwise) const {
  const auto it = pairs.find(key);
  return it == pairs.end() ? otherwise : it->second;
}

absl::StatusOr<Scenario::Line> Scenario::Cut(absl::string_view text) {
  Line line;
  const size_t comment = text.find('#');
  text = text.substr(0, comment);
  if (const size_t quote = text.find('"'); quote != absl::string_view::npos) {
    const size_t end = text.rfind('"');
    if (end == quote) return absl::InvalidArgumentError("a quotation has no end");
    line.quoted = std::string(text.substr(quote + 1, end - quote - 1));
    text = text.substr(0, quote);
  }
  for (absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(word, absl::MaxSplits('=', 1));
    if (absl::StrContains(word, "=")) {
      line.pairs[pair.first] = pair.second;
    } else {
      line.words.emplace_back(word);
    }
  }
  return line;
}

Scenario::Scenario() { Open(); }

void Scenario::Open() {
  engine_.reset();
  store_ = std::make_unique<MemStore>(disk_);
  invariants_ = InvariantChecker();
  absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Open(*store_, *this, {}, now_);
  GRAFT_CHECK_OK(engine.status());
  engine_ = *std::move(engine);
}

std::vector<std::string> Scenario::Play(absl::string_view text) {
  std::vector<std::string> wrong;
  int number = 0;
  for (absl::string_view raw : absl::StrSplit(text, '\n')) {
    ++number;
    const absl::StatusOr<Line> line = Cut(raw);
    absl::Status done = line.status();
    if (line.ok() && line->words.empty()) continue;
    if (line.ok()) done = Do(*line);
    // What the scheduler refuses is told by the next line; all else is a failure of the scenario.
    const bool told = !line.ok() || absl::StartsWith(line->words[0], "expect");
    if (!done.ok() && (told || absl::IsInvalidArgument(done) || absl::IsAborted(done))) {
      wrong.push_back(absl::StrCat("line ", number, ": ", done.message()));
    }
    last_ = done;
    for (const std::string& broken : invariants_.Check(engine_->core())) {
      wrong.push_back(absl::StrCat("line ", number, ": ", broken));
    }
  }
  return wrong;
}

absl::Status Scenario::Do(const Line& line) {
  using Verb = absl::Status (Scenario::*)(const Line&);
  static const std::map<std::string, Verb> kVerbs = {{"node", &Scenario::PutNode},
                                                     {"queue", &Scenario::PutQueue},
                                                     {"share", &Scenario::PutShare},
                                                     {"job", &Scenario::SubmitJob},
                                                     {"pause", &Scenario::CommandJob},
                                                     {"resume", &Scenario::CommandJob},
                                                     {"cancel", &Scenario::CommandJob},
                                                     {"cordon", &Scenario::CommandNode},
                                                     {"uncordon", &Scenario::CommandNode},
                                                     {"drain", &Scenario::CommandNode},
                                                     {"runs", &Scenario::RanksOf},
                                                     {"stops", &Scenario::RanksOf},
                                                     {"finishes", &Scenario::RanksOf},
                                                     {"fails", &Scenario::Fail},
                                                     {"step", &Scenario::Progress},
                                                     {"checkpoint", &Scenario::Progress},
                                                     {"silent", &Scenario::Speak},
                                                     {"speaks", &Scenario::Speak},
                                                     {"after", &Scenario::Wait},
                                                     {"expect", &Scenario::Expect},
                                                     {"expect-refused", &Scenario::ExpectRefusal},
                                                     {"expect-helps", &Scenario::ExpectHelp}};
  if (line.words[0] == "restart") return Open(), absl::OkStatus();
  const auto verb = kVerbs.find(line.words[0]);
  if (verb == kVerbs.end()) {
    return absl::InvalidArgumentError(absl::StrCat("no verb ", line.words[0]));
  }
  if (line.words.size() < 2 && line.words[0] != "expect-refused") {
    return absl::InvalidArgumentError("of what?");
  }
  const absl::Status done = (this->*verb->second)(line);
  if (!absl::StartsWith(line.words[0], "expect")) SyncAll();
  return done;
}

absl::Status Scenario::Step(const Event& event) {
  absl::Status status;
  engine_->Run({{.work = [&](Turn& turn) { return status = turn.Step(event); }}}, now_);
  // The fileservice is prompt.
  for (const PublishCall& call : std::exchange(calls_, {})) {
    GRAFT_RETURN_IF_ERROR(
        Step(CallAnswered{call.id, absl::OkStatus(), absl::StrCat("v-", call.session)}));
  }
  return status;
}

absl::Status Scenario::PutNode(const Line& line) {
  const std::string& name = line.words[1];
  Node node{.name = name,
            .rack = line.Text("rack", ""),
            .rail_group = line.Text("rail", ""),
            .spine = line.Text("spine", "")};
  if (line.pairs.contains("label")) {
    const std::pair<std::string, std::string> label = absl::StrSplit(line.Text("label", ""), ':');
    node.labels.insert(label);
  }
  if (line.pairs.contains("taint")) node.taints.push_back(line.Text("taint", ""));
  node.available_until = now_ + line.Time("stays", absl::InfiniteDuration());
  const int devices = line.Number("devices", 1);
  const int domains = line.Number("domains", 1);
  for (int i = 0; i < devices; ++i) {
    Device device{.index = i, .kind = line.Text("kind", "h100"), .memory_bytes = 80LL << 30};
    if (domains > 1) device.nvlink_domain = absl::StrCat(name, "-", i / (devices / domains));
    node.devices.push_back(std::move(device));
  }
  nodes_[name] = {};
  GRAFT_RETURN_IF_ERROR(Step(NodeRegistered{node}));
  nodes_[name].epoch = engine_->core().FindNode(name)->epoch;
  return absl::OkStatus();
}

absl::Status Scenario::PutQueue(const Line& line) {
  Queue& queue = queues_[line.words[1]];
  queue.name = line.words[1];
  queue.priority = line.Number("priority", 0);
  queue.preempts = line.Yes("preempts");
  queue.backfill = line.Yes("backfill");
  queue.fair = line.Text("order", "fair") != "fifo";
  queue.min_run_time = line.Time("min_run", absl::ZeroDuration());
  static const std::map<std::string, QueueMode> kModes = {
      {"open", QueueMode::kOpen}, {"held", QueueMode::kHeld}, {"closed", QueueMode::kClosed}};
  queue.mode = kModes.at(line.Text("mode", "open"));
  return Step(QueuePut{queue});
}

absl::Status Scenario::PutShare(const Line& line) {
  if (line.words.size() < 3) return absl::InvalidArgumentError("share QUEUE WORKSPACE");
  Queue& queue = queues_[line.words[1]];
  queue.name = line.words[1];
  queue.shares.push_back({.workspace = line.words[2],
                          .quota = line.Number("quota", -1),
                          .borrow = line.Number("borrow", -1),
                          .weight = static_cast<double>(line.Number("weight", 1))});
  return Step(QueuePut{queue});
}

absl::Status Scenario::SubmitJob(const Line& line) {
  JobRequest request{.key = line.words[1], .queue = line.Text("queue", "default")};
  request.workspace = request.key.substr(0, request.key.find('/'));
  request.priority = line.Number("priority", 0);
  request.gang.layout = {line.Number("tp", 1), line.Number("cp", 1), line.Number("dp", 1),
                         line.Number("pp", 1), line.Number("ep", 1)};
  GRAFT_ASSIGN_OR_RETURN(request.gang.max_level, LevelNamed(line.Text("level", "cluster")));
  if (line.pairs.contains("label")) {
    const std::pair<std::string, std::string> label = absl::StrSplit(line.Text("label", ""), ':');
    request.gang.labels.insert(label);
  }
  request.gang.nodes = line.Number("nodes", 0);
  if (line.pairs.contains("or_tp")) {
    Layout other = request.gang.layout;
    other.tp = line.Number("or_tp", 1);
    other.pp = other.pp * request.gang.layout.tp / other.tp;
    request.other_layouts.push_back(other);
  }
  request.max_restarts = line.Number("restarts", 3);
  request.expected_run_time = line.Time("estimate", absl::InfiniteDuration());
  request.time_limit = line.Time("limit", absl::ZeroDuration());
  request.preemptible = line.Yes("preemptible");
  request.hold = line.Text("hold", "no") == "yes";
  if (line.pairs.contains("after")) {
    const std::vector<std::string> first = absl::StrSplit(line.Text("after", ""), ',');
    request.after = first;
  }
  return Step(JobSubmitted{request});
}

absl::Status Scenario::CommandJob(const Line& line) {
  static const std::map<std::string, JobVerb> kCommands = {
      {"pause", JobVerb::kPause}, {"resume", JobVerb::kResume}, {"cancel", JobVerb::kCancel}};
  return Step(JobCommanded{line.words[1], kCommands.at(line.words[0]), "asked in the scenario"});
}

absl::Status Scenario::CommandNode(const Line& line) {
  static const std::map<std::string, NodeVerb> kCommands = {{"cordon", NodeVerb::kCordon},
                                                            {"uncordon", NodeVerb::kUncordon},
                                                            {"drain", NodeVerb::kDrain}};
  return Step(NodeCommanded{line.words[1], kCommands.at(line.words[0]), line.quoted});
}

absl::StatusOr<const Job*> Scenario::Find(const Line& line) const {
  const Job* job = engine_->core().FindJob(line.words[1]);
  if (job == nullptr) return absl::InvalidArgumentError(absl::StrCat("no job ", line.words[1]));
  return job;
}

std::vector<std::pair<std::string, PartReport*>> Scenario::PartsOf(const Job& job) {
  std::vector<std::pair<std::string, PartReport*>> parts;
  for (auto& [name, node] : nodes_) {
    const auto part = node.parts.find(job.request.key);
    if (part != node.parts.end()) parts.push_back({name, &part->second});
  }
  return parts;
}

absl::Status Scenario::RanksOf(const Line& line) {
  GRAFT_ASSIGN_OR_RETURN(const Job* job, Find(line));
  if (PartsOf(*job).empty()) return Unmet("no node has ranks of it");
  for (auto& [node, part] : PartsOf(*job)) {
    if (nodes_[node].silent) continue;
    if (line.words[0] == "runs") {
      part->state = PartState::kRunning;
      continue;
    }
    part->state = PartState::kEnded;
    part->end = line.words[0] == "finishes" ? AttemptEnd::kSucceeded : AttemptEnd::kStopped;
    if (line.words[0] == "finishes") part->result_session = absl::StrCat("result-", part->job);
  }
  return absl::OkStatus();
}

// step JOB N [of=M each=2s]; checkpoint JOB N
absl::Status Scenario::Progress(const Line& line) {
  GRAFT_ASSIGN_OR_RETURN(const Job* job, Find(line));
  int step = 0;
  if (line.words.size() < 3 || !absl::SimpleAtoi(line.words[2], &step)) {
    return absl::InvalidArgumentError("which step?");
  }
  for (auto& [node, part] : PartsOf(*job)) {
    part->step = step;
    part->steps_total = line.Number("of", static_cast<int>(part->steps_total));
    part->step_seconds =
        absl::ToDoubleSeconds(line.Time("each", absl::Seconds(part->step_seconds)));
    if (line.words[0] == "step") continue;
    part->checkpoint = {.step = step, .session = absl::StrCat(part->job, "@", step)};
  }
  return absl::OkStatus();
}

// fails JOB NODE "message"
absl::Status Scenario::Fail(const Line& line) {
  if (line.words.size() < 3) return absl::InvalidArgumentError("on which node?");
  GRAFT_ASSIGN_OR_RETURN(const Job* job, Find(line));
  for (auto& [node, part] : PartsOf(*job)) {
    if (node != line.words[2]) continue;
    part->state = PartState::kEnded;
    part->end = AttemptEnd::kFailed;
    part->message = line.quoted;
    return absl::OkStatus();
  }
  return Unmet(absl::StrCat(line.words[2], " has no ranks of it"));
}

// silent NODE; speaks NODE: with the epoch and the reports of before
absl::Status Scenario::Speak(const Line& line) {
  const auto it = nodes_.find(line.words[1]);
  if (it == nodes_.end()) return absl::InvalidArgumentError("no such node");
  it->second.silent = line.words[0] == "silent";
  if (it->second.silent) return absl::OkStatus();
  NodeSynced sync{.node = it->first, .epoch = it->second.epoch};
  for (const auto& [key, part] : it->second.parts) sync.parts.push_back(part);
  const absl::Status heard = Step(sync);
  if (!heard.ok()) it->second.silent = true;  // it has to register again
  return heard;
}

absl::Status Scenario::Wait(const Line& line) {
  absl::Duration duration;
  if (!absl::ParseDuration(line.words[1], &duration)) {
    return absl::InvalidArgumentError("a duration such as 20s or 2h");
  }
  const absl::Time until = now_ + duration;
  while (now_ < until) {
    now_ = std::min(until, now_ + absl::Seconds(5));
    SyncAll();
    GRAFT_RETURN_IF_ERROR(Step(Ticked{}));
    SyncAll();
  }
  return absl::OkStatus();
}

void Scenario::SyncAll() {
  for (int round = 0; round < 2; ++round) {
    for (const auto& [name, node] : nodes_) Sync(name);
  }
}

void Scenario::Sync(const std::string& name) {
  PlayedNode& node = nodes_[name];
  const NodeState* known = engine_->core().FindNode(name);
  if (node.silent || known == nullptr || known->epoch != node.epoch) return;
  std::map<JobKey, PartReport> parts;
  for (const DesiredPart& desired : engine_->core().Desired(name)) {
    const auto it = node.parts.find(desired.job);
    PartReport& part = parts[desired.job];
    if (it != node.parts.end() && it->second.attempt == desired.attempt) part = it->second;
    part.job = desired.job;
    part.attempt = desired.attempt;
    const bool leads = !desired.ranks.empty() && desired.ranks[0].first == 0;
    if (leads) part.rendezvous = absl::StrCat(name, ":4000");
    if (desired.mode == AttemptMode::kStop && part.state != PartState::kEnded) {
      part.state = PartState::kEnded;
      part.end = AttemptEnd::kStopped;
    }
  }
  node.parts = std::move(parts);
  NodeSynced sync{.node = name, .epoch = node.epoch, .desired_revision = known->desired_revision};
  for (const auto& [key, part] : node.parts) sync.parts.push_back(part);
  GRAFT_CHECK_OK(Step(sync));
}

// expect JOB STATE [on NODE...] [because CODE] [step=N] ["part of its reason"]
absl::Status Scenario::Expect(const Line& line) {
  GRAFT_ASSIGN_OR_RETURN(const Job* job, Find(line));
  const std::string state(JobStateName(job->state));
  const JobExplanation why = engine_->core().Explain(*job, now_);
  const std::string cause = why.reasons.empty() ? "" : why.reasons[0].code;
  const std::string reason = why.reasons.empty() ? job->reason : why.reasons[0].text;
  if (line.words.size() < 3 || line.words[2] != state) {
    return Unmet(absl::StrCat(line.words[1], " is ", state, " (", cause, "): ", reason));
  }
  std::set<std::string> nodes, wanted;
  for (const auto& [node, part] : job->attempt.parts) nodes.insert(node);
  for (size_t i = 3; i < line.words.size(); ++i) {
    if (line.words[i] == "on") continue;
    if (line.words[i] == "because") {
      if (i + 1 < line.words.size() && line.words[++i] == cause) continue;
      return Unmet(absl::StrCat("the cause is ", cause, ": ", reason));
    }
    wanted.insert(line.words[i]);
  }
  if (!wanted.empty() && wanted != nodes) {
    return Unmet(absl::StrCat("it is on ", absl::StrJoin(nodes, " ")));
  }
  if (line.Number("step", static_cast<int>(job->checkpoint.step)) != job->checkpoint.step) {
    return Unmet(absl::StrCat("its checkpoint is at step ", job->checkpoint.step));
  }
  if (!absl::StrContains(absl::StrCat(reason, "\n", job->reason), line.quoted)) {
    return Unmet(absl::StrCat("its reason is: ", reason, " / ", job->reason));
  }
  return absl::OkStatus();
}

// expect-refused ["part of the message"]: the line before was
absl::Status Scenario::ExpectRefusal(const Line& line) {
  if (last_.ok()) return Unmet("the line before was not refused");
  if (!absl::StrContains(last_.message(), line.quoted)) return Unmet(last_.message());
  return absl::OkStatus();
}

// expect-helps JOB "part of a counterfactual"
absl::Status Scenario::ExpectHelp(const Line& line) {
  GRAFT_ASSIGN_OR_RETURN(const Job* job, Find(line));
  std::string all;
  for (const Counterfactual& change : engine_->core().Explain(*job, now_).counterfactuals) {
    absl::StrAppend(&all, change.text, "; ");
  }
  if (!absl::StrContains(all, line.quoted)) return Unmet(absl::StrCat("what helps is: ", all));
  return absl::OkStatus();
}

}  // namespace graft::scheduler
