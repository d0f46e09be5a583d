#include "worker/model/decoder_build.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <regex>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"

namespace graft::model {
namespace {

spec::DType FileType(at::ScalarType type) {
  if (type == at::kBFloat16) return spec::DType::kBF16;
  return type == at::kHalf ? spec::DType::kF16 : spec::DType::kF32;
}

uint64_t HashName(absl::string_view name) {  // FNV-1a: adapters start alike whatever their order
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  return hash;
}

// What the Hub layout calls a head that is tied to its embedding and so has no tensor.
constexpr char kTiedHead[] = "lm_head";
constexpr int64_t kGroupsOfLayer = 16;  // more than any layer has

class Builder {
 public:
  Builder(const spec::ModelDescription& description, const spec::ParameterReader& reader,
          const BuildOptions& options)
      : description_(description),
        spec_(description.spec),
        reader_(reader),
        options_(options),
        decoder_(std::make_unique<Decoder>(description.spec, options.division)) {}

  absl::StatusOr<std::unique_ptr<Decoder>> Build() {
    if (options_.train == Train::kLora) GRAFT_RETURN_IF_ERROR(ChooseTargets());
    for (const auto& [begin, end] : OwnLayers()) {
      for (int64_t i = begin; i < end; ++i) DescribeLayer(i);
    }
    DescribeEnds();
    // As transformers: the routers' loss is trained where the configuration asks for their logits.
    if (spec_.is_moe() && description_.config.GetBool("output_router_logits")) {
      decoder_->router_loss_coefficient = spec_.moe.aux_loss_coefficient;
    }
    if (options_.train == Train::kLora) AttachAdapters();
    decoder_->store().Allocate(at::kCPU);
    for (const auto& fill : fills_) GRAFT_RETURN_IF_ERROR(fill());
    return std::move(decoder_);
  }

 private:
  bool Trains() const { return options_.train == Train::kAllWeights; }

  // Whether a module of the Hub layout is trained whole beside the adapters. Its name ends so, as
  // peft matches: "norm" means every norm.
  bool Saves(const std::string& module) const {
    if (options_.train != Train::kLora) return false;
    const std::vector<std::string>& wanted = options_.lora.modules_to_save;
    return std::any_of(wanted.begin(), wanted.end(),
                       [&](const std::string& end) { return absl::EndsWith(module, end); });
  }
  static std::string ModuleOf(const spec::Parameter& parameter) {
    const std::string& tensor = parameter.hub[0].tensor;
    return tensor.substr(0, tensor.rfind('.'));
  }
  bool TrainsAllBiases() const {
    return options_.train == Train::kLora && options_.lora.bias == TrainedBias::kAll;
  }

  const Division& division() const { return options_.division; }

  std::vector<std::pair<int64_t, int64_t>> OwnLayers() const {
    if (!division().layers.empty()) return division().layers;
    return {{0, spec_.num_layers()}};
  }

  const spec::Parameter* Find(const std::string& name) const { return description_.Find(name); }

  Cut Own(const spec::Parameter& parameter) const {
    return CutOf(spec_, division(), parameter.name, parameter.shape);
  }

  static std::vector<int64_t> Shape(const spec::Parameter& parameter, const Cut& cut) {
    std::vector<int64_t> shape = parameter.shape;
    if (!shape.empty()) shape[static_cast<size_t>(cut.axis)] = cut.count;
    return shape;
  }

  // This rank's part of `parameter`.
  absl::Status Read(const spec::Parameter& parameter, at::Tensor into) const {
    GRAFT_CHECK(into.is_contiguous()) << parameter.name;
    const Cut cut = Own(parameter);
    spec::ParameterBlock block;
    if (cut.axis == 0) {
      block.row_begin = cut.begin;
      block.row_end = cut.begin + cut.count;
    } else {
      block.column_begin = cut.begin;
      block.column_end = cut.begin + cut.count;
    }
    return reader_.Read(parameter, block, FileType(into.scalar_type()),
                        static_cast<char*>(into.mutable_data_ptr()));
  }

  // Declares `parameter` where everything is trained, makes it where it is frozen, reads it after
  // the store is there, and calls `place` with the tensor.
  void Place(const spec::Parameter* parameter, bool decay, at::ScalarType frozen, Trained** grad,
             std::function<void(at::Tensor)> place) {
    Trained* trained = nullptr;
    const Cut cut = Own(*parameter);
    const std::vector<int64_t> shape = Shape(*parameter, cut);
    const bool saved = Saves(ModuleOf(*parameter));
    const bool bias =
        !saved && TrainsAllBiases() && absl::EndsWith(parameter->hub[0].tensor, ".bias");
    if (Trains() || saved || bias) {
      trained = decoder_->store().Declare(parameter->name, shape, decay, layer_, cut.copies);
      if (bias) decoder_->trained_biases.insert(parameter->name);
      SetPieces(trained, parameter->shape, cut.axis, {{0, cut.begin, cut.count, cut.copies}});
      if (grad != nullptr) *grad = trained;
    }
    fills_.push_back([this, parameter, trained, saved, frozen, shape, place]() -> absl::Status {
      at::Tensor tensor = trained != nullptr ? trained->value : at::empty(shape, at::dtype(frozen));
      if (trained != nullptr || !options_.without_frozen) {
        GRAFT_RETURN_IF_ERROR(Read(*parameter, tensor));
      }
      decoder_->parameters[parameter->name] = tensor;
      if (saved) decoder_->saved_modules[parameter->hub[0].tensor] = tensor;
      place(tensor);
      return absl::OkStatus();
    });
  }

  static void SetPieces(Trained* trained, std::vector<int64_t> whole, int axis,
                        std::vector<Trained::Piece> pieces) {
    trained->whole = std::move(whole);
    trained->axis = axis;
    trained->pieces = std::move(pieces);
  }

