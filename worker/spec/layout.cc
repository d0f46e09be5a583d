#include "worker/spec/layout.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace graft::spec {
namespace {

// No cluster, batch or sequence is larger.
constexpr int64_t kMaxSize = 1 << 24;

constexpr char kTp[] = "tensor_parallel_size";
constexpr char kPp[] = "pipeline_parallel_size";
constexpr char kCp[] = "context_parallel_size";
constexpr char kEp[] = "expert_parallel_size";
constexpr char kDp[] = "data_parallel_size";
constexpr char kGlobal[] = "global_batch_size";

// The value in [1, most] nearest to `wanted` that is `valid`, the smaller of two; 0: there is none.
int64_t Nearest(int64_t wanted, int64_t most, const std::function<bool(int64_t)>& valid) {
  wanted = std::clamp<int64_t>(wanted, 1, most);
  for (int64_t distance = 0; distance <= most; ++distance) {
    for (const int64_t candidate : {wanted - distance, wanted + distance}) {
      if (candidate >= 1 && candidate <= most && valid(candidate)) return candidate;
    }
  }
  return 0;
}

int64_t Divisor(int64_t wanted, int64_t of) {
  return Nearest(wanted, of, [of](int64_t n) { return of % n == 0; });
}

class Checker {
 public:
  Checker(const DecoderSpec& spec, const LayoutRequest& request) : spec_(spec), r_(request) {}

  LayoutCheck Check() && {
    if (!SizesArePositive()) return std::move(check_);
    Layout& layout = check_.layout;
    layout.tp = r_.tp;
    layout.pp = r_.pp;
    layout.cp = r_.cp;
    layout.ep = spec_.is_moe() ? r_.ep : 1;
    const bool whole = Ranks();
    TensorParallel();
    PipelineParallel();
    ContextParallel();
    if (whole) {
      ExpertParallel();
      Batch();
    }
    return std::move(check_);
  }

 private:
  void Refuse(const char* field, std::string message) {
    check_.violations.push_back({field, std::move(message), ""});
  }
  void Warn(const char* code, const char* field, std::string message) {
    check_.warnings.push_back({field, std::move(message), code});
  }

  bool SizesArePositive() {
    const std::pair<const char*, int64_t> sizes[] = {{"gpus", r_.gpus},
                                                     {kTp, r_.tp},
                                                     {kPp, r_.pp},
                                                     {kCp, r_.cp},
                                                     {kEp, r_.ep},
                                                     {"micro_batch_size", r_.micro_batch},
                                                     {kGlobal, r_.global_batch},
                                                     {"max_seq_length", r_.sequence}};
    for (const auto& [field, value] : sizes) {
      if (value >= 1 && value <= kMaxSize) continue;
      Refuse(field, absl::StrCat(field, " is ", value, "; use 1 to ", kMaxSize));
    }
    return check_.ok();
  }

  // gpus = tp x pp x cp x dp.
  bool Ranks() {
    const int64_t model = MultiplyOrHuge(MultiplyOrHuge(r_.tp, r_.pp), r_.cp);
    if (r_.gpus % model != 0) {
      const int64_t more = (r_.gpus / model + 1) * model;
      std::string fewer;
      if (r_.gpus > model) fewer = absl::StrCat(" or ", r_.gpus / model * model);
      const int64_t tp = Nearest(r_.tp, r_.gpus, [&](int64_t n) {
        return r_.gpus % MultiplyOrHuge(MultiplyOrHuge(n, r_.pp), r_.cp) == 0 &&
               TensorParallelDivides(spec_, n);
      });
      const std::string other =
          tp > 0 ? absl::StrCat(", or ", kTp, " ", tp) : absl::StrCat(", or smaller groups");
      Refuse(kTp, absl::StrCat(r_.gpus, " GPUs are no multiple of ", kTp, " ", r_.tp, " x ", kPp,
                               " ", r_.pp, " x ", kCp, " ", r_.cp, " = ", model, "; use ", more,
                               fewer, " GPUs", other));
      return false;
    }
    check_.layout.dp = r_.gpus / model;
    if (r_.dp != 0) {
      Refuse(kDp, absl::StrCat(kDp, " is not set directly: it is gpus / (", kTp, " x ", kPp, " x ",
                               kCp, ") = ", check_.layout.dp, "; leave it out"));
    }
    return true;
  }

  static int64_t MultiplyOrHuge(int64_t a, int64_t b) {
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? int64_t{1} << 62 : product;
  }

