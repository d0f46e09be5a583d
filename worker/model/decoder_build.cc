#include "worker/model/decoder_build.h"

#include <algorithm>
#include <cmath>
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
    GRAFT_RETURN_IF_ERROR(CheckImplemented());
    for (const auto& [begin, end] : OwnLayers()) {
      for (int64_t i = begin; i < end; ++i) DescribeLayer(i);
    }
    DescribeEnds();
    if (options_.train == Train::kLora) GRAFT_RETURN_IF_ERROR(AttachAdapters());
    decoder_->store().Allocate(at::kCPU);
    for (const auto& fill : fills_) GRAFT_RETURN_IF_ERROR(fill());
    return std::move(decoder_);
  }

 private:
  bool Trains() const { return options_.train == Train::kAllWeights; }

  absl::Status CheckImplemented() const {
    std::string what;
    if (spec_.is_moe()) what = "mixture-of-experts layers";
    if (spec_.attention.mla) what = "multi-head latent attention";
    if (what.empty()) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat("model family ", spec_.model_type, ": ", what,
                     " cannot be trained by this build; choose a dense model"));
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
    if (Trains()) {
      trained = decoder_->store().Declare(parameter->name, shape, decay, layer_, cut.copies);
      SetPieces(trained, parameter->shape, cut.axis, {{0, cut.begin, cut.count, cut.copies}});
      if (grad != nullptr) *grad = trained;
    }
    fills_.push_back([this, parameter, trained, frozen, shape, place]() -> absl::Status {
      at::Tensor tensor = trained != nullptr ? trained->value : at::empty(shape, at::dtype(frozen));
      GRAFT_RETURN_IF_ERROR(Read(*parameter, tensor));
      decoder_->parameters[parameter->name] = tensor;
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
  void DescribeGroup(const std::vector<std::string>& names, LinearGroup& group) {
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
      group.out += shape[0];
      whole_out += weight->shape[0];
      bias = bias || Find(name + ".bias") != nullptr;
      group_of_[name] = &group;
    }
    (axis == 0 ? group.gather : group.scatter) = division().tensor;
    group.layer = static_cast<uint64_t>(layer_) * kGroupsOfLayer + next_group_++;
    const std::string joined = absl::StrJoin(names, "+");
    if (Trains()) {
      ParameterStore& store = decoder_->store();
      group.weight_grad = store.Declare(joined + ".weight", {group.out, group.in}, true, layer_, 1);
      SetPieces(group.weight_grad, {whole_out, group.whole_in}, axis, pieces);
      if (bias) {
        group.bias_grad =
            store.Declare(joined + ".bias", {group.out}, false, layer_, division().tp);
        if (axis == 0) SetPieces(group.bias_grad, {whole_out}, 0, pieces);
      }
    }
    fills_.push_back([this, &group, bias] { return FillGroup(group, bias); });
  }

  absl::Status FillGroup(LinearGroup& group, bool bias) {
    group.weight = group.weight_grad != nullptr
                       ? group.weight_grad->value
                       : at::empty({group.out, group.in}, at::dtype(options_.frozen_type));
    if (bias) {
      group.bias =
          group.bias_grad != nullptr ? group.bias_grad->value : at::zeros({group.out}, at::kFloat);
    }
    for (const LinearGroup::Part& part : group.parts) {
      at::Tensor rows = group.weight.narrow(0, part.begin, part.rows);
      GRAFT_RETURN_IF_ERROR(Read(*Find(part.name + ".weight"), rows));
      decoder_->parameters[part.name + ".weight"] = rows;
      const spec::Parameter* b = Find(part.name + ".bias");
      if (b == nullptr) continue;
      at::Tensor numbers = group.bias.narrow(0, part.begin, part.rows);
      GRAFT_RETURN_IF_ERROR(Read(*b, numbers));
      decoder_->parameters[part.name + ".bias"] = numbers;
    }
    return absl::OkStatus();
  }

  void DescribeAttention(int64_t index, Attention& attention) {
    const spec::AttentionSpec& from = spec_.attention;
    const std::string prefix = absl::StrCat("layers.", index, ".attn.");
    const int64_t tp = division().tp;
    attention.heads = from.heads / tp;
    attention.kv_heads = std::max<int64_t>(1, from.kv_heads / tp);
    attention.head_dim = from.head_dim;
    attention.scale =
        from.scale / (from.scale_by_inverse_layer ? static_cast<double>(index + 1) : 1.0);
    attention.softcap = from.softcap;
    attention.clip_qkv = from.clip_qkv;
    attention.window = spec_.layers[index].sliding_window;
    attention.rope = spec_.layers[index].rope;
    if (attention.rope >= 0) {
      attention.rope_interleaved = spec_.ropes[attention.rope].interleaved;
    }
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
      } else {
        DescribeNorm(prefix + "mlp_norm", spec_.norm, layer->gate_up.norm);
      }
    }
    DescribeNorm(prefix + "attn_post_norm", spec_.norm, layer->attn_post);
    DescribeNorm(prefix + "mlp_post_norm", spec_.norm, layer->mlp_post);
    DescribeGroup({prefix + "attn.q", prefix + "attn.k", prefix + "attn.v"}, layer->qkv);
    DescribeAttention(index, layer->attention);
    DescribeGroup({prefix + "attn.o"}, layer->o);
    std::vector<std::string> inner = {prefix + "mlp.up"};
    if (spec_.mlp.gated) inner.insert(inner.begin(), prefix + "mlp.gate");
    DescribeGroup(inner, layer->gate_up);
    DescribeGroup({prefix + "mlp.down"}, layer->down);
    layer->mlp = &decoder_->spec().mlp;
    decoder_->layers().push_back(std::move(layer));
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
    if (!chosen.empty()) return chosen;
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

  absl::Status AttachAdapters() {
    linears_ = spec::HubLinears(description_);
    GRAFT_ASSIGN_OR_RETURN(const auto targets, Targets(linears_));
    std::vector<std::pair<LinearGroup*, std::vector<const spec::HubLinear*>>> by_group;
    for (const spec::HubLinear* linear : targets) {
      const auto found = group_of_.find(linear->parts.front().name);
      if (found == group_of_.end()) continue;  // another rank's layer
      LinearGroup* group = found->second;
      if (by_group.empty() || by_group.back().first != group) by_group.push_back({group, {}});
      by_group.back().second.push_back(linear);
    }
    for (auto& [group, linears] : by_group) AttachTo(*group, linears);
    return absl::OkStatus();
  }

  void AttachTo(LinearGroup& group, const std::vector<const spec::HubLinear*>& linears) {
    const LoraOptions& lora = options_.lora;
    ParameterStore& store = decoder_->store();
    group.dropout = lora.dropout;
    const double rank = static_cast<double>(lora.rank);
    const double scale = lora.alpha / (lora.rslora ? std::sqrt(rank) : rank);
    const int64_t layer = static_cast<int64_t>(group.layer) / kGroupsOfLayer;
    const Cut& input = cuts_.at(group.parts.front().name);
    for (const spec::HubLinear* linear : linears) {
      Adapter& adapter = group.adapters.emplace_back();
      adapter.module = linear->module;
      adapter.rank = lora.rank;
      adapter.scale = scale;
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
      if (adapter.magnitude == nullptr) continue;
      at::Tensor& magnitude = adapter.magnitude->value;
      for (const Adapter::Rows& r : adapter.rows) {
        const at::Tensor rows = group.weight.narrow(0, r.group_begin, r.count).to(at::kFloat);
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
  std::map<std::string, Cut> cuts_;  // likewise: of the weight
  int64_t layer_ = 0;                // that is described
  uint64_t next_group_ = 0;          // of this layer
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
    for (const LinearGroup* group : {&layer->qkv, &layer->o, &layer->gate_up, &layer->down}) {
      for (const Adapter& adapter : group->adapters) all.push_back(&adapter);
    }
  }
  return all;
}

}  // namespace graft::model