  // A tensor that no optimizer changes, whatever is trained.
  void PlaceFrozen(const spec::Parameter* parameter, at::ScalarType type,
                   std::function<void(at::Tensor)> place) {
    fills_.push_back([this, parameter, type, place]() -> absl::Status {
      at::Tensor tensor = at::empty(parameter->shape, at::dtype(type));
      GRAFT_RETURN_IF_ERROR(Read(*parameter, tensor));
      decoder_->parameters[parameter->name] = tensor;
      place(tensor);
      return absl::OkStatus();
    });
  }

  void DescribeNorm(const std::string& name, const spec::NormSpec& spec, Norm& norm) {
    const spec::Parameter* weight = Find(name + ".weight");
    norm.spec = spec;
    if (weight == nullptr) return;
    norm.present = true;
    Place(weight, false, at::kFloat, &norm.weight_grad,
          [&norm](at::Tensor t) { norm.weight = std::move(t); });
    if (const spec::Parameter* bias = Find(name + ".bias"); bias != nullptr) {
      Place(bias, false, at::kFloat, &norm.bias_grad,
            [&norm](at::Tensor t) { norm.bias = std::move(t); });
    }
  }

  // Several linears over one input, their weights one behind the other. With tensor parallelism
  // either the outputs are cut (and the input is gathered) or the input is (and the sum scattered).
  // Not so with `inside`: between such linears, where tokens are all there and sums still partial.
  void DescribeGroup(const std::vector<std::string>& names, LinearGroup& group,
                     bool inside = false) {
    bool bias = false;
    int64_t whole_out = 0;
    std::vector<Trained::Piece> pieces;
    int axis = 0;
    for (const std::string& name : names) {
      const spec::Parameter* weight = Find(name + ".weight");
      GRAFT_CHECK(weight != nullptr) << name;
      const Cut cut = Own(*weight);
      const std::vector<int64_t> shape = Shape(*weight, cut);
      axis = cut.axis;
      pieces.push_back({axis == 0 ? group.out : 0, axis == 0 ? whole_out + cut.begin : cut.begin,
                        cut.count, cut.copies});
      cuts_[name] = cut;
      group.parts.push_back({name, group.out, shape[0]});
      group.in = shape[1];
      group.whole_in = weight->shape[1];
      group.in_begin = cut.axis == 1 ? cut.begin : 0;
      group.out += shape[0];
      whole_out += weight->shape[0];
      bias = bias || Find(name + ".bias") != nullptr;
      group_of_[name] = &group;
    }
    if (!inside) (axis == 0 ? group.gather : group.scatter) = division().tensor;
    group.layer = static_cast<uint64_t>(layer_) * kGroupsOfLayer + next_group_++;
    const std::string joined = absl::StrJoin(names, "+");
    if (Trains()) {
      ParameterStore& store = decoder_->store();
      group.weight_grad = store.Declare(joined + ".weight", {group.out, group.in}, true, layer_, 1);
      SetPieces(group.weight_grad, {whole_out, group.whole_in}, axis, pieces);
    }
    if (bias && TrainsBias(group)) {
      group.bias_grad =
          decoder_->store().Declare(joined + ".bias", {group.out}, false, layer_, division().tp);
      if (axis == 0) SetPieces(group.bias_grad, {whole_out}, 0, pieces);
    }
    fills_.push_back([this, &group, bias] { return FillGroup(group, bias); });
  }

  // Notes which rows are not to change, where only some of the group's biases are trained.
  bool TrainsBias(LinearGroup& group) {
    if (Trains()) return true;
    if (options_.train != Train::kLora || options_.lora.bias == TrainedBias::kNone) return false;
    bool any = false;
    for (const LinearGroup::Part& part : group.parts) {
      const bool trained = TrainsAllBiases() || adapted_.count(part.name) > 0;
      any = any || trained;
      if (!trained) {
        group.frozen_bias.emplace_back(part.begin, part.rows);
      } else if (Find(part.name + ".bias") != nullptr) {
        decoder_->trained_biases.insert(part.name + ".bias");
      }
    }
    return any;
  }

  // Every part must be quantised, whole and row by row in the file.
  bool CanKeepBlocks(const LinearGroup& group) const {
    if (!options_.keep_blocks || options_.without_frozen || group.weight_grad != nullptr)
      return false;
    for (const LinearGroup::Part& part : group.parts) {
      const spec::Parameter& p = *Find(part.name + ".weight");
      const spec::DType type = reader_.StoredType(p);
      if (!spec::IsQuantized(type) || cuts_.at(part.name).axis != 0) return false;
      if (group.in % spec::BlockElements(type) != 0 || !reader_.MappedRow(p, 0, 0).ok()) {
        return false;
      }
    }
    return true;
  }

  absl::Status KeepBlocks(LinearGroup& group) {
    group.blocks.columns = group.in;
    for (size_t i = 0; i < group.parts.size(); ++i) {
      const LinearGroup::Part& part = group.parts[i];
      const spec::Parameter& p = *Find(part.name + ".weight");
      const spec::DType type = reader_.StoredType(p);
      const int64_t row_bytes = spec::BytesOf(type, group.in);
      at::Tensor bytes = at::empty({part.rows, row_bytes}, at::kByte);
      auto* to = static_cast<char*>(bytes.mutable_data_ptr());
      for (int64_t row = 0; row < part.rows; ++row, to += row_bytes) {
        GRAFT_ASSIGN_OR_RETURN(const absl::string_view from,
                               reader_.MappedRow(p, 0, cuts_.at(part.name).begin + row));
        GRAFT_CHECK(static_cast<int64_t>(from.size()) == row_bytes) << part.name;
        std::memcpy(to, from.data(), from.size());
      }
      group.blocks.parts.push_back({type, std::move(bytes)});
      decoder_->blocks[part.name + ".weight"] = {&group.blocks, i};
    }
    return absl::OkStatus();
  }

