// Simulation: what clients ask for, what breaks, and the run itself.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/sim/simulation.h"

namespace graft::scheduler {

void Simulation::Describe(int number, JobRequest& request) {
  request.workspace = absl::StrCat("w", number % 2);
  request.queue = "default";
  request.priority = static_cast<int>(random_.Uniform(3));
  if (number % 6 == 5) {
    request.kind = GangKind::kGenerate;
    return;
  }
  const int sizes[] = {1, 1, 2, 4};
  request.gang.layout.tp = sizes[random_.Uniform(4)];
  request.gang.layout.dp = 1 + static_cast<int>(random_.Uniform(3));
  // One worker stays dead in the end, and the smaller rack has two.
  const int world = request.gang.layout.world();
  if (world <= options_.devices && Chance(0.2)) request.gang.max_level = Level::kNode;
  if (world <= 2 * options_.devices && Chance(0.2)) request.gang.max_level = Level::kRack;
  const bool halves = request.gang.layout.dp % 2 == 0 && world <= 2 * options_.devices;
  if (halves && request.gang.max_level != Level::kNode && Chance(0.3)) request.gang.nodes = 2;
  if (request.gang.layout.tp == 4) request.other_layouts = {{.tp = 2, .dp = 2}};
  if (Chance(0.5)) request.expected_run_time = Between(20, 200);
  request.max_restarts = 3;
  request.needs_validation = Chance(0.3);
}

void Simulation::ClientSubmit(int number) {
  const JobKey key = absl::StrCat("w", number % 2, "/j", number);
  JobRequest& request = requests_[key];
  if (request.key.empty()) {
    request.key = key;
    Describe(number, request);
  }
  Network([this, request, key] {
    Submit({.work = [request](Turn& turn) { return turn.Step(JobSubmitted{request}); },
            .done =
                [this, key](absl::Status status, int64_t) {
                  if (status.ok() || absl::IsAlreadyExists(status)) {
                    Trace(absl::StrCat("acknowledged ", key));
                    acknowledged_.insert(key);
                  }
                }});
  });
  At(Between(2, 6), [this, key, number] {
    if (!acknowledged_.contains(key)) ClientSubmit(number);
  });
}

void Simulation::ClientCommand() {
  if (!chaos()) return;
  At(Between(1, 12), [this] { ClientCommand(); });
  if (acknowledged_.empty()) return;
  auto it = acknowledged_.begin();
  std::advance(it, random_.Uniform(acknowledged_.size()));
  const JobVerb verbs[] = {JobVerb::kCancel, JobVerb::kPause, JobVerb::kResume, JobVerb::kPause,
                           JobVerb::kResume};
  const JobCommanded command{*it, verbs[random_.Uniform(5)], "a client asked"};
  Trace(absl::StrCat("command ", static_cast<int>(command.verb), " ", command.job));
  Network(
      [this, command] { Submit({.work = [command](Turn& turn) { return turn.Step(command); }}); });
}

// When all is mended the last askers leave.
void Simulation::EndSessions() {
  At(absl::Seconds(10), [this] { EndSessions(); });
  for (const auto& [key, request] : requests_) {
    if (request.kind != GangKind::kGenerate || !acknowledged_.contains(key)) continue;
    const JobCommanded command{key, JobVerb::kCancel, "idle"};
    Submit({.work = [command](Turn& turn) {
      const Job* session = turn.core().FindJob(command.job);
      return session == nullptr || IsTerminal(session->state) ? absl::OkStatus()
                                                              : turn.Step(command);
    }});
  }
}

void Simulation::Fault() {
  if (!chaos()) return;
  At(Between(3, 25), [this] { Fault(); });
  Worker& worker = *workers_[random_.Uniform(workers_.size())];
  switch (random_.Uniform(9)) {
    case 0:
      if (engine_ != nullptr) KillScheduler();
      return;
    case 1: {
      const MemDisk::Fault faults[] = {MemDisk::Fault::kRefuse, MemDisk::Fault::kTear,
                                       MemDisk::Fault::kForget};
      disk_.next_fault = faults[random_.Uniform(3)];
      return Trace("the disk fails next");
    }
    case 2:
    case 3: {
      if (!worker.alive) return;
      Trace(absl::StrCat(worker.name, " dies"));
      worker.alive = false;
      ++worker.life;
      worker.parts.clear();
      At(Between(0.5, 40), [this, &worker] { WorkerBoot(worker); });
      return;
    }
    case 4: {
      if (!worker.alive || worker.frozen) return;
      Trace(absl::StrCat(worker.name, " freezes"));
      worker.frozen = true;
      At(Between(1, 40), [this, &worker, life = worker.life] {
        if (worker.life == life) worker.frozen = false;
      });
      return;
    }
    case 5: {
      const NodeVerb verb = Chance(0.5) ? NodeVerb::kDrain : NodeVerb::kUncordon;
      const NodeCommanded command{worker.name, verb, "an operator asked"};
      Trace(absl::StrCat("node command ", static_cast<int>(verb), " ", worker.name));
      return Submit({.work = [command](Turn& turn) { return turn.Step(command); }});
    }
    case 6:
      return ChangeInventory(worker, Chance(0.7));
    case 7:
      if (!worker.alive) return;
      Trace(absl::StrCat(worker.name, " is told to shut down"));
      worker.stopping = true;
      At(absl::Minutes(4), [this, &worker, life = worker.life] {  // its patience
        if (worker.life == life) WorkerBoot(worker);
      });
      return;
    default:
      return ChangeQueue();
  }
}

// A device breaks, falls off the bus, or all are well again.
void Simulation::ChangeInventory(Worker& worker, bool breaks) {
  NodeInventoried inventory{worker.name, worker.epoch, Devices()};
  if (breaks) {
    const size_t which = random_.Uniform(inventory.devices.size());
    if (Chance(0.5)) {
      inventory.devices.erase(inventory.devices.begin() + static_cast<std::ptrdiff_t>(which));
    } else {
      inventory.devices[which].healthy = false;
    }
  }
  Trace(absl::StrCat(worker.name, breaks ? " has a device that is broken" : " is whole"));
  Submit({.work = [inventory](Turn& turn) { return turn.Step(inventory); }});
}

std::vector<Device> Simulation::Devices() const {
  std::vector<Device> devices;
  for (int i = 0; i < options_.devices; ++i) {
    devices.push_back({.index = i, .kind = "sim", .memory_bytes = 1 << 30});
  }
  return devices;
}

// Quotas, lending, a held queue.
void Simulation::ChangeQueue() {
  Queue queue{.name = "default"};
  if (Chance(0.2)) queue.mode = QueueMode::kHeld;
  queue.backfill = Chance(0.8);
  queue.fair = Chance(0.8);
  if (Chance(0.3)) queue.min_run_time = Between(1, 60);
  for (const char* workspace : {"w0", "w1"}) {
    const int quota = Chance(0.2) ? -1 : static_cast<int>(random_.Uniform(12));
    const int borrow = Chance(0.5) ? -1 : static_cast<int>(random_.Uniform(8));
    queue.shares.push_back({workspace, quota, borrow, 0.5 + random_.UniformDouble()});
  }
  Trace(absl::StrCat("the queue is changed, mode ", static_cast<int>(queue.mode)));
  Submit({.work = [queue](Turn& turn) { return turn.Step(QueuePut{queue}); }});
}

bool Simulation::AllAtRest() const {
  if (engine_ == nullptr || static_cast<int>(acknowledged_.size()) != options_.jobs) return false;
  const auto& jobs = engine_->core().jobs();
  return std::all_of(jobs.begin(), jobs.end(), [](const auto& entry) {
    return IsTerminal(entry.second.state) || entry.second.state == JobState::kPaused;
  });
}

// I13: when the faults have stopped, all that was asked for comes to an end.
void Simulation::CheckLiveness() {
  if (engine_ == nullptr) return Broken("I13: the scheduler does not run");
  for (const auto& [key, job] : engine_->core().jobs()) {
    if (job.state == JobState::kCompleted) ++result_.completed;
    if (IsTerminal(job.state) || job.state == JobState::kPaused) continue;
    Broken(absl::StrCat("I13: ", key, " is still ", JobStateName(job.state), ": ", job.reason));
  }
  if (static_cast<int>(acknowledged_.size()) != options_.jobs) Broken("I13: a submission hangs");
}

SimulationResult Simulation::Run() {
  StartScheduler();
  Submit({.work = [](Turn& turn) { return turn.Step(QueuePut{{.name = "default"}}); }});
  for (int i = 0; i < options_.workers; ++i) {
    workers_.push_back(std::make_unique<Worker>());
    workers_.back()->name = absl::StrCat("n", i);
    At(Between(0, 5), [this, worker = workers_.back().get()] { WorkerBoot(*worker); });
  }
  for (int i = 0; i < options_.jobs; ++i) {
    At(absl::Milliseconds(random_.Uniform(200'000)), [this, i] { ClientSubmit(i); });
  }
  At(absl::Seconds(5), [this] { ClientCommand(); });
  At(absl::Seconds(5), [this] { Fault(); });
  // The operator mends what was broken; one worker stays dead.
  At(options_.chaos, [this] {
    disk_.next_fault = MemDisk::Fault::kNone;
    Trace("the faults end");
    Worker& dead = *workers_.back();
    dead.alive = false;
    ++dead.life;
    dead.parts.clear();
  });
  At(options_.chaos + absl::Minutes(1), [this] {
    for (const auto& worker : workers_) {
      ChangeInventory(*worker, false);
      const NodeCommanded command{worker->name, NodeVerb::kUncordon, ""};
      Submit({.work = [command](Turn& turn) { return turn.Step(command); }});
    }
    Submit({.work = [](Turn& turn) { return turn.Step(QueuePut{{.name = "default"}}); }});
    EndSessions();
  });
  while (!events_.empty() && result_.broken.empty()) {
    absl::Time next = events_.begin()->first.first;
    const absl::Time wake = engine_ == nullptr ? absl::InfiniteFuture() : engine_->wake_at();
    if (wake < next && wake <= ends_) {
      now_ = std::max(now_, wake);
      RunEngine({{.work = [](Turn& turn) { return turn.Step(Ticked{}); }}});
      if (engine_ != nullptr && engine_->wake_at() <= now_) now_ += absl::Milliseconds(1);
      continue;
    }
    if (next > ends_ || (now_ > chaos_ends_ + absl::Minutes(2) && AllAtRest())) break;
    now_ = std::max(now_, next);
    std::function<void()> what = std::move(events_.begin()->second);
    events_.erase(events_.begin());
    what();
  }
  if (result_.broken.empty()) CheckLiveness();
  if (result_.broken.empty() && !CheckAuditChain(*store_).ok())
    Broken("I11: the audit chain breaks");
  const size_t kept = std::min(lines_.size(), kKeptLines);
  result_.trace =
      absl::StrJoin(lines_.end() - static_cast<std::ptrdiff_t>(kept), lines_.end(), "\n");
  return result_;
}

}  // namespace graft::scheduler
