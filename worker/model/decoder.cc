#include "worker/model/decoder.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "base/check.h"
#include "worker/spec/rope.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Makes a graph where autograd sees no leaf: what is trained is none.
at::Tensor Anchor() { return at::zeros({1}).set_requires_grad(true); }

// The embedding's gradient goes straight to its Trained entry.
struct EmbedFunction : torch::autograd::Function<EmbedFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& anchor, const at::Tensor& table,
                            const at::Tensor& rows, Trained* grad) {
    ctx->save_for_backward({rows});
    ctx->saved_data["grad"] = reinterpret_cast<int64_t>(grad);
    return table.index_select(0, rows).to(at::kFloat);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto* grad = reinterpret_cast<Trained*>(ctx->saved_data["grad"].toInt());
    grad->grad.index_add_(0, ctx->get_saved_variables()[0], grads[0].to(at::kFloat));
    return {at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// dy of the tokens whose rows of A `h` are.
void EmbedAdapterBackward(const Adapter& adapter, const at::Tensor& dy, const at::Tensor& h,
                          const at::Tensor& tokens) {
  adapter.b->grad.addmm_(dy.t(), h, 1, adapter.scale);
  const at::Tensor dh = at::mm(dy, adapter.b->value) * adapter.scale;
  adapter.a->grad.index_add_(1, tokens, dh.t());
}

// An embedding of which each rank has a part of the rows, from `first` on: other ranks' rows count
// 0, and the sum over the ranks comes back cut by tokens.
struct DividedRows {
  at::Tensor index;
  at::Tensor here;  // [T, 1]
};

DividedRows OwnRows(const at::Tensor& tokens, int64_t first, int64_t count) {
  const at::Tensor local = tokens - first;
  return {local.clamp(0, count - 1),
          local.ge(0).logical_and(local.lt(count)).to(at::kFloat).unsqueeze(1)};
}

struct DividedEmbedFunction : torch::autograd::Function<DividedEmbedFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& anchor, const at::Tensor& table,
                            const at::Tensor& tokens, int64_t first, Trained* grad,
                            const Adapter* adapter, Exchange* exchange) {
    const DividedRows rows = OwnRows(tokens, first, table.size(0));
    at::Tensor x = table.index_select(0, rows.index).to(at::kFloat).mul_(rows.here);
    at::Tensor h;
    if (adapter->rank > 0) {
      h = adapter->a->value.t().index_select(0, rows.index).mul_(rows.here);
      x.addmm_(h, adapter->b->value.t(), 1, adapter->scale);
    }
    ctx->save_for_backward({rows.index, rows.here, h});
    ctx->saved_data["grad"] = reinterpret_cast<int64_t>(grad);
    ctx->saved_data["adapter"] = reinterpret_cast<int64_t>(adapter);
    ctx->saved_data["exchange"] = reinterpret_cast<int64_t>(exchange);
    return exchange->SumScatterRows(x, "tp embedding");
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto* exchange = reinterpret_cast<Exchange*>(ctx->saved_data["exchange"].toInt());
    auto* grad = reinterpret_cast<Trained*>(ctx->saved_data["grad"].toInt());
    const auto& adapter = *reinterpret_cast<const Adapter*>(ctx->saved_data["adapter"].toInt());
    const auto saved = ctx->get_saved_variables();
    const at::Tensor all =
        exchange->GatherRows(grads[0].to(at::kFloat).contiguous(), "tp embedding gradients");
    const at::Tensor own = all * saved[1];
    if (grad != nullptr) grad->grad.index_add_(0, saved[0], own);
    if (adapter.rank > 0) EmbedAdapterBackward(adapter, own, saved[2], saved[0]);
    return variable_list(7);
  }
};

at::Tensor Lookup(const at::Tensor& table, const at::Tensor& rows, Trained* grad) {
  if (grad == nullptr || !at::GradMode::is_enabled()) {
    return table.index_select(0, rows).to(at::kFloat);
  }
  return EmbedFunction::apply(Anchor(), table, rows, grad);
}