  absl::Status FillGroup(LinearGroup& group, bool bias) {
    const bool blocks = CanKeepBlocks(group);
    if (blocks) {
      GRAFT_RETURN_IF_ERROR(KeepBlocks(group));
    } else {
      group.weight = group.weight_grad != nullptr
                         ? group.weight_grad->value
                         : at::empty({group.out, group.in}, at::dtype(options_.frozen_type));
    }
    if (bias) {
      group.bias =
          group.bias_grad != nullptr ? group.bias_grad->value : at::zeros({group.out}, at::kFloat);
    }
    for (const LinearGroup::Part& part : group.parts) {
      const bool read = group.weight_grad != nullptr || !options_.without_frozen;
      if (!blocks) {
        at::Tensor rows = group.weight.narrow(0, part.begin, part.rows);
        if (read) GRAFT_RETURN_IF_ERROR(Read(*Find(part.name + ".weight"), rows));
        decoder_->parameters[part.name + ".weight"] = rows;
      }
      const spec::Parameter* b = Find(part.name + ".bias");
      if (b == nullptr) continue;
      at::Tensor numbers = group.bias.narrow(0, part.begin, part.rows);
      if (read) GRAFT_RETURN_IF_ERROR(Read(*b, numbers));
      decoder_->parameters[part.name + ".bias"] = numbers;
    }
    return absl::OkStatus();
  }

  void DescribeAttention(int64_t index, Attention& attention) {
    const spec::AttentionSpec& from = spec_.attention;
    const std::string prefix = absl::StrCat("layers.", index, ".attn.");
    const int64_t tp = division().tp;
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
      DescribeNorm(prefix + "q_norm", from.qk_norm_spec, attention.q_norm);
      DescribeNorm(prefix + "k_norm", from.qk_norm_spec, attention.k_norm);
    }
    if (from.qk_norm == spec::QkNorm::kFullWidth && tp > 1) {
      attention.q_norm.across = attention.k_norm.across = division().tensor;
      attention.q_norm.whole_columns = spec_.q_width();
      attention.k_norm.whole_columns = spec_.kv_width();
      attention.k_norm.copies = std::max<int64_t>(1, tp / from.kv_heads);
    }
    if (const spec::Parameter* sinks = Find(prefix + "sinks"); sinks != nullptr) {
      Place(sinks, false, at::kFloat, &attention.sinks_grad,
            [&attention](at::Tensor t) { attention.sinks = std::move(t); });
    }
  }

