#include "worker/model/division.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// One function for both ways: `gather` says which is the forward.
struct RowsFunction : torch::autograd::Function<RowsFunction> {
  static at::Tensor Apply(const at::Tensor& x, Exchange* exchange, const char* what, bool gather) {
    return gather ? exchange->GatherRows(x.contiguous(), what)
                  : exchange->SumScatterRows(x.contiguous(), what);
  }
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, Exchange* exchange,
                            const char* what, bool gather) {
    ctx->saved_data["exchange"] = reinterpret_cast<int64_t>(exchange);
    ctx->saved_data["what"] = reinterpret_cast<int64_t>(what);
    ctx->saved_data["gather"] = gather;
    return Apply(x, exchange, what, gather);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto* exchange = reinterpret_cast<Exchange*>(ctx->saved_data["exchange"].toInt());
    const auto* what = reinterpret_cast<const char*>(ctx->saved_data["what"].toInt());
    return {Apply(grads[0], exchange, what, !ctx->saved_data["gather"].toBool()), at::Tensor(),
            at::Tensor(), at::Tensor()};
  }
};

enum class Kind { kWhole, kHeads, kKvHeads, kRows, kColumns };

// How tensor parallelism divides a parameter, by the end of its module's name. A weight or a bias
// of a linear that is cut by columns differ: the bias is added once, to the sum.
Kind KindOf(const spec::DecoderSpec& spec, absl::string_view name) {
  const bool full_width_norm = spec.attention.qk_norm == spec::QkNorm::kFullWidth ||
                               spec.attention.qk_norm == spec::QkNorm::kPerHeadWeights;
  const auto of = [&](absl::string_view module) {
    return absl::EndsWith(name.substr(0, name.rfind('.')), module);
  };
  if (name == "embed.weight" || name == "head.weight") return Kind::kRows;
  const bool latent = spec.attention.mla;
  if (of("attn.q") || (latent && (of("attn.q_b") || of("attn.kv_b")))) return Kind::kHeads;
  if (of("attn.k") || of("attn.v")) return Kind::kKvHeads;
  if (full_width_norm && of("attn.q_norm")) return Kind::kHeads;
  if (full_width_norm && of("attn.k_norm")) return Kind::kKvHeads;
  if (absl::EndsWith(name, "attn.sinks")) return Kind::kHeads;
  if (of("mlp.gate") || of("mlp.up") || of("moe.shared.gate") || of("moe.shared.up")) {
    return Kind::kRows;
  }
  const bool summed = of("attn.o") || of("mlp.down") || of("moe.shared.down");
  if (summed && absl::EndsWith(name, ".weight")) return Kind::kColumns;
  return Kind::kWhole;
}

}  // namespace

at::Tensor GatherRowsOp(const at::Tensor& x, Exchange* exchange, const char* what) {
  return exchange == nullptr ? x : RowsFunction::apply(x, exchange, what, true);
}

at::Tensor SumScatterRowsOp(const at::Tensor& x, Exchange* exchange, const char* what) {
  return exchange == nullptr ? x : RowsFunction::apply(x, exchange, what, false);
}

Cut EvenCut(int64_t n, int64_t parts, int64_t index) {
  const int64_t each = n / parts;
  const int64_t more = n % parts;
  return {0, index * each + std::min(index, more), each + (index < more ? 1 : 0), 1};
}

Cut CutOf(const spec::DecoderSpec& spec, const Division& division, const std::string& name,
          const std::vector<int64_t>& shape) {
  const int64_t tp = division.tp;
  const Kind kind = KindOf(spec, name);
  if (tp == 1 || kind == Kind::kWhole) return {0, 0, shape.empty() ? 1 : shape[0], tp};
  Cut cut;
  if (kind == Kind::kColumns) {
    cut = EvenCut(shape[1], tp, division.tp_rank);
    cut.axis = 1;
  } else if (kind == Kind::kKvHeads && tp > spec.attention.kv_heads) {
    // A KV head serves the queries of several ranks.
    const int64_t copies = tp / spec.attention.kv_heads;
    cut = EvenCut(shape[0], spec.attention.kv_heads, division.tp_rank / copies);
    cut.copies = copies;
  } else {
    cut = EvenCut(shape[0], tp, division.tp_rank);
  }
  return cut;
}

}  // namespace graft::model
