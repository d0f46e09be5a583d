// How many ranks a run has and how the model is divided over them: tensor (tp), context (cp), data
// (dp), pipeline (pp) and expert parallel (ep). world = tp x cp x dp x pp; dp is never given, it is
// what is left. ep is no factor: it regroups the cp x dp ranks of a stage.
//
//   LayoutCheck check = CheckLayout(spec, {.gpus = 8, .tp = 2, .pp = 2});
//   if (!check.ok()) return check.status();     // every violation, a sentence each
//
// Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/spec/decoder_spec.h"

namespace graft::spec {

struct Layout {
  int64_t tp = 1;
  int64_t pp = 1;
  int64_t cp = 1;
  int64_t dp = 1;
  int64_t ep = 1;

  int64_t world() const { return tp * pp * cp * dp; }
  bool operator==(const Layout&) const = default;
};

// "tp 2, pp 2, dp 2", leaving out what is 1; "one rank" where all are.
std::string LayoutText(const Layout& layout);

struct LayoutRequest {
  int64_t gpus = 1;
  int64_t tp = 1;
  int64_t pp = 1;
  int64_t cp = 1;
  int64_t ep = 1;
  int64_t dp = 0;  // as the user set it, which is refused; 0: not set
  int64_t micro_batch = 1;
  int64_t global_batch = 8;
  int64_t sequence = 2048;
  // 0: unknown, and nothing is said about it.
  int64_t gpus_per_nvlink_domain = 0;
  bool allow_tp_across_nodes = false;
};

// `field` is the name in the job's parallelism or batch section: "tensor_parallel_size".
struct LayoutRemark {
  std::string field;
  std::string message;
  std::string code;  // of a warning, as the API publishes it
};

struct LayoutCheck {
  Layout layout;  // meaningful without violations
  std::vector<LayoutRemark> violations;
  std::vector<LayoutRemark> warnings;

  bool ok() const { return violations.empty(); }
  // INVALID_ARGUMENT with all violations; OK without.
  absl::Status status() const;
};

// Says every violation, each with the nearest choice that is valid.
LayoutCheck CheckLayout(const DecoderSpec& spec, const LayoutRequest& request);

// Whether heads, MLPs and experts divide by `tp`.
bool TensorParallelDivides(const DecoderSpec& spec, int64_t tp);

// Every layout of exactly `request.gpus` ranks without a violation (the request's tp, pp, cp and ep
// are not looked at), smallest tp first, then pp, cp, ep.
std::vector<Layout> EnumerateLayouts(const DecoderSpec& spec, const LayoutRequest& request);

}  // namespace graft::spec
