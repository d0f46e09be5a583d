#include "scheduler/service/control.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "scheduler/service/engine.h"

namespace graft::scheduler {
namespace {

constexpr absl::Duration kLongestTurn = absl::Seconds(10);  // more is a loop that hangs
constexpr absl::Duration kHeartbeat = absl::Seconds(1);

}  // namespace

absl::StatusOr<std::unique_ptr<Control>> Control::Start(Store& store, Clock& clock,
                                                        EngineOutput& output, CoreOptions options) {
  auto control = std::unique_ptr<Control>(new Control(clock));
  GRAFT_ASSIGN_OR_RETURN(control->engine_, Engine::Open(store, output, options, clock.Now()));
  Control* self = control.get();
  // Posting what to do when the queue has run dry needs a loop that has nothing posted yet.
  control->loop_.set_on_idle([self] { self->RunTurn(); });
  control->last_turn_us_ = absl::ToUnixMicros(clock.Now());
  GRAFT_RETURN_IF_ERROR(control->loop_.Post([self] { self->PlanWake(); }));
  return control;
}

Control::Control(Clock& clock) : clock_(clock), loop_(clock) {}

Control::~Control() { Stop(); }

void Control::Submit(TurnRequest request) {
  auto done = request.done;
  const absl::Status posted = loop_.Post(
      [this, request = std::move(request)]() mutable { waiting_.push_back(std::move(request)); });
  if (!posted.ok() && done) done(posted, 0);
}

void Control::Inspect(std::function<void(const Core&)> what) {
  (void)loop_.Post([this, what = std::move(what)] { what(engine_->core()); });
}

void Control::RunTurn() {
  if (!waiting_.empty()) {
    engine_->Run(std::exchange(waiting_, {}), clock_.Now());
    if (store_healthy_.exchange(engine_->healthy()) && !engine_->healthy()) {
      LOG_ERROR("the store takes no writes; it is opened again with the next request");
    }
  }
  last_turn_us_ = absl::ToUnixMicros(clock_.Now());
  PlanWake();
}

// At most a second ahead, so that Health can tell a loop that rests from one that hangs.
void Control::PlanWake() {
  const absl::Time at = std::min(engine_->wake_at(), clock_.Now() + kHeartbeat);
  if (timer_ != 0 && timer_at_ <= at) return;
  if (timer_ != 0) loop_.Cancel(timer_);
  timer_at_ = at;
  timer_ = loop_.RunAt(at, [this] {
    timer_ = 0;
    if (engine_->wake_at() <= clock_.Now()) {
      waiting_.push_back({.work = [](Turn& turn) { return turn.Step(Ticked{}); }});
    }
    // The turn follows when the queue has run dry, and plans the next waking.
  });
}

absl::Status Control::Health() {
  const absl::Duration since = clock_.Now() - absl::FromUnixMicros(last_turn_us_);
  if (since > kLongestTurn) {
    return absl::UnavailableError(
        absl::StrCat("the scheduler's loop has not come round for ", absl::FormatDuration(since)));
  }
  if (!store_healthy_) return absl::UnavailableError("the scheduler's store takes no writes");
  return absl::OkStatus();
}

}  // namespace graft::scheduler
