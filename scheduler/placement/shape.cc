#include "scheduler/placement/shape.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace graft::scheduler {
namespace {

constexpr double kAlike = 1.03;      // step times that count as equal
constexpr size_t kMostShapes = 8;    // kept
constexpr size_t kMostPlaced = 200;  // placed on trial
// The part of a group's traffic that hides behind arithmetic.
constexpr double kCpOverlap = 0.5, kEpOverlap = 0.3, kDpOverlap = 0.8, kPpOverlap = 0.9;

double LevelBandwidth(const ShapeRates& rates, Level level) {
  if (level <= Level::kDomain) return rates.nvlink_bytes_per_second;
  if (level <= Level::kRailGroup) return rates.leaf_bytes_per_second;
  return level == Level::kSpine ? rates.spine_bytes_per_second : rates.core_bytes_per_second;
}

// What is left to send of a ring over `ranks`.
double Ring(int ranks) { return ranks <= 1 ? 0 : (ranks - 1.0) / ranks; }

double MicroBatches(const ShapeRequest& request, const Layout& layout) {
  return std::max(
      1.0, std::floor(request.global_batch / static_cast<double>(request.micro_batch * layout.dp)));
}

bool Given(int wanted, int value) { return wanted == 0 || wanted == value; }

bool Divides(const ModelFacts& model, const ShapeRequest& request, const ShapeRates& rates,
             const Layout& layout) {
  if (layout.tp > rates.devices_per_domain && !request.tp_across_domains) return false;
  if (request.global_batch % (request.micro_batch * layout.dp) != 0) return false;
  if (!model.DividesBy(layout.tp)) return false;
  if (layout.pp > model.layers || model.layers % layout.pp != 0) return false;
  // A pipeline with fewer micro-batches than stages mostly waits.
  if (layout.pp > 1 && MicroBatches(request, layout) < layout.pp) return false;
  if (layout.ep == 1) return true;
  return layout.tp == 1 && model.experts > 0 && model.experts % layout.ep == 0 &&
         (layout.cp * layout.dp) % layout.ep == 0;
}

std::vector<int> DivisorsOf(int number) {
  std::vector<int> divisors;
  for (int part = 1; part <= number; ++part) {
    if (number % part == 0) divisors.push_back(part);
  }
  return divisors;
}

// Every layout of so many devices that the model and the request allow.
std::vector<Layout> Enumerate(const ModelFacts& model, const ShapeRequest& request,
                              const ShapeRates& rates, int devices) {
  std::vector<Layout> layouts;
  const std::vector<int> divisors = DivisorsOf(devices);
  for (int tp : divisors) {
    for (int pp : divisors) {
      for (int cp : {1, 2, 4, 8}) {
        if (!Given(request.tp, tp) || !Given(request.pp, pp) || !Given(request.cp, cp)) continue;
        if (devices % (tp * pp * cp) != 0) continue;
        for (int ep : {1, 2, 4, 8, 16, 32, 64}) {
          const Layout layout{
              .tp = tp, .cp = cp, .dp = devices / (tp * pp * cp), .pp = pp, .ep = ep};
          if (Given(request.ep, ep) && Divides(model, request, rates, layout)) {
            layouts.push_back(layout);
          }
        }
      }
    }
  }
  return layouts;
}

struct Found {
  std::vector<Shape> fitting;
  double least_memory = 0;  // of all that divide; 0: none does
  Layout least;
};

Found FitMemory(const ModelFacts& model, const ShapeRequest& request, const ShapeRates& rates,
                int devices) {
  Found found;
  const double room = static_cast<double>(rates.device_bytes) * rates.usable_share;
  for (const Layout& layout : Enumerate(model, request, rates, devices)) {
    const double memory = ShapeMemory(model, request, layout);
    if (found.least_memory == 0 || memory < found.least_memory) {
      found.least_memory = memory;
      found.least = layout;
    }
    if (memory <= room) found.fitting.push_back({.layout = layout, .memory_bytes = memory});
  }
  return found;
}

std::string WholeLayoutText(const Layout& layout) {
  return absl::StrCat("tp ", layout.tp, ", cp ", layout.cp, ", dp ", layout.dp, ", pp ", layout.pp,
                      ", ep ", layout.ep);
}

// Of a layout that does not fit, the fewest devices that would do, when the layout is left open.
std::string WhatWouldFit(const ModelFacts& model, ShapeRequest request, const ShapeRates& rates,
                         const Layout& least) {
  std::string text;
  if (least.dp * least.cp > 1) {
    text = "; data and context parallel ranks repeat the weights, so that more of them do not help";
  }
  request.tp = request.cp = request.pp = request.ep = 0;
  for (int devices = 1; devices <= request.most_devices; ++devices) {
    Found found = FitMemory(model, request, rates, devices);
    if (found.fitting.empty()) continue;
    const auto narrowest = std::min_element(
        found.fitting.begin(), found.fitting.end(), [](const Shape& a, const Shape& b) {
          return a.layout.pp != b.layout.pp ? a.layout.pp < b.layout.pp
                                            : a.memory_bytes < b.memory_bytes;
        });
    return absl::StrCat(text, "; the fewest that hold it are ", devices, " devices with ",
                        WholeLayoutText(narrowest->layout));
  }
  return absl::StrCat(text, "; no number of these devices holds it");
}

// Fastest first among those that start now; of equally fast ones the simplest.
void Order(std::vector<Shape>& shapes) {
  std::stable_sort(shapes.begin(), shapes.end(), [](const Shape& a, const Shape& b) {
    if (a.starts_now != b.starts_now) return a.starts_now;
    return a.step_seconds < b.step_seconds;
  });
  const auto alike = std::find_if(shapes.begin(), shapes.end(), [&](const Shape& shape) {
    return shape.starts_now != shapes.front().starts_now ||
           shape.step_seconds > shapes.front().step_seconds * kAlike;
  });
  std::stable_sort(shapes.begin(), alike, [](const Shape& a, const Shape& b) {
    if (a.layout.tp != b.layout.tp) return a.layout.tp < b.layout.tp;
    if (a.layout.pp != b.layout.pp) return a.layout.pp < b.layout.pp;
    if (a.layout.cp != b.layout.cp) return a.layout.cp < b.layout.cp;
    return a.layout.ep < b.layout.ep;
  });
}

void PlaceOnTrial(const ModelFacts& model, const ShapeRequest& request, const ShapeRates& rates,
                  const Topology& topology, const GangRequest& like, std::vector<Shape>& shapes) {
  for (size_t i = 0; i < std::min(kMostPlaced, shapes.size()); ++i) {
    GangRequest gang = like;
    gang.layout = shapes[i].layout;
    const std::optional<Placement> placement = TryPlace(topology, gang);
    if (!placement.has_value()) continue;
    shapes[i].starts_now = true;
    shapes[i].step_seconds = ShapeStepSeconds(model, request, rates, gang.layout, placement->level);
  }
}

}  // namespace

