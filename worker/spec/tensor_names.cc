#include "worker/spec/tensor_names.h"

#include <algorithm>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/strings/str_cat.h"

namespace graft::spec {
namespace {

class Builder {
 public:
  Builder(const DecoderSpec& spec, const TensorNames& names) : spec_(spec), names_(names) {}

  std::vector<Parameter> Build() && {
    const int64_t h = spec_.hidden;
    Add("embed.weight", {spec_.vocab, h}, {.tensor = names_.embed + ".weight"});
    if (spec_.learned_positions) {
      Add("positions.weight", {spec_.context, h}, {.tensor = names_.positions + ".weight"});
    }
    for (int64_t i = 0; i < spec_.num_layers(); ++i) Layer(i);
    Norm("final_norm", names_.final_norm, spec_.norm, {h});
    if (!spec_.tied_embeddings) {
      Add("head.weight", {spec_.vocab, h}, {.tensor = names_.head + ".weight"});
    }
    return std::move(parameters_);
  }

 private:
  void Add(std::string name, std::vector<int64_t> shape, std::vector<TensorSlice> slices) {
    parameters_.push_back({std::move(name), std::move(shape), slices, slices});
  }
  void Add(std::string name, std::vector<int64_t> shape, TensorSlice slice) {
    Add(std::move(name), std::move(shape), std::vector<TensorSlice>{std::move(slice)});
  }

  void Norm(const std::string& name, const std::string& module, const NormSpec& norm,
            std::vector<int64_t> shape) {
    TensorSlice weight{.tensor = module + ".weight"};
    weight.add = names_.norm_add;
    Add(name + ".weight", shape, weight);
    if (norm.bias) Add(name + ".bias", shape, {.tensor = module + ".bias"});
  }

  // Rows [begin, begin + out) of `module`, all of it where `total` is `out`.
  struct Rows {
    int64_t begin = 0;
    int64_t total = 0;
    int64_t permuted_heads = 0;
  };
  void Linear(const std::string& name, const std::string& module, int64_t out, int64_t in,
              bool bias, Rows rows) {
    TensorSlice slice{.tensor = module + ".weight"};
    slice.transposed = names_.linears_transposed;
    slice.permuted_heads = rows.permuted_heads;
    if (rows.total != out) {
      slice.begin = rows.begin;
      slice.count = out;
    }
    Add(name + ".weight", {out, in}, slice);
    if (!bias) return;
    slice.tensor = module + ".bias";
    slice.transposed = false;
    Add(name + ".bias", {out}, slice);
  }
  void Linear(const std::string& name, const std::string& module, int64_t out, int64_t in,
              bool bias) {
    Linear(name, module, out, in, bias, Rows{.total = out});
  }

  void Layer(int64_t i) {
    canonical_ = absl::StrCat("layers.", i, ".");
    stored_ = absl::StrCat(names_.layers, i, ".");
    const LayerSpec& layer = spec_.layers[static_cast<size_t>(i)];
    const std::vector<int64_t> width = {spec_.hidden};
    if (spec_.placement.before) {
      Norm(canonical_ + "attn_norm", stored_ + names_.attn_norm, spec_.norm, width);
    }
    spec_.attention.mla ? LatentAttention() : Attention();
    if (spec_.placement.after) {
      Norm(canonical_ + "attn_post_norm", stored_ + names_.attn_post_norm, spec_.norm, width);
    }
    if (spec_.placement.before && !spec_.parallel_block) {
      Norm(canonical_ + "mlp_norm", stored_ + names_.mlp_norm, spec_.norm, width);
    }
    layer.moe ? Experts() : Mlp(layer.ffn);
    if (spec_.placement.after) {
      Norm(canonical_ + "mlp_post_norm", stored_ + names_.mlp_post_norm, spec_.norm, width);
    }
  }