struct AdaptedEmbedFunction : torch::autograd::Function<AdaptedEmbedFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& anchor,
                            const at::Tensor& tokens, const Adapter* adapter) {
    const at::Tensor h = adapter->a->value.t().index_select(0, tokens);
    ctx->save_for_backward({h, tokens});
    ctx->saved_data["adapter"] = reinterpret_cast<int64_t>(adapter);
    return at::addmm(x, h, adapter->b->value.t(), 1, adapter->scale);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& adapter = *reinterpret_cast<const Adapter*>(ctx->saved_data["adapter"].toInt());
    EmbedAdapterBackward(adapter, grads[0].to(at::kFloat).contiguous(), saved[0], saved[1]);
    return {grads[0], at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// Runs a layer without keeping anything but its input, and once more for the backward.
struct RecomputeFunction : torch::autograd::Function<RecomputeFunction> {
  using Body = std::function<at::Tensor(const at::Tensor&)>;
  struct Held : torch::CustomClassHolder {
    explicit Held(Body body) : body(std::move(body)) {}
    Body body;
  };
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& anchor,
                            const Body* body, bool on_host) {
    ctx->save_for_backward({on_host ? ToHost(x) : x});
    ctx->saved_data["device"] = c10::IValue(x.device());
    ctx->saved_data["body"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(*body));
    return (*body)(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto held = ctx->saved_data["body"].toCapsule();
    const Body& body = static_cast<const Held&>(*held).body;
    at::Tensor x = ctx->get_saved_variables()[0].to(ctx->saved_data["device"].toDevice()).detach();
    x.set_requires_grad(true);
    at::AutoGradMode enable(true);
    const at::Tensor y = body(x);
    torch::autograd::backward({y}, {grads[0]});
    return {x.grad(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
  // Into pinned memory, behind what the device has still to do.
  static at::Tensor ToHost(const at::Tensor& x) {
    if (x.device().is_cpu()) return x;
    at::Tensor host = at::empty(x.sizes(), x.options().device(at::kCPU).pinned_memory(true));
    host.copy_(x, /*non_blocking=*/true);
    return host;
  }
};

// Tells the observer when the backward comes by.
struct PassedFunction : torch::autograd::Function<PassedFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, LayerObserver* observer,
                            int64_t layer) {
    ctx->saved_data["observer"] = reinterpret_cast<int64_t>(observer);
    ctx->saved_data["layer"] = layer;
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    reinterpret_cast<LayerObserver*>(ctx->saved_data["observer"].toInt())
        ->BackwardPassed(ctx->saved_data["layer"].toInt());
    return {grads[0], at::Tensor(), at::Tensor()};
  }
};

// Some families keep the scale as a number of the activations' type.
double EmbeddingScale(const spec::DecoderSpec& spec, at::ScalarType type) {
  if (!spec.embedding_scale_rounded) return spec.embedding_scale;
  return at::scalar_tensor(spec.embedding_scale, at::dtype(type)).to(at::kDouble).item<double>();
}

// Row i evenly between -most[i] and most[i]. Rows in the order in which one rank draws them.
at::Tensor UniformNoise(const std::vector<float>& most, int64_t columns, uint64_t seed,
                        at::Device device) {
  at::Generator generator = at::globalContext().defaultGenerator(device).clone();
  generator.set_current_seed(seed);
  at::Tensor noise =
      at::empty({static_cast<int64_t>(most.size()), columns}, at::dtype(at::kFloat).device(device));
  noise.uniform_(-1, 1, generator);
  return noise.mul_(at::tensor(at::ArrayRef<float>(most)).unsqueeze(1).to(device));
}

}  // namespace

std::vector<LinearGroup*> DecoderLayer::Groups() {
  std::vector<LinearGroup*> groups = {&qkv};
  if (latent != nullptr) {
    if (!latent->q_b.parts.empty()) groups.push_back(&latent->q_b);
    groups.push_back(&latent->kv_b);
  }
  groups.push_back(&o);
  if (moe == nullptr) {
    groups.insert(groups.end(), {&gate_up, &down});
    return groups;
  }
  groups.push_back(&moe->router);
  for (size_t e = 0; e < moe->gate_up.size(); ++e) {
    groups.insert(groups.end(), {&moe->gate_up[e], &moe->down[e]});
  }
  if (moe->has_shared) groups.insert(groups.end(), {&moe->shared_gate_up, &moe->shared_down});
  if (!moe->shared_gate.parts.empty()) groups.push_back(&moe->shared_gate);
  return groups;
}

Decoder::Decoder(spec::DecoderSpec spec, Division division, at::Device device)
    : spec_(std::move(spec)), division_(std::move(division)), device_(device) {}

at::Tensor Decoder::Parameter(const std::string& name) const {
  const auto quantized = blocks.find(name);
  if (quantized == blocks.end()) return parameters.at(name);
  const auto& [matrix, part] = quantized->second;
  return Widen({matrix->columns, {matrix->parts[part]}}, at::kFloat);
}

std::vector<RopeTable> Decoder::RopeTables(const at::Tensor& positions, int64_t longest) const {
  std::vector<RopeTable> tables;
  for (const spec::RopeSpec& rope : spec_.ropes) {
    const std::vector<float> frequencies = spec::RopeInverseFrequencies(rope, longest);
    const at::Tensor inverse =
        at::tensor(at::ArrayRef<float>(frequencies), at::kFloat).to(positions.device());
    const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * inverse.unsqueeze(0);
    tables.push_back({(at::cos(angles) * rope.attention_factor).contiguous(),
                      (at::sin(angles) * rope.attention_factor).contiguous()});
  }
  return tables;
}

at::Tensor Decoder::Embed(const Batch& batch) const {
  const at::Tensor& tokens = batch.tokens;
  at::Tensor x;
  at::Tensor rows = batch.positions;
  at::Tensor noise;
  if (!batch.noise.empty()) {
    noise = UniformNoise(batch.noise, spec_.hidden, batch.pass.dropout_seed, tokens.device());
  }
  if (Exchange* exchange = division_.tensor; exchange != nullptr) {
    const int64_t first = CutOf(spec_, division_, "embed.weight", {spec_.vocab}).begin;
    const bool trained = embed_grad != nullptr || embed_adapter.rank > 0;
    const at::Tensor anchor =
        at::zeros({1}).set_requires_grad(trained && at::GradMode::is_enabled());
    x = DividedEmbedFunction::apply(anchor, embed, tokens, first, embed_grad, &embed_adapter,
                                    exchange);
    const int64_t own = tokens.size(0) / exchange->size();
    rows = rows.narrow(0, exchange->rank() * own, own);
    if (noise.defined()) noise = noise.narrow(0, exchange->rank() * own, own);
  } else {
    x = Lookup(embed, tokens, embed_grad);
    if (embed_adapter.rank > 0)
      x = AdaptedEmbedFunction::apply(x, Anchor(), tokens, &embed_adapter);
  }
  x = x.to(compute_type_);
  if (spec_.embedding_scale != 1) x = x * EmbeddingScale(spec_, compute_type_);
  if (noise.defined()) x = x + noise.to(compute_type_);
  if (positions.defined()) x = x + Lookup(positions, rows, positions_grad).to(compute_type_);
  return x;
}

at::Tensor Decoder::Layer(const DecoderLayer& layer, const at::Tensor& x,
                          const std::vector<RopeTable>& ropes, const Batch& batch,
                          LayerCache* cache, int64_t cached) const {
  const at::Tensor none;
  const PassState& pass = batch.pass;
  const double scale = spec_.residual_scale;
  const RopeTable* rope =
      layer.attention.rope < 0 ? nullptr : &ropes[static_cast<size_t>(layer.attention.rope)];
  // A sum that nothing stands between is made by the product itself.
  const auto join = [&](const Norm& post, const at::Tensor& residual, const auto& apply) {
    if (!post.present && scale == 1) return apply(residual);
    at::Tensor y = apply(none);
    if (post.present) y = ApplyNorm(post, y);
    return residual + (scale == 1 ? y : y * scale);
  };

  at::Tensor qkv = ApplyLinear(layer.qkv, x, none, pass);
  if (layer.latent != nullptr) qkv = LatentQkv(*layer.latent, qkv, pass);
  const at::Tensor heads =
      cache == nullptr
          ? ApplyAttention(layer.attention, std::move(qkv), rope, batch.starts, batch.context)
          : AttendCached(layer.attention, std::move(qkv), rope, *cache, cached);
  const at::Tensor after = join(layer.attn_post, x, [&](const at::Tensor& residual) {
    return ApplyLinear(layer.o, heads, residual, pass);
  });
  const at::Tensor& mlp_in = spec_.parallel_block ? x : after;
  if (layer.moe != nullptr) {
    return join(layer.mlp_post, after, [&](const at::Tensor& residual) {
      const at::Tensor y = ApplyMoe(*layer.moe, mlp_in, pass);
      return residual.defined() ? residual + y : y;
    });
  }
  const at::Tensor inner = ApplyLinear(layer.gate_up, mlp_in, none, pass);
  return join(layer.mlp_post, after, [&](const at::Tensor& residual) {
    return ApplyDown(*layer.mlp, layer.down, inner, residual, pass);
  });
}

at::Tensor Decoder::Through(const Batch& batch, int64_t begin, int64_t end, at::Tensor x) const {
  int64_t longest = 0;
  for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
    longest = std::max(longest, batch.starts[i + 1] - batch.starts[i]);
  }
  const std::vector<RopeTable> ropes = RopeTables(batch.positions, longest);
  if (!x.defined()) x = Embed(batch);
  const bool grads = at::GradMode::is_enabled();
  const bool recompute = recompute_ != Recompute::kNone && grads;
  for (int64_t i = begin; i < end; ++i) {
    const DecoderLayer& layer = *layers_[static_cast<size_t>(i)];
    if (observer_ != nullptr) {
      observer_->Entered(layer.index);
      if (grads && x.requires_grad()) x = PassedFunction::apply(x, observer_, layer.index);
    }
    if (!recompute) {
      x = Layer(layer, x, ropes, batch, nullptr, 0);
      continue;
    }
    const RecomputeFunction::Body body = [this, &layer, ropes, batch](const at::Tensor& in) {
      Batch once = batch;
      // The forward runs without gradients, its repetition with them.
      once.pass.count_balance = !at::GradMode::is_enabled();
      return Layer(layer, in, ropes, once, nullptr, 0);
    };
    x = RecomputeFunction::apply(x, Anchor(), &body, recompute_ == Recompute::kLayersFromHost);
  }
  return x;
}

KvCache Decoder::MakeCache(int64_t capacity) const {
  KvCache cache;
  cache.capacity = capacity;
  const auto options = at::TensorOptions().dtype(compute_type_).device(device_);
  for (const auto& layer : layers_) {
    const Attention& a = layer->attention;
    cache.layers.push_back({at::empty({capacity, a.kv_heads * a.head_dim}, options),
                            at::empty({capacity, a.kv_heads * a.value_dim}, options)});
  }
  return cache;
}

at::Tensor Decoder::Extend(const std::vector<int32_t>& tokens, KvCache& cache) const {
  GRAFT_CHECK(division_.whole()) << "a divided model does not generate";
  const at::NoGradGuard no_grad;
  const int64_t count = static_cast<int64_t>(tokens.size());
  GRAFT_CHECK(count > 0 && cache.length + count <= cache.capacity)
      << count << " tokens after " << cache.length << " of " << cache.capacity;
  Batch batch;
  batch.tokens = at::tensor(at::ArrayRef<int32_t>(tokens), at::kInt).to(device_, at::kLong);
  batch.positions =
      at::arange(cache.length, cache.length + count, at::dtype(at::kLong).device(device_));
  batch.starts = {0, count};
  const std::vector<RopeTable> ropes = RopeTables(batch.positions, cache.length + count);
  at::Tensor x = Embed(batch);
  for (size_t i = 0; i < layers_.size(); ++i) {
    x = Layer(*layers_[i], x, ropes, batch, &cache.layers[i], cache.length);
  }
  cache.length += count;
  return HeadLogits(head_, x.narrow(0, count - 1, 1)).view({-1}).cpu();
}

}  // namespace graft::model
