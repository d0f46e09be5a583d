#include "worker/model/decoder_build.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/model/adapter_build.h"
#include "worker/model/adapter_targets.h"
#include "worker/model/experts_build.h"
#include "worker/model/group_build.h"
#include "worker/model/parameter_placer.h"

namespace graft::model {
namespace {

class Builder {
 public:
  Builder(const spec::ModelDescription& description, const spec::ParameterReader& reader,
          const BuildOptions& options, const AdapterTargets& targets)
      : description_(description),
        spec_(description.spec),
        options_(options),
        decoder_(std::make_unique<Decoder>(description.spec, options.division, options.device)),
        placer_(description, reader, options, targets, *decoder_),
        groups_(placer_),
        experts_(placer_),
        adapters_(placer_, groups_, experts_) {}

  absl::StatusOr<std::unique_ptr<Decoder>> Build() {
    for (const auto& [begin, end] : OwnLayers()) {
      for (int64_t i = begin; i < end; ++i) DescribeLayer(i);
    }
    DescribeEnds();
    // As transformers: the routers' loss is trained where the configuration asks for their logits.
    if (spec_.is_moe() && description_.config.GetBool("output_router_logits")) {
      decoder_->router_loss_coefficient = spec_.moe.aux_loss_coefficient;
    }
    if (options_.train == Train::kLora) adapters_.Attach();
    GRAFT_RETURN_IF_ERROR(placer_.Fill());
    decoder_->set_compute_type(options_.compute_type);
    return std::move(decoder_);
  }

 private:
  std::vector<std::pair<int64_t, int64_t>> OwnLayers() const {
    if (!options_.division.layers.empty()) return options_.division.layers;
    return {{0, spec_.num_layers()}};
  }

  void DescribeAttention(int64_t index, Attention& attention) {
    const spec::AttentionSpec& from = spec_.attention;
    const std::string prefix = absl::StrCat("layers.", index, ".attn.");
    const int64_t tp = placer_.division().tp;
    attention.heads = from.heads / tp;
    attention.kv_heads = std::max<int64_t>(1, (from.mla ? from.heads : from.kv_heads) / tp);
    attention.head_dim = from.head_dim;
    attention.value_dim = from.value_dim;
    attention.scale =
        from.scale / (from.scale_by_inverse_layer ? static_cast<double>(index + 1) : 1.0);
    attention.softcap = from.softcap;
    attention.clip_qkv = from.clip_qkv;
    attention.window = spec_.layers[index].sliding_window;
    attention.rope = spec_.layers[index].rope;
    if (attention.rope >= 0) {
      attention.rope_interleaved = spec_.ropes[attention.rope].interleaved;
    }
    attention.rope_offset = from.mla ? from.qk_nope_dim : 0;
    attention.qk_norm = from.qk_norm;
    if (from.qk_norm != spec::QkNorm::kNone) {
      placer_.PlaceNorm(prefix + "q_norm", from.qk_norm_spec, attention.q_norm);
      placer_.PlaceNorm(prefix + "k_norm", from.qk_norm_spec, attention.k_norm);
    }
    if (from.qk_norm == spec::QkNorm::kFullWidth && tp > 1) {
      attention.q_norm.across = attention.k_norm.across = placer_.division().tensor;
      attention.q_norm.whole_columns = spec_.q_width();
      attention.k_norm.whole_columns = spec_.kv_width();
      attention.k_norm.copies = std::max<int64_t>(1, tp / from.kv_heads);
    }
    if (const spec::Parameter* sinks = placer_.Find(prefix + "sinks"); sinks != nullptr) {
      placer_.Place(sinks, false, at::kFloat, &attention.sinks_grad,
                    [&attention](at::Tensor t) { attention.sinks = std::move(t); });
    }
  }

