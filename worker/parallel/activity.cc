#include "worker/parallel/activity.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

namespace graft::parallel {
namespace {

constexpr double kSecondsOfMillisecond = 1e-3;

c10::Stream StreamOf(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

}  // namespace

Activity::Queued::Queued(at::Device device, const char* what, const std::string& with,
                         WaitKind kind)
    : device(device),
      what(what),
      with(with),
      kind(kind),
      begin(device.type(), c10::EventFlag::BACKEND_DEFAULT),
      end(device.type(), c10::EventFlag::BACKEND_DEFAULT) {
  begin.record(StreamOf(device));
}

bool Activity::Queued::reached() const {
  try {
    return begin.query();
  } catch (const c10::Error&) {
    return false;  // the device is lost, which the next Poll sees
  }
}

void Activity::Queue(std::shared_ptr<Queued> queued) {
  queued->end.record(StreamOf(queued->device));
  MutexLock lock(mu_);
  queued_.push_back(std::move(queued));
}

void Activity::Poll() const {
  try {
    while (!queued_.empty() && queued_.front()->end.query()) {
      const Queued& over = *queued_.front();
      Count(over.kind, over.begin.elapsedTime(over.end) * kSecondsOfMillisecond);
      queued_.pop_front();
    }
  } catch (const c10::Error&) {
    // The device is lost; the rank's own thread hears of it too and says why.
    now_.broken = true;
    queued_.clear();
  }
}

Activity::Snapshot Activity::Now() const {
  MutexLock lock(mu_);
  Poll();
  Snapshot now = now_;
  if (now.waiting || queued_.empty()) return now;
  const Queued& next = *queued_.front();
  if (!next.reached()) return now;  // it computes
  now.waiting = true;
  now.what = next.what;
  now.with = next.with;
  return now;
}

void Activity::Settle() const {
  std::shared_ptr<Queued> last;
  {
    MutexLock lock(mu_);
    if (queued_.empty()) return;
    last = queued_.back();
  }
  last->end.synchronize();
  MutexLock lock(mu_);
  Poll();
}

}  // namespace graft::parallel