  void TensorParallel() {
    if (!TensorParallelDivides(spec_, r_.tp)) {
      const int64_t nearest = Nearest(r_.tp, r_.gpus, [&](int64_t n) {
        return r_.gpus % n == 0 && TensorParallelDivides(spec_, n);
      });
      Refuse(kTp, absl::StrCat(kTp, " ", r_.tp, " does not divide ", WhatDoesNotDivide(),
                               " of the model; use ", std::max<int64_t>(nearest, 1)));
    }
    const int64_t domain = r_.gpus_per_nvlink_domain;
    if (domain > 0 && r_.tp > domain) AcrossDomains(domain);
  }

  std::string WhatDoesNotDivide() const {
    const AttentionSpec& a = spec_.attention;
    std::vector<std::string> parts;
    if (a.heads % r_.tp != 0) parts.push_back(absl::StrCat("the ", a.heads, " attention heads"));
    if (!a.mla && a.kv_heads % r_.tp != 0 && r_.tp % a.kv_heads != 0) {
      parts.push_back(absl::StrCat("the ", a.kv_heads, " KV heads (nor is it a multiple of them)"));
    }
    for (const LayerSpec& layer : spec_.layers) {
      if (layer.ffn % r_.tp == 0) continue;
      parts.push_back(absl::StrCat("the MLP's ", layer.ffn, " columns"));
      break;
    }
    for (const int64_t ffn : {spec_.moe.expert_ffn, spec_.moe.shared_ffn}) {
      if (ffn % r_.tp != 0) parts.push_back(absl::StrCat("the experts' ", ffn, " columns"));
    }
    return absl::StrJoin(parts, " and ");
  }

  void AcrossDomains(int64_t domain) {
    const int64_t tp = Nearest(domain, domain, [&](int64_t n) {
      return r_.tp % n == 0 && TensorParallelDivides(spec_, n);
    });
    const int64_t pp =
        std::min(MultiplyOrHuge(r_.pp, r_.tp / std::max<int64_t>(tp, 1)), spec_.num_layers());
    const std::string better = absl::StrCat(kTp, " ", tp, " with ", kPp, " ", pp);
    if (r_.allow_tp_across_nodes) {
      Warn("TP_ACROSS_NODES", kTp,
           absl::StrCat(kTp, " ", r_.tp, " leaves the NVLink domain of ", domain,
                        " GPUs and will be slow; ", better, " stays inside"));
      return;
    }
    Refuse(kTp, absl::StrCat(kTp, " ", r_.tp, " leaves the NVLink domain of ", domain,
                             " GPUs; use ", better, ", or set allow_tp_across_nodes"));
  }

  void PipelineParallel() {
    if (r_.pp <= spec_.num_layers()) return;
    const int64_t nearest = Divisor(std::min(r_.pp, spec_.num_layers()), r_.gpus);
    Refuse(kPp, absl::StrCat(kPp, " ", r_.pp, " is more than the model's ", spec_.num_layers(),
                             " layers; use ", std::min(nearest, spec_.num_layers())));
  }

  // Each rank holds two pieces of a sequence, from its beginning and from its end.
  void ContextParallel() {
    if (r_.cp == 1 || r_.sequence % (2 * r_.cp) == 0) return;
    const int64_t rounded = (r_.sequence + 2 * r_.cp - 1) / (2 * r_.cp) * (2 * r_.cp);
    Refuse(kCp, absl::StrCat("max_seq_length ", r_.sequence, " is no multiple of 2 x ", kCp, " ",
                             r_.cp, " (a piece from each end); use ", rounded, " or ", kCp, " ",
                             Nearest(r_.cp, r_.cp, [&](int64_t n) {
                               return n == 1 || r_.sequence % (2 * n) == 0;
                             })));
  }

  void ExpertParallel() {
    if (r_.ep == 1) return;
    if (!spec_.is_moe()) {
      Warn("EXPERT_PARALLEL_IGNORED", kEp,
           absl::StrCat(kEp, " ", r_.ep, " is ignored: the model has no experts"));
      check_.layout.ep = 1;
      return;
    }
    if (r_.tp > 1) {
      Refuse(kEp, absl::StrCat(kTp, " must be 1 where ", kEp, " is above 1; use ", kTp, " 1, or ",
                               kEp, " 1"));
    }
    const int64_t group = check_.layout.dp * check_.layout.cp;
    const auto valid = [&](int64_t n) { return group % n == 0 && spec_.moe.experts % n == 0; };
    if (group % r_.ep != 0) {
      Refuse(kEp, absl::StrCat(kEp, " ", r_.ep, " does not divide ", kDp, " x ", kCp, " = ",
                               check_.layout.dp, " x ", check_.layout.cp, " = ", group,
                               " (dp alone does not decide); use ", Nearest(r_.ep, group, valid)));
    } else if (spec_.moe.experts % r_.ep != 0) {
      Refuse(kEp, absl::StrCat(kEp, " ", r_.ep, " does not divide the ", spec_.moe.experts,
                               " experts; use ", Nearest(r_.ep, group, valid)));
    }
  }

