#include "scheduler/service/places.h"

#include <algorithm>
#include <utility>

#include "scheduler/core/core.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

// Between two boards: so long, and for each job that waits so much more.
constexpr absl::Duration kPause = absl::Milliseconds(100);
constexpr absl::Duration kPausePerJob = absl::Microseconds(50);
// Whoever stands behind so many has no place.
constexpr size_t kMostPlaces = 10'000;

}  // namespace

void PlaceBoard::OnCommitted() {
  absl::Time when;
  {
    MutexLock lock(mu_);
    if (std::exchange(planned_, true)) return;
    when = std::max(clock_.Now(), not_before_);
    not_before_ = when + pause_;
  }
  background_.PostAt(when, [this] {
    {
      MutexLock lock(mu_);
      planned_ = false;  // what changes from here on is the next board's
    }
    control_.Inspect([this](const Core& core) { Refresh(core); });
  });
}

void PlaceBoard::Refresh(const Core& core) {
  auto places = std::make_shared<Places>();
  for (const WaitingPlace& place : core.Outlook(clock_.Now(), kMostPlaces)) {
    places->try_emplace(place.job->request.key, Place{place.position, place.expected_start});
  }
  MutexLock lock(mu_);
  pause_ = kPause + static_cast<int64_t>(core.waiting()) * kPausePerJob;
  places_ = std::move(places);
}

std::shared_ptr<const PlaceBoard::Places> PlaceBoard::places() const {
  MutexLock lock(mu_);
  return places_;
}

void PlaceBoard::Overlay(absl::string_view job, graft::v1::JobStatus& status) const {
  if (status.state() != graft::v1::JOB_STATE_QUEUED) return;
  const std::shared_ptr<const Places> now = places();
  const auto place = now->find(job);
  if (place == now->end()) return;
  status.set_queue_position(place->second.position);
  if (place->second.expected_start == absl::InfiniteFuture()) return;
  *status.mutable_expected_start_time() = ToTimestamp(place->second.expected_start);
}

absl::Time PlaceBoard::ExpectedStart(absl::string_view job) const {
  const std::shared_ptr<const Places> now = places();
  const auto place = now->find(job);
  return place == now->end() ? absl::InfiniteFuture() : place->second.expected_start;
}

}  // namespace graft::scheduler