  void Attention() {
    const AttentionSpec& a = spec_.attention;
    const int64_t q = spec_.q_width();
    const int64_t kv = spec_.kv_width();
    const int64_t h = spec_.hidden;
    const bool fused = !names_.qkv.empty();
    const std::string prefix = canonical_ + "attn.";
    const int64_t q_heads = names_.permuted_for_rotation ? a.heads : 0;
    const int64_t k_heads = names_.permuted_for_rotation ? a.kv_heads : 0;
    const auto module = [&](const std::string& own) {
      return stored_ + (fused ? names_.qkv : own);
    };
    const int64_t total = q + 2 * kv;
    Linear(prefix + "q", module(names_.q), q, h, a.q_bias, {0, fused ? total : q, q_heads});
    Linear(prefix + "k", module(names_.k), kv, h, a.k_bias, {q, fused ? total : kv, k_heads});
    Linear(prefix + "v", module(names_.v), kv, h, a.v_bias, {q + kv, fused ? total : kv, 0});
    if (a.qk_norm != QkNorm::kNone) {
      Norm(prefix + "q_norm", stored_ + names_.q_norm, a.qk_norm_spec, QkNormShape(a.heads));
      Norm(prefix + "k_norm", stored_ + names_.k_norm, a.qk_norm_spec, QkNormShape(a.kv_heads));
    }
    if (a.sinks) Add(prefix + "sinks", {a.heads}, {.tensor = stored_ + names_.sinks_tensor});
    Linear(prefix + "o", stored_ + names_.o, h, q, a.o_bias);
  }

  std::vector<int64_t> QkNormShape(int64_t heads) const {
    const int64_t d = spec_.attention.head_dim;
    switch (spec_.attention.qk_norm) {
      case QkNorm::kPerHeadWeights:
        return {heads, d};
      case QkNorm::kFullWidth:
        return {heads * d};
      default:
        return {d};
    }
  }

  void LatentAttention() {
    const AttentionSpec& a = spec_.attention;
    const int64_t h = spec_.hidden;
    const std::string prefix = canonical_ + "attn.";
    const int64_t q = spec_.q_width();
    if (a.q_lora_rank > 0) {
      Linear(prefix + "q_a", stored_ + names_.q_a, a.q_lora_rank, h, a.q_bias);
      Norm(prefix + "q_a_norm", stored_ + names_.q_a_norm, a.latent_norm, {a.q_lora_rank});
      Linear(prefix + "q_b", stored_ + names_.q_b, q, a.q_lora_rank, false);
    } else {
      Linear(prefix + "q", stored_ + names_.q, q, h, false);
    }
    Linear(prefix + "kv_a", stored_ + names_.kv_a, a.kv_lora_rank + a.qk_rope_dim, h, a.k_bias);
    Norm(prefix + "kv_a_norm", stored_ + names_.kv_a_norm, a.latent_norm, {a.kv_lora_rank});
    Linear(prefix + "kv_b", stored_ + names_.kv_b, a.heads * (a.qk_nope_dim + a.value_dim),
           a.kv_lora_rank, false);
    Linear(prefix + "o", stored_ + names_.o, h, a.heads * a.value_dim, a.o_bias);
  }

  void Mlp(int64_t ffn) {
    const MlpSpec& m = spec_.mlp;
    const int64_t h = spec_.hidden;
    const std::string prefix = canonical_ + "mlp.";
    const bool fused = m.gated && !names_.gate_up.empty();
    const int64_t total = fused ? 2 * ffn : ffn;
    const auto module = [&](const std::string& own) {
      return stored_ + (fused ? names_.gate_up : own);
    };
    if (m.gated) {
      Linear(prefix + "gate", module(names_.gate), ffn, h, m.up_bias, Rows{.total = total});
    }
    Linear(prefix + "up", module(names_.up), ffn, h, m.up_bias, Rows{ffn, total, 0});
    Linear(prefix + "down", stored_ + names_.down, h, ffn, m.down_bias);
  }

