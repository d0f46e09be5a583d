// Where waiting jobs stand in their queues and when they are expected to start, for those who read
// jobs: it is worked out on the loop after commits, at times that leave the loop its time, and is
// so much behind: a tenth of a second for a short queue, some seconds where 100,000 wait. The first
// 10,000 have places.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "graft/v1/job.pb.h"
#include "scheduler/service/background.h"
#include "scheduler/service/control.h"

namespace graft::scheduler {

class PlaceBoard {
 public:
  PlaceBoard(Control& control, Background& background, Clock& clock)
      : control_(control), background_(background), clock_(clock) {}

  // Something may have changed.
  void OnCommitted();
  // Lays it over the record of a job in QUEUED.
  void Overlay(absl::string_view job, graft::v1::JobStatus& status) const;
  absl::Time ExpectedStart(absl::string_view job) const;  // infinite: not known

 private:
  struct Place {
    int64_t position = 0;
    absl::Time expected_start;
  };
  using Places = absl::flat_hash_map<std::string, Place>;
  std::shared_ptr<const Places> places() const;
  void Refresh(const Core& core);  // on the loop

  Control& control_;
  Background& background_;
  Clock& clock_;
  mutable Mutex mu_;
  std::shared_ptr<const Places> places_ GRAFT_GUARDED_BY(mu_) = std::make_shared<Places>();
  bool planned_ GRAFT_GUARDED_BY(mu_) = false;
  absl::Duration pause_ GRAFT_GUARDED_BY(mu_);  // after the last board
  absl::Time not_before_ GRAFT_GUARDED_BY(mu_) = absl::InfinitePast();
};

}  // namespace graft::scheduler