  void Batch() {
    const int64_t together = MultiplyOrHuge(r_.micro_batch, check_.layout.dp);
    if (r_.global_batch % together != 0) {
      const int64_t above = (r_.global_batch / together + 1) * together;
      const int64_t below = r_.global_batch / together * together;
      const bool down = below > 0 && r_.global_batch - below <= above - r_.global_batch;
      Refuse(kGlobal, absl::StrCat(kGlobal, " ", r_.global_batch,
                                   " is no multiple of micro_batch_size ", r_.micro_batch, " x ",
                                   kDp, " ", check_.layout.dp, "; use ", down ? below : above));
      return;
    }
    const int64_t micro_batches = r_.global_batch / together;
    if (micro_batches < r_.pp) {
      const double idle =
          static_cast<double>(r_.pp - 1) / static_cast<double>(micro_batches + r_.pp - 1);
      Warn("PIPELINE_IDLE", kPp,
           absl::StrCat("a step has ", micro_batches, " micro-batches for ", r_.pp,
                        " pipeline stages, which are idle ",
                        static_cast<int64_t>(std::lround(100 * idle)), " % of the time; use a ",
                        kGlobal, " of ", 4 * r_.pp * together, " or more"));
    }
  }

  const DecoderSpec& spec_;
  const LayoutRequest& r_;
  LayoutCheck check_;
};

std::vector<int64_t> DivisorsOf(int64_t n) {
  std::vector<int64_t> divisors;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) divisors.push_back(d);
  }
  return divisors;
}

}  // namespace

std::string LayoutText(const Layout& layout) {
  std::vector<std::string> parts;
  const std::pair<const char*, int64_t> sizes[] = {{"tp", layout.tp},
                                                   {"pp", layout.pp},
                                                   {"cp", layout.cp},
                                                   {"dp", layout.dp},
                                                   {"ep", layout.ep}};
  for (const auto& [name, size] : sizes) {
    if (size > 1) parts.push_back(absl::StrCat(name, " ", size));
  }
  return parts.empty() ? "one rank" : absl::StrJoin(parts, ", ");
}

absl::Status LayoutCheck::status() const {
  if (ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(
      violations, "; ",
      [](std::string* out, const LayoutRemark& r) { absl::StrAppend(out, r.message); }));
}

LayoutCheck CheckLayout(const DecoderSpec& spec, const LayoutRequest& request) {
  return Checker(spec, request).Check();
}

bool TensorParallelDivides(const DecoderSpec& spec, int64_t tp) {
  const AttentionSpec& a = spec.attention;
  if (tp < 1 || a.heads % tp != 0) return false;
  if (!a.mla && a.kv_heads % tp != 0 && tp % a.kv_heads != 0) return false;
  if (spec.moe.expert_ffn % tp != 0 || spec.moe.shared_ffn % tp != 0) return false;
  return std::all_of(spec.layers.begin(), spec.layers.end(),
                     [tp](const LayerSpec& layer) { return layer.ffn % tp == 0; });
}

std::vector<Layout> EnumerateLayouts(const DecoderSpec& spec, const LayoutRequest& request) {
  std::vector<Layout> layouts;
  if (request.gpus < 1 || request.gpus > kMaxSize) return layouts;
  const std::vector<int64_t> divisors = DivisorsOf(request.gpus);
  LayoutRequest r = request;
  r.dp = 0;
  for (int64_t tp : divisors) {
    if (!TensorParallelDivides(spec, tp)) continue;
    for (int64_t pp : divisors) {
      if (pp > spec.num_layers() || request.gpus % (tp * pp) != 0) continue;
      for (int64_t cp : divisors) {
        if (request.gpus % (tp * pp * cp) != 0) continue;
        for (int64_t ep : divisors) {
          if (ep > 1 && !spec.is_moe()) break;
          r.tp = tp;
          r.pp = pp;
          r.cp = cp;
          r.ep = ep;
          const LayoutCheck check = CheckLayout(spec, r);
          if (check.ok()) layouts.push_back(check.layout);
        }
      }
    }
  }
  return layouts;
}

}  // namespace graft::spec