double ShapeMemory(const ModelFacts& model, const ShapeRequest& request, const Layout& layout) {
  const double divided = static_cast<double>(model.parameters) /
                         (static_cast<double>(layout.tp) * layout.pp * layout.ep);
  // Weights; of what is trained a gradient, and fp32 master and moments over the replicas.
  const double replicas = layout.cp * layout.dp / static_cast<double>(layout.ep);
  const double weights = request.bytes_per_weight * divided;
  const double trained = request.trained_share * divided * (2 + 12 / replicas);
  const double tokens = static_cast<double>(request.micro_batch * request.sequence) / layout.cp;
  const double layers = static_cast<double>(model.layers) / layout.pp;
  const double hidden = static_cast<double>(model.hidden);
  const double kept = request.recompute_layers ? 2 : 34.0 / layout.tp;
  const double in_flight = std::min<double>(layout.pp, MicroBatches(request, layout));
  return weights + trained + kept * tokens * hidden * layers * in_flight;
}

double ShapeStepSeconds(const ModelFacts& model, const ShapeRequest& request,
                        const ShapeRates& rates, const Layout& layout, Level level) {
  const double active = static_cast<double>(model.active_parameters == 0 ? model.parameters
                                                                         : model.active_parameters);
  const double micro = MicroBatches(request, layout);
  const double tokens = micro * static_cast<double>(request.micro_batch * request.sequence);
  // Forward, and of the backward the part towards the input and that towards trained weights.
  const double passes = 2 + request.trained_share + (request.recompute_layers ? 1 : 0);
  const double compute = 2 * active * passes * tokens /
                         (layout.tp * layout.cp * static_cast<double>(layout.pp)) /
                         (rates.flops * rates.efficiency);
  const double bubble = (layout.pp - 1) / micro;

  const double act = static_cast<double>(request.micro_batch * request.sequence) *
                     static_cast<double>(model.hidden) * 2 / layout.cp;
  const double layers = static_cast<double>(model.layers) / layout.pp;
  const double near = rates.nvlink_bytes_per_second;
  const double far = LevelBandwidth(rates, level);
  const double kv = static_cast<double>(model.kv_heads) / model.heads;
  const bool experts_near = layout.ep <= rates.devices_per_domain;
  const bool context_near = layout.tp * layout.cp <= rates.devices_per_domain;
  const double tp = 8 * Ring(layout.tp) * act * layers * micro /
                    (layout.tp <= rates.devices_per_domain ? near : rates.leaf_bytes_per_second);
  const double cp = 6 * Ring(layout.cp) * act / layout.tp * kv * layers * micro * (1 - kCpOverlap) /
                    (context_near ? near : rates.leaf_bytes_per_second);
  const double ep = 4 * model.experts_per_token * act * Ring(layout.ep) * layers * micro *
                    (1 - kEpOverlap) / (experts_near ? near : rates.leaf_bytes_per_second);
  const double pp = layout.pp == 1 ? 0 : 2 * act / layout.tp * micro * (1 - kPpOverlap) / far;
  const double trained = static_cast<double>(model.parameters) * request.trained_share /
                         (static_cast<double>(layout.tp) * layout.pp);
  const double dp = Ring(layout.dp) * 6 * trained * (1 - kDpOverlap) / far;
  return compute * (1 + bubble) + tp + cp + ep + pp + dp;
}