  void DescribeLayer(int64_t index) {
    auto layer = std::make_unique<DecoderLayer>();
    layer->index = index;
    placer_.BeginLayer(index);
    const std::string prefix = absl::StrCat("layers.", index, ".");
    if (spec_.placement.before) {
      placer_.PlaceNorm(prefix + "attn_norm", spec_.norm, layer->qkv.norm);
      if (spec_.parallel_block) {
        // One norm with two readers.
        placer_.Later([layer = layer.get()] {
          layer->gate_up.norm = layer->qkv.norm;
          return absl::OkStatus();
        });
      } else if (spec_.layers[index].moe) {
        layer->moe = std::make_unique<MoeBlock>();
        placer_.PlaceNorm(prefix + "mlp_norm", spec_.norm, layer->moe->norm);
      } else {
        placer_.PlaceNorm(prefix + "mlp_norm", spec_.norm, layer->gate_up.norm);
      }
    }
    placer_.PlaceNorm(prefix + "attn_post_norm", spec_.norm, layer->attn_post);
    placer_.PlaceNorm(prefix + "mlp_post_norm", spec_.norm, layer->mlp_post);
    if (spec_.attention.mla) {
      DescribeLatent(prefix + "attn.", *layer);
    } else {
      groups_.Describe({prefix + "attn.q", prefix + "attn.k", prefix + "attn.v"}, layer->qkv);
    }
    DescribeAttention(index, layer->attention);
    groups_.Describe({prefix + "attn.o"}, layer->o);
    if (spec_.layers[index].moe) {
      if (layer->moe == nullptr) layer->moe = std::make_unique<MoeBlock>();
      DescribeMoe(prefix + "moe.", *layer->moe);
    } else {
      groups_.Describe(InnerNames(prefix + "mlp."), layer->gate_up);
      groups_.Describe({prefix + "mlp.down"}, layer->down);
    }
    layer->mlp = &decoder_->spec().mlp;
    decoder_->layers().push_back(std::move(layer));
  }

  std::vector<std::string> InnerNames(const std::string& prefix) const {
    std::vector<std::string> inner = {prefix + "up"};
    if (spec_.mlp.gated) inner.insert(inner.begin(), prefix + "gate");
    return inner;
  }

  void DescribeLatent(const std::string& prefix, DecoderLayer& layer) {
    const spec::AttentionSpec& from = spec_.attention;
    layer.latent = std::make_unique<LatentAttention>();
    LatentAttention& latent = *layer.latent;
    latent.heads = from.heads / placer_.division().tp;
    latent.nope_dim = from.qk_nope_dim;
    latent.rope_dim = from.qk_rope_dim;
    latent.value_dim = from.value_dim;
    latent.kv_width = from.kv_lora_rank;
    latent.q_width = from.q_lora_rank > 0 ? from.q_lora_rank : latent.heads * from.head_dim;
    const std::string q = from.q_lora_rank > 0 ? "q_a" : "q";
    groups_.Describe({prefix + q, prefix + "kv_a"}, layer.qkv);
    if (from.q_lora_rank > 0) {
      placer_.PlaceNorm(prefix + "q_a_norm", from.latent_norm, latent.q_b.norm);
      groups_.Describe({prefix + "q_b"}, latent.q_b, true);
    }
    placer_.PlaceNorm(prefix + "kv_a_norm", from.latent_norm, latent.kv_b.norm);
    groups_.Describe({prefix + "kv_b"}, latent.kv_b, true);
  }

  void DescribeMoe(const std::string& prefix, MoeBlock& moe) {
    moe.spec = &decoder_->spec().moe;
    moe.tensor = placer_.division().tensor;
    moe.exchange = placer_.division().experts;
    groups_.Describe({prefix + "router"}, moe.router, true);
    if (const spec::Parameter* p = placer_.Find(prefix + "router.correction_bias"); p != nullptr) {
      placer_.PlaceFrozen(p, at::kFloat,
                          [&moe](at::Tensor t) { moe.correction_bias = std::move(t); });
    }
    experts_.Describe(prefix + "experts.", InnerNames(prefix + "experts."), moe);
    if (moe.spec->shared_ffn == 0) return;
    moe.has_shared = true;
    groups_.Describe(InnerNames(prefix + "shared."), moe.shared_gate_up, true);
    groups_.Describe({prefix + "shared.down"}, moe.shared_down, true);
    if (moe.spec->shared_gate) groups_.Describe({prefix + "shared_gate"}, moe.shared_gate, true);
  }

  void DescribeEnds() {
    decoder_->parted_ends = placer_.targets().PartsTiedEnds();
    if (placer_.division().embedding) DescribeEmbedding();
    if (placer_.division().head) DescribeHead();
  }

