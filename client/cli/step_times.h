// Where the time of a training step goes, by rank, and what that says.
#pragma once

#include <string>
#include <vector>

namespace graft::cli {

// Seconds of a rank's mean step, by part. What the parts leave of `step` is spent elsewhere.
struct StepTimes {
  int rank = 0;
  double step = 0;
  double data = 0;
  double forward = 0;
  double backward = 0;
  double optimizer = 0;
  double communication = 0;
  double idle = 0;  // waiting for the neighbours in a pipeline
  double memory_bytes = 0;

  double busy() const { return forward + backward + optimizer; }
};

struct StepLayout {
  int tensor = 1;
  int pipeline = 1;
  int data = 1;
  int micro_batches = 1;  // of a step, on each rank
};

// One sentence: what holds the run back most, by how much, and what to change; or that nothing
// stands out. `ranks` is not empty.
std::string Verdict(const std::vector<StepTimes>& ranks, const StepLayout& layout);

}  // namespace graft::cli
