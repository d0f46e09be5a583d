// A decoder-only language model on one device, assembled from a spec::DecoderSpec: no family has
// code of its own here. decoder_build.h fills it from files.
//
//   Batch batch = ...;                                  // a flat run of segments
//   at::Tensor x = decoder.Hidden(batch);               // [T, H], with a graph where grads are on
//   double loss;
//   HeadLoss(decoder.head(), x, targets, &loss).backward();
//
// Where the model is divided (division.h) it holds this rank's layers alone, and with tensor
// parallelism the residual stream is this rank's tokens.
//
// Life cycle: built once; the numbers change by training alone. Graphs keep pointers into it, so it
// neither moves nor dies before them. One thread drives it.
//
// Legend: T tokens, H hidden.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/attention.h"
#include "worker/model/cross_entropy.h"
#include "worker/model/division.h"
#include "worker/model/latent_attention.h"
#include "worker/model/linear.h"
#include "worker/model/mlp.h"
#include "worker/model/moe.h"
#include "worker/model/parameter_store.h"
#include "worker/spec/decoder_spec.h"

namespace graft::model {

// What backward finds again: nothing more than the fused modules do, or each layer from its input,
// which is kept on the device or waits in the CPU's memory.
enum class Recompute { kNone, kLayers, kLayersFromHost };

struct Batch {
  at::Tensor tokens;     // int64 [T]
  at::Tensor positions;  // int64 [T], anew in every segment
  SegmentStarts starts;  // offsets of the segments, the last one T
  PassState pass;
  // Where the batch is cut over ranks: `tokens` and `positions` are this rank's rows, `starts`
  // those of the whole batch. Shared with the graphs made from it.
  std::shared_ptr<const ContextCut> context;
  // NEFTune: how much may be added to the numbers of each row's embedding, drawn from the pass'
  // seed. Empty: nothing.
  std::vector<float> noise;
};

struct DecoderLayer {
  int64_t index = 0;                        // in the model
  LinearGroup qkv;                          // with attn_norm in front where the norm stands before
  std::unique_ptr<LatentAttention> latent;  // between qkv and attention, or none
  Attention attention;
  LinearGroup o;
  Norm attn_post;
  LinearGroup gate_up;  // with mlp_norm in front; it and `down` are empty where there are experts
  LinearGroup down;
  std::unique_ptr<MoeBlock> moe;
  Norm mlp_post;
  const spec::MlpSpec* mlp = nullptr;

  // Every linear that it has, in the order of computation.
  std::vector<LinearGroup*> Groups();
};

// A low-rank change of all experts' projections of a layer at once, as peft adapts a stacked
// parameter. Each expert's group has a view of it as its adapter.
struct ExpertsAdapter {
  std::string module;        // peft's: "model.layers.0.mlp.experts"
  bool gate_up = false;      // else down
  bool interleaved = false;  // the stacked parameter's outputs are gate and up in turn
  Trained* a = nullptr;      // [E, r, in]
  Trained* b = nullptr;      // [E, out, r]; gate's rows before up's
  double scale = 0;
};

// The keys and values of one sequence.
struct KvCache {
  std::vector<LayerCache> layers;
  int64_t length = 0;
  int64_t capacity = 0;
};

class Decoder {
 public:
  explicit Decoder(spec::DecoderSpec spec, Division division = {}, at::Device device = at::kCPU);
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  const spec::DecoderSpec& spec() const { return spec_; }
  const Division& division() const { return division_; }
  at::Device device() const { return device_; }
  // Of activations and products.
  at::ScalarType compute_type() const { return compute_type_; }
  void set_compute_type(at::ScalarType type) { compute_type_ = type; }
  ParameterStore& store() { return store_; }
  std::vector<std::unique_ptr<DecoderLayer>>& layers() { return layers_; }
  Head& head() { return head_; }
  const Head& head() const { return head_; }
  void set_recompute(Recompute recompute) { recompute_ = recompute; }
  // Must outlive every pass; nullptr: nobody.
  void set_observer(LayerObserver* observer) { observer_ = observer; }

  // Embedding: rows times the scale, plus learned positions.
  at::Tensor embed;      // [V, H]
  at::Tensor positions;  // [context, H], or undefined
  Trained* embed_grad = nullptr;
  Trained* positions_grad = nullptr;
  // rows += scale * A^T[rows] B^T with A [r, V] and B [H, r]; its rank is 0 where there is none.
  Adapter embed_adapter;

  // Every parameter by its canonical name (spec/parameter.h), as a view of where it lives. Filled
  // by BuildDecoder; a tied head is `embed.weight` alone.
  std::map<std::string, at::Tensor> parameters;

  // The same for parameters that stay in their blocks: the matrix and which of its parts.
  std::map<std::string, std::pair<const QuantizedMatrix*, size_t>> blocks;
  // A parameter's numbers, widened where it is in blocks.
  at::Tensor Parameter(const std::string& name) const;

  std::vector<ExpertsAdapter> experts_adapters;
  // What is trained whole beside adapters: tensors of the Hub layout, and canonical names of
  // biases.
  std::map<std::string, at::Tensor> saved_modules;
  std::set<std::string> trained_biases;
  // An embedding and a head that the Hub layout has once are two by now: one of them is trained.
  bool parted_ends = false;
  // > 0: the routers' load-balancing loss joins the training loss with it (RouterBalance).
  double router_loss_coefficient = 0;

  // The residual stream behind the last layer, before the final norm (which is the head's).
  at::Tensor Hidden(const Batch& batch) const {
    return Through(batch, 0, static_cast<int64_t>(layers_.size()), at::Tensor());
  }
  // The residual stream behind the layers [begin, end) of `layers()`, from `x` in front of them;
  // from the embedding where `x` is undefined.
  at::Tensor Through(const Batch& batch, int64_t begin, int64_t end, at::Tensor x) const;

  // For generation, without gradients.
  KvCache MakeCache(int64_t capacity) const;
  // Puts `tokens` behind what the cache holds; logits of the last one, fp32 [V] in the CPU's
  // memory. GRAFT_CHECKs that they fit.
  at::Tensor Extend(const std::vector<int32_t>& tokens, KvCache& cache) const;

 private:
  std::vector<RopeTable> RopeTables(const at::Tensor& positions, int64_t longest) const;
  at::Tensor Embed(const Batch& batch) const;
  // One layer; `cache` is null in training.
  at::Tensor Layer(const DecoderLayer& layer, const at::Tensor& x,
                   const std::vector<RopeTable>& ropes, const Batch& batch, LayerCache* cache,
                   int64_t cached) const;

  const spec::DecoderSpec spec_;
  const Division division_;
  const at::Device device_;
  at::ScalarType compute_type_ = at::kFloat;
  ParameterStore store_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  Head head_;
  Recompute recompute_ = Recompute::kNone;
  LayerObserver* observer_ = nullptr;
};

}  // namespace graft::model