  void DescribeLayer(int64_t index) {
    auto layer = std::make_unique<DecoderLayer>();
    layer->index = layer_ = index;
    next_group_ = 0;
    const std::string prefix = absl::StrCat("layers.", index, ".");
    if (spec_.placement.before) {
      DescribeNorm(prefix + "attn_norm", spec_.norm, layer->qkv.norm);
      if (spec_.parallel_block) {
        // One norm with two readers.
        fills_.push_back([layer = layer.get()] {
          layer->gate_up.norm = layer->qkv.norm;
          return absl::OkStatus();
        });
      } else if (spec_.layers[index].moe) {
        layer->moe = std::make_unique<MoeBlock>();
        DescribeNorm(prefix + "mlp_norm", spec_.norm, layer->moe->norm);
      } else {
        DescribeNorm(prefix + "mlp_norm", spec_.norm, layer->gate_up.norm);
      }
    }
    DescribeNorm(prefix + "attn_post_norm", spec_.norm, layer->attn_post);
    DescribeNorm(prefix + "mlp_post_norm", spec_.norm, layer->mlp_post);
    if (spec_.attention.mla) {
      DescribeLatent(prefix + "attn.", *layer);
    } else {
      DescribeGroup({prefix + "attn.q", prefix + "attn.k", prefix + "attn.v"}, layer->qkv);
    }
    DescribeAttention(index, layer->attention);
    DescribeGroup({prefix + "attn.o"}, layer->o);
    if (spec_.layers[index].moe) {
      if (layer->moe == nullptr) layer->moe = std::make_unique<MoeBlock>();
      DescribeMoe(prefix + "moe.", *layer->moe);
    } else {
      DescribeGroup(InnerNames(prefix + "mlp."), layer->gate_up);
      DescribeGroup({prefix + "mlp.down"}, layer->down);
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
    latent.heads = from.heads / division().tp;
    latent.nope_dim = from.qk_nope_dim;
    latent.rope_dim = from.qk_rope_dim;
    latent.value_dim = from.value_dim;
    latent.kv_width = from.kv_lora_rank;
    latent.q_width = from.q_lora_rank > 0 ? from.q_lora_rank : latent.heads * from.head_dim;
    const std::string q = from.q_lora_rank > 0 ? "q_a" : "q";
    DescribeGroup({prefix + q, prefix + "kv_a"}, layer.qkv);
    if (from.q_lora_rank > 0) {
      DescribeNorm(prefix + "q_a_norm", from.latent_norm, latent.q_b.norm);
      DescribeGroup({prefix + "q_b"}, latent.q_b, true);
    }
    DescribeNorm(prefix + "kv_a_norm", from.latent_norm, latent.kv_b.norm);
    DescribeGroup({prefix + "kv_b"}, latent.kv_b, true);
  }

  void DescribeMoe(const std::string& prefix, MoeBlock& moe) {
    moe.spec = &decoder_->spec().moe;
    moe.tensor = division().tensor;
    moe.exchange = division().experts;
    DescribeGroup({prefix + "router"}, moe.router, true);
    if (const spec::Parameter* p = Find(prefix + "router.correction_bias"); p != nullptr) {
      PlaceFrozen(p, at::kFloat, [&moe](at::Tensor t) { moe.correction_bias = std::move(t); });
    }
    DescribeExperts(prefix + "experts.", moe);
    if (moe.spec->shared_ffn == 0) return;
    moe.has_shared = true;
    DescribeGroup(InnerNames(prefix + "shared."), moe.shared_gate_up, true);
    DescribeGroup({prefix + "shared.down"}, moe.shared_down, true);
    if (moe.spec->shared_gate) DescribeGroup({prefix + "shared_gate"}, moe.shared_gate, true);
  }

  // The experts of this rank.
  Cut OwnExperts() const {
    const ExpertExchange* ranks = division().experts;
    if (ranks == nullptr) return {0, 0, spec_.moe.experts, 1};
    return EvenCut(spec_.moe.experts, ranks->size(), ranks->rank());
  }

  // One stacked tensor of all experts for [gate, up] and one for down; each expert's groups are
  // views of them. Expert parallelism divides the experts, tensor parallelism the inside of each.
  void DescribeExperts(const std::string& prefix, MoeBlock& moe) {
    const std::vector<std::string> inner = InnerNames(prefix);
    const int64_t experts = OwnExperts().count, ffn = moe.spec->expert_ffn / division().tp;
    const int64_t inside = ffn * static_cast<int64_t>(inner.size());
    moe.gate_up.resize(static_cast<size_t>(experts));
    moe.down.resize(static_cast<size_t>(experts));
    for (size_t e = 0; e < moe.gate_up.size(); ++e) {
      for (size_t i = 0; i < inner.size(); ++i) {
        moe.gate_up[e].parts.push_back({inner[i], static_cast<int64_t>(i) * ffn, ffn});
      }
      moe.down[e].parts.push_back({prefix + "down", 0, spec_.hidden});
      moe.gate_up[e].in = moe.gate_up[e].whole_in = moe.down[e].out = spec_.hidden;
      moe.gate_up[e].out = inside;
      moe.down[e].in = ffn;
      moe.down[e].whole_in = moe.spec->expert_ffn;
      moe.down[e].in_begin = division().tp_rank * ffn;
      const uint64_t number = static_cast<uint64_t>(layer_) * kGroupsOfLayer + next_group_;
      const uint64_t expert = e + static_cast<uint64_t>(OwnExperts().begin);
      moe.gate_up[e].layer = number + ((expert + 1) << 32);
      moe.down[e].layer = moe.gate_up[e].layer + 1;
    }
    next_group_ += 2;
    using Stacked = StackedCut;
    Trained* w1 = PlaceStacked(inner, ".weight", {experts, inside, spec_.hidden}, Stacked::kRows,
                               moe.gate_up_weight);
    Trained* b1 = PlaceStacked(inner, ".bias", {experts, inside}, Stacked::kRows, moe.gate_up_bias);
    Trained* w2 = PlaceStacked({prefix + "down"}, ".weight", {experts, spec_.hidden, ffn},
                               Stacked::kColumns, moe.down_weight);
    moe.down_bias_grad = PlaceStacked({prefix + "down"}, ".bias", {experts, spec_.hidden},
                                      Stacked::kWhole, moe.down_bias);
    if (division().tp_rank > 0) {
      // What is summed over the tensor-parallel ranks gets its bias once.
      fills_.push_back([&moe] {
        moe.down_bias.reset();
        return absl::OkStatus();
      });
    }
    fills_.push_back([&moe, w1, b1, w2] {
      for (size_t e = 0; e < moe.gate_up.size(); ++e) {
        const auto at = static_cast<int64_t>(e);
        LinearGroup& up = moe.gate_up[e];
        LinearGroup& down = moe.down[e];
        up.weight = moe.gate_up_weight.select(0, at);
        down.weight = moe.down_weight.select(0, at);
        if (moe.gate_up_bias.defined()) up.bias = moe.gate_up_bias.select(0, at);
        up.weight_grad = ViewOf(moe, w1, at);
        up.bias_grad = ViewOf(moe, b1, at);
        down.weight_grad = ViewOf(moe, w2, at);
      }
      return absl::OkStatus();
    });
  }

  // One expert's part of a trained stack; nullptr of nullptr.
  static Trained* ViewOf(MoeBlock& moe, const Trained* stack, int64_t expert) {
    if (stack == nullptr) return nullptr;
    Trained& view = moe.views.emplace_back();
    view.name = absl::StrCat(stack->name, "[", expert, "]");
    view.shape.assign(stack->shape.begin() + 1, stack->shape.end());
    view.decay = stack->decay;
    view.offset = stack->offset + expert * view.elements();
    view.value = stack->value.select(0, expert);
    view.grad = stack->grad.select(0, expert);
    return &view;
  }

  // What tensor parallelism divides of each expert's matrix (or vector, whose numbers are rows).
  enum class StackedCut { kWhole, kRows, kColumns };

  // Where the numbers of a stack of this rank, of `shape`, stand in the whole one. `parts` linears
  // stand one behind the other in each expert.
  void SetStackedPieces(Trained* trained, int64_t parts, StackedCut kind) const {
    const int64_t tp = division().tp, tp_rank = division().tp_rank;
    const Cut experts = OwnExperts();
    const bool divided = division().experts != nullptr;
    const std::vector<int64_t>& shape = trained->shape;
    std::vector<int64_t> whole = shape;
    whole[0] = spec_.moe.experts;
    if (kind == StackedCut::kRows) whole[1] *= tp;
    if (kind == StackedCut::kColumns) whole[2] *= tp;
    std::vector<Trained::Piece> pieces;
    const int64_t rows = shape[1] / parts;  // of a part
    if (kind == StackedCut::kColumns && tp > 1) {
      SetPieces(trained, whole, 1, {{0, tp_rank * shape[2], shape[2], 1, divided}});
      return;
    }
    if (kind == StackedCut::kRows && tp > 1) {
      const bool vectors = shape.size() == 2;  // the parts stand in the columns of a row
      for (int64_t e = 0; e < (vectors ? 1 : shape[0]); ++e) {
        for (int64_t i = 0; i < parts; ++i) {
          pieces.push_back({e * shape[1] + i * rows, e * whole[1] + (i * tp + tp_rank) * rows, rows,
                            1, divided});
        }
      }
      SetPieces(trained, whole, vectors ? 1 : 0, pieces);
      return;
    }
    const int64_t each = trained->rows() / shape[0];  // rows of an expert
    SetPieces(trained, whole, 0,
              {{0, experts.begin * each, experts.count * each, divided ? 1 : tp, divided}});
  }

  // The parameters `names`, each [experts, rows...], one behind the other within each expert's part
  // of a tensor of `shape`. nullptr where nothing of it is trained; `into` stays undefined where
  // the model has none of them.
  Trained* PlaceStacked(const std::vector<std::string>& names, const std::string& suffix,
                        std::vector<int64_t> shape, StackedCut kind, at::Tensor& into) {
    if (Find(names.front() + suffix) == nullptr) return nullptr;
    Trained* trained = nullptr;
    if (Trains()) {
      trained = decoder_->store().Declare(absl::StrJoin(names, "+") + suffix, shape,
                                          suffix == ".weight", layer_, 1);
      SetStackedPieces(trained, static_cast<int64_t>(names.size()), kind);
    }
    fills_.push_back([this, names, suffix, shape, kind, trained, &into]() -> absl::Status {
      // Biases are added in the computation's type.
      const at::ScalarType kept = suffix == ".bias" ? at::kFloat : options_.frozen_type;
      into = trained != nullptr ? trained->value : at::empty(shape, at::dtype(kept));
      const int64_t rows = shape[1] / static_cast<int64_t>(names.size());
      const int64_t first = OwnExperts().begin;
      for (size_t i = 0; i < names.size(); ++i) {
        const spec::Parameter* p = Find(names[i] + suffix);
        at::Tensor part = into.narrow(1, static_cast<int64_t>(i) * rows, rows);
        for (int64_t e = 0; e < shape[0]; ++e) {
          if (trained == nullptr && options_.without_frozen) break;
          GRAFT_RETURN_IF_ERROR(ReadExpert(*p, first + e, kind, part.select(0, e)));
        }
        decoder_->parameters[p->name] = part;
      }
      return absl::OkStatus();
    });
    return trained;
  }

  absl::Status ReadExpert(const spec::Parameter& parameter, int64_t expert, StackedCut kind,
                          at::Tensor into) const {
    GRAFT_CHECK(into.is_contiguous()) << parameter.name;
    spec::ParameterBlock block{.expert = expert};
    const int64_t tp_rank = division().tp_rank;
    const bool vectors = parameter.shape.size() == 2;  // a matrix with a row for each expert
    if (vectors) block = {.row_begin = expert, .row_end = expert + 1};
    if (kind == StackedCut::kColumns || (vectors && kind == StackedCut::kRows)) {
      block.column_begin = tp_rank * into.size(-1);
      block.column_end = block.column_begin + into.size(-1);
    } else if (kind == StackedCut::kRows) {
      block.row_begin = tp_rank * into.size(0);
      block.row_end = block.row_begin + into.size(0);
    }
    return reader_.Read(parameter, block, FileType(into.scalar_type()),
                        static_cast<char*>(into.mutable_data_ptr()));
  }

  void DescribeEnds() {
    if (division().embedding) DescribeEmbedding();
    if (division().head) DescribeHead();
  }

  void DescribeEmbedding() {
    Decoder& d = *decoder_;
    layer_ = -1;
    // The scale is a number of the activations' type where the family rounds it so; fp32 here.
    Place(Find("embed.weight"), true, options_.frozen_type, &d.embed_grad,
          [&d](at::Tensor t) { d.embed = std::move(t); });
    if (const spec::Parameter* p = Find("positions.weight"); p != nullptr) {
      Place(p, true, options_.frozen_type, &d.positions_grad,
            [&d](at::Tensor t) { d.positions = std::move(t); });
    }
  }

  void DescribeHead() {
    Decoder& d = *decoder_;
    Head& head = d.head();
    layer_ = spec_.num_layers();
    DescribeNorm("final_norm", spec_.norm, head.norm);
    head.logit_scale = spec_.logit_scale;
    head.logit_softcap = spec_.logit_softcap;
    head.exchange = division().tensor;
    head.vocab_begin = CutOf(spec_, division(), "head.weight", {spec_.vocab}).begin;
    const spec::Parameter* own = Find("head.weight");
    const bool parted =
        own == nullptr && (Saves(kTiedHead) || Saves(ModuleOf(*Find("embed.weight"))));
    if (parted) return DescribePartedHead();
    if (own == nullptr && division().embedding) {
      fills_.push_back([&d, &head]() {
        head.weight = d.embed;
        head.weight_grad = d.embed_grad;
        return absl::OkStatus();
      });
      return;
    }
    // A tied head far from its embedding holds the table as well; the gradients are summed.
    Place(own != nullptr ? own : Find("embed.weight"), true, options_.frozen_type,
          &head.weight_grad, [&head](at::Tensor t) { head.weight = std::move(t); });
  }

  // Training the embedding or the head of a tied pair whole leaves the other as it was.
  void DescribePartedHead() {
    Head& head = decoder_->head();
    const spec::Parameter* table = Find("embed.weight");
    const bool trained = Saves(kTiedHead);
    if (trained)
      head.weight_grad = decoder_->store().Declare("head.weight", table->shape, true, layer_);
    fills_.push_back([this, &head, table, trained]() -> absl::Status {
      head.weight = trained ? head.weight_grad->value
                            : at::empty(table->shape, at::dtype(options_.frozen_type));
      GRAFT_RETURN_IF_ERROR(Read(*table, head.weight));
      if (trained) decoder_->saved_modules[absl::StrCat(kTiedHead, ".weight")] = head.weight;
      return absl::OkStatus();
    });
  }

  absl::StatusOr<std::vector<const spec::HubLinear*>> Targets(
      const std::vector<spec::HubLinear>& all) const {
    const std::vector<std::string>& wanted = options_.lora.target_modules;
    std::vector<const spec::HubLinear*> chosen;
    std::set<std::string> suffixes;
    GRAFT_RETURN_IF_ERROR(CheckPatterns(wanted));
    for (const spec::HubLinear& linear : all) {
      suffixes.insert(linear.module.substr(linear.module.rfind('.') + 1));
      if (Matches(linear.module, wanted)) chosen.push_back(&linear);
    }
    if (!chosen.empty() || HasSpecialTargets()) return chosen;
    return absl::InvalidArgumentError(
        absl::StrCat("tuning.target_modules [", absl::StrJoin(wanted, ", "),
                     "] matches no linear layer; this model has ", absl::StrJoin(suffixes, ", ")));
  }

  static absl::Status CheckPatterns(const std::vector<std::string>& wanted) {
    for (const std::string& w : wanted) {
      if (!absl::StartsWith(w, "re:")) continue;
      try {
        std::regex(w.substr(3));
      } catch (const std::regex_error& error) {
        return absl::InvalidArgumentError(absl::StrCat(
            "tuning.target_modules \"", w, "\" is no regular expression: ", error.what()));
      }
    }
    return absl::OkStatus();
  }

  static bool Matches(const std::string& module, const std::vector<std::string>& wanted) {
    if (wanted.empty()) return true;
    for (const std::string& w : wanted) {
      if (w == "all-linear") return true;
      if (absl::StartsWith(w, "re:")) {
        if (std::regex_match(module, std::regex(w.substr(3)))) return true;
      } else if (module == w || absl::EndsWith(module, absl::StrCat(".", w))) {
        return true;
      }
    }
    return false;
  }

  // Named one by one, and not by a pattern that means every linear.
  bool Names(const std::string& module) const {
    std::vector<std::string> named;
    for (const std::string& w : options_.lora.target_modules) {
      if (w != "all-linear") named.push_back(w);
    }
    return !named.empty() && Matches(module, named);
  }

  std::string HeadModule() const {
    const spec::Parameter* own = Find("head.weight");
    return own == nullptr ? kTiedHead : ModuleOf(*own);
  }
  bool AdaptsEmbedding() const { return Names(ModuleOf(*Find("embed.weight"))); }
  bool AdaptsHead() const { return Names(HeadModule()); }

  // peft's name of the module that holds a layer's stacked experts: beside the fused tensors that
  // the Hub layout has, or "mlp.experts" where it stores experts one by one.
  static std::string ExpertsModule(const spec::Parameter& gate) {
    const std::string& tensor = gate.hub[0].tensor;
    if (gate.hub.size() > 1) {
      const size_t number = tensor.find("layers.") + 7;
      return absl::StrCat(tensor.substr(0, tensor.find('.', number)), ".mlp.experts");
    }
    if (gate.hub[0].transposed) return tensor.substr(0, tensor.rfind('.'));
    const std::string module = tensor.substr(0, tensor.rfind('.'));
    return absl::StrCat(module.substr(0, module.rfind('.')), ".experts");
  }
  bool AdaptsExperts(const std::string& module, const char* role) const {
    return Names(module) || Names(absl::StrCat(module, ".", role));
  }
  bool AdaptsSomeExperts() const {
    for (int64_t i = 0; i < spec_.num_layers(); ++i) {
      const spec::Parameter* gate = Find(absl::StrCat("layers.", i, ".moe.experts.gate.weight"));
      if (gate == nullptr) continue;
      const std::string module = ExpertsModule(*gate);
      return AdaptsExperts(module, "gate_up_proj") || AdaptsExperts(module, "down_proj");
    }
    return false;
  }
  bool HasSpecialTargets() const {
    return AdaptsEmbedding() || AdaptsHead() || AdaptsSomeExperts();
  }

  // Which linears get adapters, before anything is declared: their biases may be trained too.
  absl::Status ChooseTargets() {
    linears_ = spec::HubLinears(description_);
    GRAFT_ASSIGN_OR_RETURN(targets_, Targets(linears_));
    for (const spec::HubLinear* linear : targets_) {
      for (const spec::HubLinear::Part& part : linear->parts) adapted_.insert(part.name);
    }
    const LoraOptions& lora = options_.lora;
    if (!HasSpecialTargets() && lora.modules_to_save.empty()) return absl::OkStatus();
    if (!division().whole() || division().experts != nullptr) {
      return absl::UnimplementedError(
          "adapters of the embedding, the head or experts, and tuning.modules_to_save, are for one "
          "rank");
    }
    if ((AdaptsHead() || AdaptsSomeExperts()) && (lora.dora || lora.dropout > 0)) {
      return absl::UnimplementedError(
          "tuning.dora and tuning.dropout do not go with adapters of the head or of experts");
    }
    if (AdaptsEmbedding() && lora.dora) {
      return absl::UnimplementedError("tuning.dora does not go with an adapter of the embedding");
    }
    return CheckSaved();
  }

  absl::Status CheckSaved() const {
    std::set<std::string> known = {HeadModule(), ModuleOf(*Find("embed.weight"))};
    for (const spec::Parameter& p : description_.parameters) {
      if (absl::StrContains(p.name, "norm.weight")) known.insert(ModuleOf(p));
    }
    for (const std::string& wanted : options_.lora.modules_to_save) {
      const bool found = std::any_of(known.begin(), known.end(), [&](const std::string& module) {
        return absl::EndsWith(module, wanted);
      });
      if (!found) {
        return absl::UnimplementedError(absl::StrCat(
            "tuning.modules_to_save \"", wanted,
            "\": beside adapters the embedding, the head and norms can be trained whole"));
      }
    }
    return absl::OkStatus();
  }

  double AdapterScale() const {
    const double rank = static_cast<double>(options_.lora.rank);
    return options_.lora.alpha / (options_.lora.rslora ? std::sqrt(rank) : rank);
  }

  void AttachAdapters() {
    std::vector<std::pair<LinearGroup*, std::vector<const spec::HubLinear*>>> by_group;
    for (const spec::HubLinear* linear : targets_) {
      const auto own = group_of_.find(linear->parts.front().name);
      if (own == group_of_.end()) continue;  // another rank's layer
      LinearGroup* group = own->second;
      const auto found = std::find_if(by_group.begin(), by_group.end(),
                                      [&](const auto& entry) { return entry.first == group; });
      if (found == by_group.end()) {
        by_group.push_back({group, {linear}});
      } else {
        found->second.push_back(linear);
      }
    }
    for (auto& [group, linears] : by_group) AttachTo(*group, linears);
    for (const auto& layer : decoder_->layers()) {
      if (layer->moe != nullptr) AttachToExperts(layer->index, *layer->moe);
    }
    if (AdaptsEmbedding()) AttachToEmbedding();
    if (AdaptsHead()) AttachToHead();
  }

  // As peft starts them: an embedding's A is 0 and its B normal.
  void AttachToEmbedding() {
    Adapter& adapter = decoder_->embed_adapter;
    const int64_t rank = options_.lora.rank;
    adapter.module = ModuleOf(*Find("embed.weight"));
    adapter.rank = rank;
    adapter.scale = AdapterScale();
    ParameterStore& store = decoder_->store();
    adapter.a = store.Declare(adapter.module + ".lora_embedding_A", {rank, spec_.vocab}, true, -1);
    adapter.b = store.Declare(adapter.module + ".lora_embedding_B", {spec_.hidden, rank}, true, -1);
    fills_.push_back([this, &adapter] {
      SeededRandom random(options_.lora.seed ^ HashName(adapter.module));
      float* b = adapter.b->value.mutable_data_ptr<float>();
      for (int64_t i = 0; i < adapter.b->elements(); ++i) {
        const double radius = std::sqrt(-2 * std::log(1 - random.UniformDouble()));
        b[i] = static_cast<float>(radius * std::cos(2 * M_PI * random.UniformDouble()));
      }
      return absl::OkStatus();
    });
  }

  void AttachToHead() {
    Adapter& adapter = decoder_->head().adapter;
    const int64_t rank = options_.lora.rank, layer = spec_.num_layers();
    adapter.module = HeadModule();
    adapter.rank = rank;
    adapter.scale = AdapterScale();
    adapter.rows = {{0, 0, spec_.vocab}};
    ParameterStore& store = decoder_->store();
    adapter.a = store.Declare(adapter.module + ".lora_A.weight", {rank, spec_.hidden}, true, layer);
    adapter.b = store.Declare(adapter.module + ".lora_B.weight", {spec_.vocab, rank}, true, layer);
    fills_.push_back([this, &adapter] {
      DrawUniform(adapter.module, spec_.hidden, adapter.a->value);
      return absl::OkStatus();
    });
  }

  void AttachToExperts(int64_t layer, MoeBlock& moe) {
    const spec::Parameter& gate = *Find(absl::StrCat("layers.", layer, ".moe.experts.gate.weight"));
    const std::string module = ExpertsModule(gate);
    const bool interleaved = gate.hub.size() == 1 && gate.hub[0].transposed;
    const bool up = AdaptsExperts(module, "gate_up_proj");
    const bool down = AdaptsExperts(module, "down_proj");
    // peft wraps the module once for each parameter; the first one is the innermost.
    if (up) AttachStack({down ? module + ".base_layer" : module, true, interleaved}, layer, moe);
    if (down) AttachStack({module, false, false}, layer, moe);
  }

  void AttachStack(ExpertsAdapter adapter, int64_t layer, MoeBlock& moe) {
    std::deque<LinearGroup>& groups = adapter.gate_up ? moe.gate_up : moe.down;
    const int64_t experts = static_cast<int64_t>(groups.size()), rank = options_.lora.rank;
    const int64_t in = groups.front().in, out = groups.front().out;
    ParameterStore& store = decoder_->store();
    adapter.scale = AdapterScale();
    adapter.a = store.Declare(adapter.module + ".lora_A.weight", {experts, rank, in}, true, layer);
    adapter.b = store.Declare(adapter.module + ".lora_B.weight", {experts, out, rank}, true, layer);
    decoder_->experts_adapters.push_back(adapter);
    fills_.push_back([this, adapter, &moe, &groups, rank] {
      DrawUniform(adapter.module, groups.front().in, adapter.a->value);
      for (size_t e = 0; e < groups.size(); ++e) {
        Adapter& own = groups[e].adapters.emplace_back();
        own.rank = rank;
        own.scale = adapter.scale;
        own.a = ViewOf(moe, adapter.a, static_cast<int64_t>(e));
        own.b = ViewOf(moe, adapter.b, static_cast<int64_t>(e));
        own.rows = {{0, 0, groups[e].out}};
        groups[e].joined_a = own.a->value;
        groups[e].joined_a_grad = own.a->grad;
      }
      return absl::OkStatus();
    });
  }

  // Kaiming uniform with a = sqrt(5), as a linear of `in` inputs is started.
  void DrawUniform(const std::string& module, int64_t in, at::Tensor into) const {
    SeededRandom random(options_.lora.seed ^ HashName(module));
    const double bound = 1.0 / std::sqrt(static_cast<double>(in));
    float* numbers = into.mutable_data_ptr<float>();
    for (int64_t i = 0; i < into.numel(); ++i) {
      numbers[i] = static_cast<float>((2 * random.UniformDouble() - 1) * bound);
    }
  }

  void AttachTo(LinearGroup& group, const std::vector<const spec::HubLinear*>& linears) {
    const LoraOptions& lora = options_.lora;
    ParameterStore& store = decoder_->store();
    group.dropout = lora.dropout;
    const int64_t layer = static_cast<int64_t>(group.layer) / kGroupsOfLayer;
    const Cut& input = cuts_.at(group.parts.front().name);
    for (const spec::HubLinear* linear : linears) {
      Adapter& adapter = group.adapters.emplace_back();
      adapter.module = linear->module;
      adapter.rank = lora.rank;
      adapter.scale = AdapterScale();
      adapter.a = store.Declare(linear->module + ".lora_A.weight", {lora.rank, group.in}, true,
                                layer, division().tp);
      if (input.axis == 1) {
        SetPieces(adapter.a, {lora.rank, group.whole_in}, 1, {{0, input.begin, input.count, 1}});
      }
    }
    for (size_t i = 0; i < linears.size(); ++i)
      DeclareOutputs(group, *linears[i], group.adapters[i]);
    fills_.push_back([this, &group] {
      StartAdapters(group);
      return absl::OkStatus();
    });
  }

  // B and the magnitude: the rows of the linear's parts that this rank computes.
  void DeclareOutputs(const LinearGroup& group, const spec::HubLinear& linear, Adapter& adapter) {
    const int64_t layer = adapter.a->layer;
    std::vector<Trained::Piece> pieces;
    int64_t out = 0;
    for (const spec::HubLinear::Part& part : linear.parts) {
      const Cut& cut = cuts_.at(part.name);
      for (const LinearGroup::Part& rows : group.parts) {
        if (rows.name != part.name) continue;
        adapter.rows.push_back({rows.begin, out, rows.rows});
        if (cut.axis == 0) {
          pieces.push_back({out, part.rows.begin + cut.begin, rows.rows, cut.copies});
        } else {
          pieces.push_back({out, part.rows.begin, rows.rows, division().tp});
        }
        out += rows.rows;
      }
    }
    ParameterStore& store = decoder_->store();
    adapter.b = store.Declare(linear.module + ".lora_B.weight", {out, adapter.rank}, true, layer);
    SetPieces(adapter.b, {linear.out, adapter.rank}, 0, pieces);
    if (!options_.lora.dora) return;
    adapter.magnitude = store.Declare(linear.module + ".lora_magnitude_vector", {out}, true, layer);
    SetPieces(adapter.magnitude, {linear.out}, 0, pieces);
  }

  // Every rank draws the whole of A and keeps its columns.
  void DrawA(const LinearGroup& group, const Adapter& adapter) {
    SeededRandom random(options_.lora.seed ^ HashName(adapter.module));
    const double bound = 1.0 / std::sqrt(static_cast<double>(group.whole_in));
    const int64_t first = adapter.a->axis == 1 ? adapter.a->pieces.front().whole_begin : 0;
    float* a = adapter.a->value.mutable_data_ptr<float>();
    for (int64_t row = 0; row < adapter.rank; ++row) {
      for (int64_t column = 0; column < group.whole_in; ++column) {
        const float drawn = static_cast<float>((2 * random.UniformDouble() - 1) * bound);
        if (column >= first && column < first + group.in)
          a[row * group.in + column - first] = drawn;
      }
    }
  }

  void StartAdapters(LinearGroup& group) {
    int64_t rank = 0;
    bool joined = true;
    const int64_t first = group.adapters.front().a->offset;
    for (Adapter& adapter : group.adapters) {
      joined = joined && adapter.a->offset == first + rank * group.in;
      rank += adapter.rank;
      DrawA(group, adapter);
      if (adapter.magnitude == nullptr || options_.without_frozen) continue;
      at::Tensor& magnitude = adapter.magnitude->value;
      const at::Tensor weight = WideWeight(group, at::kFloat);
      for (const Adapter::Rows& r : adapter.rows) {
        const at::Tensor rows = weight.narrow(0, r.group_begin, r.count);
        magnitude.narrow(0, r.b_begin, r.count).copy_(rows.square().sum(1));
      }
      if (group.scatter != nullptr) group.scatter->Sum(magnitude, "DoRA's first norms");
      magnitude.sqrt_();
    }
    if (!joined) return;
    ParameterStore& store = decoder_->store();
    const auto all = [&](const at::Tensor& flat) {
      return flat.narrow(0, first, rank * group.in).view({rank, group.in});
    };
    group.joined_a = all(store.values());
    group.joined_a_grad = all(store.grads());
  }

  const spec::ModelDescription& description_;
  const spec::DecoderSpec& spec_;
  const spec::ParameterReader& reader_;
  const BuildOptions& options_;
  std::unique_ptr<Decoder> decoder_;
  std::map<std::string, LinearGroup*> group_of_;  // by the canonical name of a part
  std::vector<spec::HubLinear> linears_;
  std::vector<const spec::HubLinear*> targets_;  // of them
  std::set<std::string> adapted_;                // canonical names of the targets' parts
  std::map<std::string, Cut> cuts_;              // likewise: of the weight
  int64_t layer_ = 0;                            // that is described
  uint64_t next_group_ = 0;                      // of this layer
  // Run in order once the store is allocated.
  std::vector<std::function<absl::Status()>> fills_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> BuildDecoder(const spec::ModelDescription& description,
                                                      const spec::ParameterReader& reader,
                                                      const BuildOptions& options) {
  return Builder(description, reader, options).Build();
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