  void DescribeEmbedding() {
    Decoder& d = *decoder_;
    placer_.BeginLayer(-1);
    placer_.Place(placer_.Find("embed.weight"), true, options_.frozen_type, &d.embed_grad,
                  [&d](at::Tensor t) { d.embed = std::move(t); });
    if (d.embed_grad != nullptr && spec_.tied_embeddings && !d.parted_ends) {
      d.embed_grad->both_ends = !placer_.division().head;
    }
    if (const spec::Parameter* p = placer_.Find("positions.weight"); p != nullptr) {
      placer_.Place(p, true, options_.frozen_type, &d.positions_grad,
                    [&d](at::Tensor t) { d.positions = std::move(t); });
    }
  }

  void DescribeHead() {
    Decoder& d = *decoder_;
    Head& head = d.head();
    placer_.BeginLayer(spec_.num_layers());
    placer_.PlaceNorm("final_norm", spec_.norm, head.norm);
    head.logit_scale = spec_.logit_scale;
    head.logit_softcap = spec_.logit_softcap;
    head.exchange = placer_.division().tensor;
    head.vocab_begin = CutOf(spec_, placer_.division(), "head.weight", {spec_.vocab}).begin;
    const spec::Parameter* own = placer_.Find("head.weight");
    if (placer_.targets().SavesTiedEnd()) return DescribePartedHead();
    if (own == nullptr && placer_.division().embedding) {
      placer_.Later([&d, &head]() {
        head.weight = d.embed;
        head.weight_grad = d.embed_grad;
        return absl::OkStatus();
      });
      return;
    }
    // A tied head far from its embedding holds the table as well; the gradients are summed.
    placer_.Place(own != nullptr ? own : placer_.Find("embed.weight"), true, options_.frozen_type,
                  &head.weight_grad, [&head](at::Tensor t) { head.weight = std::move(t); });
    if (own == nullptr && head.weight_grad != nullptr) head.weight_grad->both_ends = true;
  }

  // Training the embedding or the head of a tied pair whole leaves the other as it was.
  void DescribePartedHead() {
    Head& head = decoder_->head();
    const spec::Parameter* table = placer_.Find("embed.weight");
    const bool trained = placer_.targets().Saves(kTiedHead);
    const Cut cut = placer_.Own(*table);
    const std::vector<int64_t> shape = ParameterPlacer::Shape(*table, cut);
    if (trained) {
      head.weight_grad = placer_.store().Declare("head.weight", shape, true, placer_.layer());
      SetPieces(head.weight_grad, table->shape, cut.axis, {{0, cut.begin, cut.count, cut.copies}});
    }
    placer_.Later([this, &head, table, trained, shape]() -> absl::Status {
      head.weight = trained ? head.weight_grad->value : placer_.Empty(shape, options_.frozen_type);
      GRAFT_RETURN_IF_ERROR(placer_.Read(*table, head.weight));
      if (trained) decoder_->saved_modules[absl::StrCat(kTiedHead, ".weight")] = head.weight;
      return absl::OkStatus();
    });
  }

  const spec::ModelDescription& description_;
  const spec::DecoderSpec& spec_;
  const BuildOptions& options_;
  std::unique_ptr<Decoder> decoder_;
  ParameterPlacer placer_;
  GroupBuilder groups_;
  ExpertsBuilder experts_;
  AdapterBuilder adapters_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> BuildDecoder(const spec::ModelDescription& description,
                                                      const spec::ParameterReader& reader,
                                                      const BuildOptions& options) {
  GRAFT_ASSIGN_OR_RETURN(const AdapterTargets targets,
                         AdapterTargets::Choose(description, options));
  return Builder(description, reader, options, targets).Build();
}

std::vector<const Adapter*> Adapters(Decoder& decoder) {
  std::vector<const Adapter*> all;
  for (const auto& layer : decoder.layers()) {
    for (const LinearGroup* group : layer->Groups()) {
      for (const Adapter& adapter : group->adapters) {
        if (!adapter.module.empty()) all.push_back(&adapter);  // else a view of all experts'
      }
    }
  }
  if (decoder.head().adapter.rank > 0) all.push_back(&decoder.head().adapter);
  return all;
}

}  // namespace graft::model
