#include "worker/model/division.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace graft::model {
namespace {

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
  if (of("attn.q")) return Kind::kHeads;
  if (of("attn.k") || of("attn.v")) return Kind::kKvHeads;
  if (full_width_norm && of("attn.q_norm")) return Kind::kHeads;
  if (full_width_norm && of("attn.k_norm")) return Kind::kKvHeads;
  if (absl::EndsWith(name, "attn.sinks")) return Kind::kHeads;
  if (of("mlp.gate") || of("mlp.up")) return Kind::kRows;
  if ((of("attn.o") || of("mlp.down")) && absl::EndsWith(name, ".weight")) return Kind::kColumns;
  return Kind::kWhole;
}

}  // namespace

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