absl::StatusOr<ShapeChoice> ChooseShape(const ModelFacts& model, const ShapeRequest& request,
                                        const ShapeRates& rates, const Topology& topology,
                                        const GangRequest& like) {
  if (model.parameters <= 0 || model.layers < 1 || model.heads < 1 || model.kv_heads < 1 ||
      request.devices < 0 || request.micro_batch < 1 || request.global_batch < 1) {
    return absl::InvalidArgumentError(
        "a layout needs a model with parameters, layers and heads, and batches of 1 or more");
  }
  Found found;
  // As many of each node, where the number of nodes is given.
  const int step = std::max(1, like.nodes);
  int devices = std::max(step, request.devices);
  for (; devices <= std::max(request.devices, request.most_devices); devices += step) {
    Found at = FitMemory(model, request, rates, devices);
    const bool smaller =
        found.least_memory == 0 || (at.least_memory > 0 && at.least_memory < found.least_memory);
    if (smaller || !at.fitting.empty()) found = std::move(at);
    if (!found.fitting.empty() || request.devices > 0) break;
  }
  if (found.least_memory == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no layout divides ", model.heads, " heads, ", model.kv_heads, " KV heads and ",
        model.layers, " layers over ", devices,
        " devices with what is given; give fewer of tp, cp, pp, ep, or another number of devices"));
  }
  constexpr double kGiB = 1 << 30;
  if (found.fitting.empty()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("needs at least %.1f GiB of each device (%s), and %.1f GiB of %.1f may be "
                        "used%s; else take "
                        "larger ones, a quantised base, or make layers again in the backward",
                        found.least_memory / kGiB, WholeLayoutText(found.least),
                        static_cast<double>(rates.device_bytes) * rates.usable_share / kGiB,
                        static_cast<double>(rates.device_bytes) / kGiB,
                        WhatWouldFit(model, request, rates, found.least)));
  }
  for (Shape& shape : found.fitting) {
    const bool inside = shape.layout.world() <= rates.devices_per_domain;
    shape.step_seconds = ShapeStepSeconds(model, request, rates, shape.layout,
                                          inside ? Level::kDomain : Level::kRailGroup);
  }
  Order(found.fitting);
  PlaceOnTrial(model, request, rates, topology, like, found.fitting);
  Order(found.fitting);
  ShapeChoice choice;
  const size_t layouts = found.fitting.size();
  if (found.fitting.size() > kMostShapes) found.fitting.resize(kMostShapes);
  choice.shapes = std::move(found.fitting);
  const Shape& best = choice.shapes.front();
  choice.why = absl::StrFormat(
      "%s on %d devices: %.1f GiB of each, %.3g s a step; the best of %d layouts that fit%s",
      WholeLayoutText(best.layout), best.layout.world(), best.memory_bytes / kGiB,
      best.step_seconds, static_cast<int>(layouts),
      best.starts_now ? "" : ", none of which can start now");
  return choice;
}

}  // namespace graft::scheduler
