#include "worker/trainer/rank_gang.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/model/torch_boundary.h"
#include "worker/parallel/rendezvous.h"
#include "worker/spec/layout.h"

namespace graft::trainer {
namespace {

// How long a rank that fails stays, so that the others hear of it from itself; and how long one
// whose collective broke waits to learn who is to blame. Together they stay below 30 s.
constexpr double kTellSeconds = 3;
constexpr double kLearnSeconds = 22;
constexpr int kExitFailed = 1;

// What the agent hands to a rank beside run.json. The secret does not stay in the environment.
parallel::RendezvousOptions RendezvousOf(const ParallelismConfig& p) {
  parallel::RendezvousOptions options;
  options.rank = p.rank;
  options.world = p.world;
  options.address = p.rendezvous;
  options.attempt = p.attempt;
  int fd = -1;
  if (const char* given = std::getenv("GRAFT_RENDEZVOUS_FD");
      given != nullptr && absl::SimpleAtoi(given, &fd)) {
    options.listen_fd = fd;
  }
  if (const char* secret = std::getenv("GRAFT_ATTEMPT_SECRET"); secret != nullptr) {
    options.secret = absl::HexStringToBytes(secret);
    unsetenv("GRAFT_ATTEMPT_SECRET");
  }
  return options;
}

}  // namespace

absl::Status RankGang::Gather(const spec::DecoderSpec& spec, at::Device device,
                              const model::Accelerator* accelerator) {
  const ParallelismConfig& p = config_.parallelism;
  if (p.world == 1) return absl::OkStatus();
  const spec::LayoutCheck check =
      spec::CheckLayout(spec, {.gpus = p.world,
                               .tp = p.tp,
                               .pp = p.pp,
                               .cp = p.cp,
                               .ep = p.ep,
                               .micro_batch = config_.batch.micro,
                               .global_batch = config_.batch.global,
                               .sequence = config_.dataset.max_seq_length});
  GRAFT_RETURN_IF_ERROR(check.status());
  if (first()) {
    for (const spec::LayoutRemark& warning : check.warnings) {
      events_.Warn("LAYOUT", warning.message);
    }
  }
  GRAFT_ASSIGN_OR_RETURN(const parallel::StorePtr store, parallel::Join(RendezvousOf(p)));
  parallel::WorldOptions options;
  options.layout = check.layout;
  options.rank = p.rank;
  options.address = p.address;
  options.kv_heads = spec.attention.kv_heads;
  options.shared_memory = p.shared_memory;
  options.device = device;
  if (!device.is_cpu()) {
    options.connect = [accelerator, address = p.address](const parallel::StorePtr& from,
                                                         int64_t rank, int64_t size,
                                                         std::chrono::milliseconds timeout) {
      return accelerator->Connect({from, rank, size, address, timeout});
    };
  }
  GRAFT_ASSIGN_OR_RETURN(world_, parallel::World::Create(options, store));
  watchdog_ = std::make_unique<parallel::Watchdog>(
      p.rank, p.world, store, world_->activity(),
      [this](const std::string& message, int64_t step) { OnLost(message, step); });
  GRAFT_ASSIGN_OR_RETURN(part_, PartOf(*world_, config_, spec));
  return absl::OkStatus();
}

// On the watchdog's thread, while this rank's own may wait in a collective that never returns.
void RankGang::OnLost(const std::string& message, int64_t step) {
  events_.Write(
      ErrorEvent{ErrorCode::kRankLost, message, "the run goes on from its last checkpoint", step});
  events_.Close(absl::Seconds(2));
  LOG_ERROR("the run cannot go on", {{"why", message}});
  _exit(kExitFailed);
}

absl::StatusOr<Orders> RankGang::Agree(const Orders& own) {
  if (world_ == nullptr) return own;
  Orders agreed;
  GRAFT_RETURN_IF_ERROR(model::TorchCall("asking the ranks", [&] {
    const std::array<bool, 5> told = {own.terminate, own.pause, own.checkpoint, own.finish,
                                      own.finish_with_best};
    at::Tensor flags = at::zeros({told.size()}, at::kFloat);
    for (size_t i = 0; i < told.size(); ++i) {
      flags[static_cast<int64_t>(i)] = told[i] ? 1.0f : 0.0f;
    }
    world_->all().AllReduce(flags, parallel::Reduce::kMax, "orders from outside");
    const auto all = flags.accessor<float, 1>();
    agreed = {all[0] > 0, all[1] > 0, all[2] > 0, all[3] > 0, all[4] > 0};
  }));
  return agreed;
}

void RankGang::EndTraining() {
  if (world_ != nullptr) world_->activity().EndTraining();
}

void RankGang::Fail(const absl::Status& status) {
  if (watchdog_ == nullptr) return;
  if (world_->broken()) {
    watchdog_->Stay(kLearnSeconds);
  } else {
    watchdog_->Fail(std::string(status.message()));
    watchdog_->FinishTogether(kTellSeconds);
  }
  watchdog_->Stop();
}

absl::Status RankGang::FinishTogether() {
  if (watchdog_ == nullptr) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(world_->Share("finished", "").status());
  watchdog_->FinishTogether(kTellSeconds);
  watchdog_->Stop();
  return absl::OkStatus();
}

}  // namespace graft::trainer
