// Which layout a job takes when its user gives none: tp, cp, ep, pp and dp from the model's
// numbers, the memory of a device, and what is free now.
//
//   ShapeChoice choice = ChooseShape(model, {.devices = 16}, rates, cluster.topology(), request);
//   choice.shapes[0].layout;   // the others are its runners-up, to be stored with the job
//
// Every layout that divides the model is held against memory, the survivors are timed, and those
// that may start now are placed and timed over the switches they would really cross. Among layouts
// within 3 % of the fastest the smaller tp, then the smaller pp is taken. Pure functions of
// numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/placement/placement.h"

namespace graft::scheduler {

// What of a model decides its layout.
struct ModelFacts {
  int64_t parameters = 0;
  int64_t active_parameters = 0;  // of one token; 0: all
  int layers = 1;
  int heads = 1;
  int kv_heads = 1;
  int64_t hidden = 1;
  int experts = 0;
  int experts_per_token = 0;
  int64_t columns = 0;  // of its MLPs, what their widths have in common; 0: not known

  // KV heads are held twice where there are fewer than ranks.
  bool DividesBy(int tp) const {
    const bool kv = kv_heads % tp == 0 || tp % kv_heads == 0;
    return heads % tp == 0 && kv && columns % tp == 0;
  }
};

struct ShapeRequest {
  int devices = 0;  // 0: the fewest that hold the model
  int most_devices = 1024;
  int64_t sequence = 2048;
  int micro_batch = 1;
  int global_batch = 8;
  // Of all parameters those that are trained: 1 for all weights, some thousandths for LoRA.
  double trained_share = 0.005;
  double bytes_per_weight = 2;    // as kept; 0.55 for 4 bits
  bool recompute_layers = false;  // the backward makes whole layers again
  // 0: free; else given by the user.
  int tp = 0, cp = 0, pp = 0, ep = 0;
  bool tp_across_domains = false;
};

struct ShapeRates {
  int64_t device_bytes = 80LL << 30;
  double usable_share = 0.9;
  double flops = 989e12;
  double efficiency = 0.5;
  double nvlink_bytes_per_second = 450e9;
  double leaf_bytes_per_second = 50e9;
  double spine_bytes_per_second = 50e9;
  double core_bytes_per_second = 25e9;
  int devices_per_domain = 8;
};

struct Shape {
  Layout layout;
  double memory_bytes = 0;  // of a device
  double step_seconds = 0;  // where it would be placed now, or ideally where it would not fit now
  bool starts_now = false;
};

struct ShapeChoice {
  std::vector<Shape> shapes;  // best first, at most eight
  std::string why;            // a sentence for the job
};

// Device bytes that a rank needs.
double ShapeMemory(const ModelFacts& model, const ShapeRequest& request, const Layout& layout);
// Seconds of an optimizer step with PP and DP crossing switches of that level.
double ShapeStepSeconds(const ModelFacts& model, const ShapeRequest& request,
                        const ShapeRates& rates, const Layout& layout, Level level);

// INVALID_ARGUMENT for a model or a request that no layout divides; FAILED_PRECONDITION with the
// number that does not fit when memory refuses all. `like` has the job's other conditions.
absl::StatusOr<ShapeChoice> ChooseShape(const ModelFacts& model, const ShapeRequest& request,
                                        const ShapeRates& rates, const Topology& topology,
                                        const GangRequest& like);

}  // namespace graft::scheduler