  void Experts() {
    const MoeSpec& m = spec_.moe;
    const int64_t h = spec_.hidden;
    const std::string prefix = canonical_ + "moe.";
    Add(prefix + "router.weight", {m.experts, h}, {.tensor = stored_ + names_.router + ".weight"});
    if (m.router_bias) {
      Add(prefix + "router.bias", {m.experts}, {.tensor = stored_ + names_.router + ".bias"});
    }
    if (m.correction_bias) {
      Add(prefix + "router.correction_bias", {m.experts},
          {.tensor = stored_ + names_.correction_bias_tensor});
    }
    Expert("gate", names_.expert_gate, m.expert_ffn, h, m.expert.up_bias, 0);
    Expert("up", names_.expert_up, m.expert_ffn, h, m.expert.up_bias, 1);
    Expert("down", names_.expert_down, h, m.expert_ffn, m.expert.down_bias, -1);
    if (m.shared_ffn == 0) return;
    Linear(prefix + "shared.gate", stored_ + names_.shared_gate, m.shared_ffn, h, false);
    Linear(prefix + "shared.up", stored_ + names_.shared_up, m.shared_ffn, h, false);
    Linear(prefix + "shared.down", stored_ + names_.shared_down, h, m.shared_ffn, false);
    if (m.shared_gate) Linear(prefix + "shared_gate", stored_ + names_.shared_switch, 1, h, false);
  }

  // The projection of all experts; `half` is its place in a fused tensor of gate and up (0 or 1),
  // or -1 for down, which is never fused.
  void Expert(const std::string& role, const std::string& module, int64_t out, int64_t in,
              bool bias, int half) {
    const int64_t experts = spec_.moe.experts;
    const std::string name = absl::StrCat(canonical_, "moe.experts.", role);
    std::vector<TensorSlice> slices;
    if (names_.expert_layout == ExpertLayout::kOneByOne) {
      for (int64_t e = 0; e < experts; ++e) {
        slices.push_back({.tensor = absl::StrCat(stored_, names_.experts, e, ".", module,
                                                 names_.expert_weight_suffix)});
      }
      Add(name + ".weight", {experts, out, in}, std::move(slices));
      return;
    }
    const bool fused = half >= 0 && names_.expert_layout != ExpertLayout::kStacked;
    const std::string stem = stored_ + (fused ? names_.expert_gate_up : module);
    TensorSlice slice{.tensor = stem + names_.expert_weight_suffix};
    slice.transposed = names_.expert_layout == ExpertLayout::kInterleaved;
    if (fused) {
      const bool turns = names_.expert_layout == ExpertLayout::kInterleaved;
      slice.axis = 1;
      slice.begin = turns ? half : half * out;
      slice.step = turns ? 2 : 1;
      slice.count = out;
    }
    Add(name + ".weight", {experts, out, in}, slice);
    if (!bias) return;
    slice.tensor = stem + names_.expert_bias_suffix;
    slice.transposed = false;
    Add(name + ".bias", {experts, out}, slice);
  }

  const DecoderSpec& spec_;
  const TensorNames& names_;
  std::string canonical_;
  std::string stored_;
  std::vector<Parameter> parameters_;
};

}  // namespace

std::vector<Parameter> BuildParameters(const DecoderSpec& spec, const TensorNames& names) {
  return Builder(spec, names).Build();
}

std::vector<HubTensor> TensorsOf(const std::vector<Parameter>& parameters, bool hub) {
  absl::btree_map<std::string, HubTensor> tensors;
  for (size_t p = 0; p < parameters.size(); ++p) {
    const std::vector<TensorSlice>& slices = hub ? parameters[p].hub : parameters[p].source;
    const bool one_by_one = slices.size() > 1;
    for (size_t s = 0; s < slices.size(); ++s) {
      const TensorSlice& slice = slices[s];
      std::vector<int64_t> shape = parameters[p].shape;
      if (one_by_one) shape.erase(shape.begin());
      if (slice.count > 0) {
        shape[static_cast<size_t>(slice.axis)] = slice.begin + (slice.count - 1) * slice.step + 1;
      }
      if (slice.transposed) std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
      HubTensor& tensor = tensors[slice.tensor];
      tensor.name = slice.tensor;
      tensor.shape.resize(shape.size());
      for (size_t d = 0; d < shape.size(); ++d) {
        tensor.shape[d] = std::max(tensor.shape[d], shape[d]);
      }
      tensor.pieces.push_back({static_cast<int>(p), static_cast<int>(s)});
    }
  }
  std::vector<HubTensor> list;
  for (auto& [name, tensor] : tensors) list.push_back(std::move(tensor));
  return list;
}

}  // namespace graft::spec
