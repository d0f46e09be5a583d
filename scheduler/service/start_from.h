// Where a job's weights come from in place of its base's alone (spec.model.start_from): an adapter,
// a job's output, or a checkpoint, as weights or with everything that the run had.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "graft/v1/job.pb.h"
#include "graft/v1/job_spec.pb.h"
#include "scheduler/service/job_spec.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

struct StartSource {
  std::string name;     // of the adapter, model or checkpoint
  std::string base;     // the model that it is of
  std::string version;  // the fileset version of its files
  bool model = false;   // a whole model, which takes the base's place
  bool checkpoint = false;
  int64_t step = 0;  // of a checkpoint
  // How it was made, as far as that is known.
  graft::v1::TuningSection tuning;
  std::optional<graft::v1::JobSpec> made_by;
};

// Whether the caller may see a resource of that name.
using MaySee = std::function<bool(const std::string& name)>;

// Whether a run takes the numbers of what `from` names for those that it trains, and no more of it;
// as FindStart left it.
bool TakesWeights(const graft::v1::StartFrom& from);
// Whether the base's weights are those of a model that `from` names; as FindStart left it.
bool StartsFromModel(const graft::v1::StartFrom& from);

// Puts what it is in place of words that stand for it ("best", a job for the adapter that it made)
// and its version. NOT_FOUND, FAILED_PRECONDITION (a job without output), INVALID_ARGUMENT.
absl::StatusOr<StartSource> FindStart(const Store& store, const MaySee& may_see,
                                      graft::v1::StartFrom& from);

// `point` is best, latest, or a step's number. NOT_FOUND.
absl::StatusOr<graft::v1::Checkpoint> FindCheckpoint(const Store& store, const graft::v1::Job& job,
                                                     const std::string& point);

// What the user leaves open is as it was made.
void InheritFrom(const StartSource& source, graft::v1::JobSpec& asked);

// Adds what keeps the resolved specification from beginning there.
void CheckStart(const StartSource& source, SpecCheck& check);

// Whether a change of the specification's field leaves a checkpoint's optimizer, schedule and place
// in the data of use.
bool KeepsState(absl::string_view path);

}  // namespace graft::scheduler
