#include "worker/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/agent/inventory_convert.h"

namespace graft::agent {
namespace {

constexpr int32_t kProtocolVersion = 1;
constexpr absl::Duration kCallDeadline = absl::Seconds(10);
constexpr absl::Duration kRegisterDeadline = absl::Seconds(10);
constexpr absl::Duration kMaxRetryDelay = absl::Seconds(3);
// Changes that come close together are reported by one call.
constexpr absl::Duration kReportDelay = absl::Milliseconds(5);
constexpr absl::Duration kProgressDelay = absl::Milliseconds(500);
constexpr absl::Duration kLeaseCheck = absl::Milliseconds(500);

int64_t DiskSize(const std::string& folder) {
  struct statvfs info;
  if (statvfs(folder.c_str(), &info) != 0) return 0;
  return static_cast<int64_t>(info.f_blocks) * static_cast<int64_t>(info.f_frsize);
}

std::string BootId() {
  const absl::StatusOr<std::string> id = ReadFile("/proc/sys/kernel/random/boot_id", 128);
  return id.ok() ? std::string(absl::StripAsciiWhitespace(*id)) : "unknown";
}

}  // namespace

Agent::Agent(AgentOptions options, Clock& clock, SchedulerLink& scheduler, FileLink& files,
             device::DeviceSource& devices)
    : options_(std::move(options)),
      clock_(clock),
      scheduler_(scheduler),
      files_(files),
      devices_(devices),
      boot_id_(BootId()) {}

Agent::~Agent() {
  if (loop_ == nullptr) return;
  Notification ended;
  const absl::Status posted = loop_->Post([this, &ended] {
    stopped_ = true;
    registering_.reset();
    runners_.clear();
    ended.Notify();
  });
  if (posted.ok()) ended.Wait();
  loop_->Stop();
  scheduler_.CancelSynchronize();  // no other begins now
  on_report_ = nullptr;            // while Health may still be called from there
}

absl::Status Agent::Start() {
  GRAFT_RETURN_IF_ERROR(MakeDirectories(options_.state_folder, 0700));
  const std::string lock_path = JoinPath(options_.state_folder, "lock");
  lock_.reset(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock_.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", lock_path));
  if (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another graft-worker uses ", options_.state_folder));
  }
  const std::string attempts = JoinPath(options_.state_folder, "attempts");
  // Ranks die with their agent: what lies here is of no use.
  GRAFT_RETURN_IF_ERROR(RemoveTree(attempts));
  GRAFT_RETURN_IF_ERROR(MakeDirectories(attempts, 0700));
  GRAFT_ASSIGN_OR_RETURN(relay_,
                         EventRelay::Open(JoinPath(options_.state_folder, "spool"), scheduler_));
  GRAFT_ASSIGN_OR_RETURN(const device::Inventory inventory, devices_.Read());
  ReadCredential();
  loop_ = std::make_shared<Loop>(clock_);
  environment_ = std::make_unique<RunnerEnvironment>(RunnerEnvironment{
      .loop = *loop_,
      .clock = clock_,
      .scheduler = scheduler_,
      .files = files_,
      .relay = *relay_,
      .root = attempts,
      .token_cache = JoinPath(options_.state_folder, "tokens"),
      .trainer_program = options_.trainer_program,
      .validator_program = options_.validator_program,
      .fabric_address = options_.fabric_address,
      .cores = inventory.cpus,
      .devices = static_cast<int>(inventory.devices.size()),
      .cuda = !inventory.devices.empty() && inventory.devices[0].kind == device::DeviceKind::kCuda,
      .nice = options_.nice,
      .rank_environment = options_.rank_environment,
      .isolate = options_.isolate,
      .hidden_folders = options_.hidden_folders,
      .cgroups = options_.cgroups ? &*options_.cgroups : nullptr,
      .memory_per_device = inventory.memory_bytes /
                           std::max<int64_t>(1, static_cast<int64_t>(inventory.devices.size())),
      .on_changed = [this] { StateChanged(); },
      .on_progress = [this] { ProgressMade(); }});
  return loop_->Post([this] {
    CheckLease();
    BeginRegister();
  });
}

void Agent::ReadCredential() {
  const absl::StatusOr<std::string> text =
      ReadFile(JoinPath(options_.state_folder, "credential"), 4096);
  if (text.ok()) credential_ = *text;
}

void Agent::KeepCredential(const std::string& credential) {
  credential_ = credential;
  const absl::Status written = WriteFileAtomically(JoinPath(options_.state_folder, "credential"),
                                                   credential, {.mode = 0600});
  if (!written.ok()) {
    LOG_ERROR("the node's credential could not be kept; the next start needs a join token",
              {{"reason", written.message()}});
  }
}

device::Inventory Agent::ReadDevices() {
  absl::StatusOr<device::Inventory> read = devices_.Read();
  if (read.ok()) return *std::move(read);
  LOG_ERROR("the devices cannot be read", {{"reason", read.status().message()}});
  return {};
}

v1::Inventory Agent::InventoryOf(const device::Inventory& devices) const {
  v1::Inventory inventory = ToProto(devices, options_.node_id);
  inventory.set_disk_bytes(DiskSize(options_.cache_folder));
  inventory.set_fabric_address(options_.fabric_address);
  utsname name;
  if (uname(&name) == 0) inventory.set_os(absl::StrCat(name.sysname, " ", name.release));
  return inventory;
}

void Agent::BeginRegister() {
  if (stopped_ || leaving_) return;
  v1::RegisterRequest request;
  request.add_protocol_versions(kProtocolVersion);
  request.set_node_id(options_.node_id);
  if (credential_.empty()) {
    request.set_join_token(options_.join_token);
  } else {
    request.set_node_credential(credential_);
  }
  request.set_boot_id(boot_id_);
  *request.mutable_inventory() = InventoryOf(ReadDevices());
  sent_inventory_ = request.inventory().SerializeAsString();
  for (const auto& [key, value] : options_.labels) (*request.mutable_labels())[key] = value;
  if (options_.available_until != absl::InfiniteFuture()) {
    request.mutable_available_until()->set_seconds(absl::ToUnixSeconds(options_.available_until));
  }
  request.set_version("0.1.0");
  registering_ = std::make_unique<Background>(
      *loop_, [this, request](const CancelFlag&) -> std::function<void()> {
        absl::StatusOr<v1::RegisterResponse> response =
            scheduler_.Register(request, kRegisterDeadline);
        return [this, response] { OnRegistered(response); };
      });
}

void Agent::OnRegistered(absl::StatusOr<v1::RegisterResponse> response) {
  registering_.reset();
  if (!response.ok()) {
    LOG_WARNING("cannot register", {{"reason", response.status().message()}});
    {
      MutexLock lock(mu_);
      health_ = response.status();
    }
    // A credential that the scheduler no longer knows (a restored or new one) gives way to the
    // token.
    if (absl::IsUnauthenticated(response.status()) && !credential_.empty() &&
        !options_.join_token.empty()) {
      credential_.clear();
    }
    loop_->RunAt(clock_.Now() + retry_delay_, [this] { BeginRegister(); });
    retry_delay_ = std::min(retry_delay_ * 2, kMaxRetryDelay);
    return;
  }
  retry_delay_ = absl::Milliseconds(200);
  node_ = response->node();
  epoch_ = response->epoch();
  protocol_ = response->protocol_version();
  if (response->stop_after().seconds() > 0) {
    stop_after_ = absl::Seconds(response->stop_after().seconds());
  }
  if (!response->node_credential().empty()) KeepCredential(response->node_credential());
  scheduler_.SetAccessToken(response->access_token());
  if (on_fileservice_address_) on_fileservice_address_(response->fileservice_address());
  relay_->SetLease(node_, epoch_);
  revision_ = 0;
  renewed_ = clock_.Now();
  {
    MutexLock lock(mu_);
    health_ = absl::OkStatus();
  }
  LOG_INFO("registered", {{"node", node_}, {"epoch", epoch_}});
  Synchronize();
}

v1::SynchronizeRequest Agent::Report() {
  v1::SynchronizeRequest request;
  request.set_node(node_);
  request.set_epoch(epoch_);
  request.set_protocol_version(protocol_);
  request.set_revision(revision_);
  const device::Inventory devices = ReadDevices();
  AddUse(devices, request);
  const v1::Inventory inventory = InventoryOf(devices);
  if (std::string bytes = inventory.SerializeAsString(); bytes != sent_inventory_) {
    *request.mutable_inventory() = inventory;
    sent_inventory_ = std::move(bytes);
  }
  for (const auto& [name, runner] : runners_) *request.add_attempts() = runner->Report();
  request.set_disk_free_bytes(DiskFree(options_.cache_folder));
  request.set_leaving(leaving_);
  if (on_report_) on_report_(request);
  return request;
}

void Agent::Synchronize() {
  if (report_timer_ != 0) loop_->Cancel(report_timer_);
  report_timer_ = 0;
  report_at_ = absl::InfiniteFuture();
  if (stopped_ || epoch_ == 0) return;
  const uint64_t call = ++call_;
  const absl::Time sent = clock_.Now();
  const bool said = leaving_;
  call_open_ = true;
  scheduler_.Synchronize(
      Report(), kCallDeadline,
      // The answer may come when this agent is gone; the loop says so then.
      [this, loop = loop_, call, sent, said](absl::StatusOr<v1::SynchronizeResponse> response) {
        const absl::Status posted =
            loop->Post([this, call, sent, said, response = std::move(response)] {
              leave_noted_ |= said && response.ok();
              OnSynchronized(call, sent, response);
            });
        if (absl::IsResourceExhausted(posted)) {
          LOG_WARNING("an answer was dropped", {{"reason", posted.message()}});
        }
      });
}

void Agent::OnSynchronized(uint64_t call, absl::Time sent,
                           absl::StatusOr<v1::SynchronizeResponse> response) {
  if (stopped_ || epoch_ == 0) return;
  if (call != call_) {
    // A newer call has taken its place. The scheduler ended it so: it had come, and renewed the
    // lease.
    if (response.ok() || absl::IsCancelled(response.status())) renewed_ = std::max(renewed_, sent);
    return;
  }
  call_open_ = false;
  if (response.ok()) {
    renewed_ = std::max(renewed_, sent);
    retry_delay_ = absl::Milliseconds(200);
    Apply(*response);
    if (epoch_ != 0 && !call_open_) Synchronize();
    return;
  }
  if (absl::IsFailedPrecondition(response.status()) || absl::IsNotFound(response.status()) ||
      absl::IsUnauthenticated(response.status())) {
    EndEverything(response.status().message());
    BeginRegister();
    return;
  }
  LOG_WARNING("cannot synchronize", {{"reason", response.status().message()}});
  loop_->RunAt(clock_.Now() + retry_delay_, [this, call] {
    if (call == call_) Synchronize();
  });
  retry_delay_ = std::min(retry_delay_ * 2, kMaxRetryDelay);
}

void Agent::Apply(const v1::SynchronizeResponse& response) {
  if (!response.access_token().empty()) scheduler_.SetAccessToken(response.access_token());
  // Only the newest call's answer comes here; a scheduler that started again may count from less.
  revision_ = response.revision();
  std::vector<std::string> gone;
  for (const auto& [name, runner] : runners_) {
    const bool wanted = std::any_of(
        response.attempts().begin(), response.attempts().end(),
        [&name = name](const v1::DesiredAttempt& desired) { return desired.attempt() == name; });
    if (!wanted) gone.push_back(name);
  }
  for (const std::string& name : gone) runners_.erase(name);
  for (const v1::DesiredAttempt& desired : response.attempts()) {
    if (desired.attempt_epoch() != epoch_) continue;  // Placed on an earlier life of this node.
    const auto it = runners_.find(desired.attempt());
    if (it != runners_.end()) {
      it->second->Update(desired);
    } else {
      LOG_INFO("attempt begins", {{"attempt", desired.attempt()}});
      runners_[desired.attempt()] = MakeRunner(*environment_, desired);
    }
  }
}

void Agent::EndEverything(absl::string_view why) {
  LOG_WARNING("the lease is lost; every rank is ended", {{"reason", why}});
  runners_.clear();
  epoch_ = 0;
  revision_ = 0;
  ++call_;
  scheduler_.CancelSynchronize();
  MutexLock lock(mu_);
  health_ = absl::UnavailableError(absl::StrCat("the lease is lost: ", why));
}

void Agent::StateChanged() { ScheduleReport(kReportDelay); }

void Agent::ProgressMade() { ScheduleReport(kProgressDelay); }

void Agent::ScheduleReport(absl::Duration delay) {
  if (epoch_ == 0) return;
  const absl::Time when = clock_.Now() + delay;
  if (report_at_ <= when) return;
  if (report_timer_ != 0) loop_->Cancel(report_timer_);
  report_at_ = when;
  // The scheduler ends the open call when the newer one comes.
  report_timer_ = loop_->RunAt(when, [this] {
    report_timer_ = 0;
    Synchronize();
  });
}

void Agent::CheckLease() {
  if (stopped_) return;
  if (epoch_ != 0 && clock_.Now() - renewed_ > stop_after_) {
    EndEverything(
        absl::StrCat("no answer from the scheduler for ", absl::FormatDuration(stop_after_)));
    BeginRegister();
  }
  loop_->RunAt(clock_.Now() + kLeaseCheck, [this] { CheckLease(); });
}

void Agent::Leave(absl::Duration grace) {
  const absl::Status posted = loop_->Post([this] {
    leaving_ = true;
    StateChanged();
  });
  if (!posted.ok()) return;
  const absl::Time deadline = absl::Now() + grace;
  for (;;) {
    bool idle = false;
    Notification asked;
    const absl::Status status = loop_->Post([this, &idle, &asked] {
      // Not before the scheduler has taken note of each end: what it knows nothing of is lost.
      idle = epoch_ == 0 || (leave_noted_ && runners_.empty());
      asked.Notify();
    });
    if (!status.ok()) return;
    asked.Wait();
    if (idle || absl::Now() >= deadline) return;
    absl::SleepFor(absl::Milliseconds(50));
  }
}

absl::Status Agent::Health() {
  MutexLock lock(mu_);
  return health_;
}

}  // namespace graft::agent
