#include "worker/model/context_attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "worker/model/attention_flash.h"
#include "worker/model/attention_kernel.h"
#include "worker/model/attention_prepare.h"
#include "worker/model/attention_segments.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using PieceList = std::vector<ContextCut::Piece>;
using Segments = std::vector<AttentionSegment>;

int64_t KvBegin(const Attention& a) { return PartBegin(a, Part::kK); }
int64_t KvWidth(const Attention& a) { return a.width() - KvBegin(a); }

// Adds those of `queries` that see some of `keys`. Both list segments in their order.
void AddSeeing(const Attention& a, const PieceList& queries, const PieceList& keys, Segments& to) {
  size_t k = 0;
  for (const ContextCut::Piece& q : queries) {
    while (k < keys.size() && keys[k].segment < q.segment) ++k;
    if (k == keys.size() || keys[k].segment != q.segment) continue;
    const int64_t place = q.token - keys[k].token;
    const bool passed = a.window > 0 && place - a.window + 1 >= keys[k].count;
    if (place + q.count <= 0 || passed) continue;
    to.push_back({q.row, q.count, keys[k].row, keys[k].count, place});
  }
}

// What a rank's queries see of another rank's keys, in rounds in which no query and no key stands
// twice. In the first round against its own keys every query sees itself.
std::vector<Segments> Rounds(const Attention& a, const ContextCut::Pieces& queries,
                             const ContextCut::Pieces& keys) {
  std::vector<Segments> rounds(2);
  AddSeeing(a, queries.early, keys.early, rounds[0]);
  AddSeeing(a, queries.late, keys.late, rounds[0]);
  AddSeeing(a, queries.late, keys.early, rounds[1]);  // an early query sees no late key
  return rounds;
}

// The kernel for CPUs; rows on a device go through attention_segments.h.
AttentionInputs Inputs(const Attention& a, const at::Tensor& prepared, const at::Tensor& kv) {
  const auto* rows = kv.const_data_ptr<float>();
  return {PartRows(a, prepared.const_data_ptr<float>(), Part::kQ),
          {rows, kv.size(1)},
          {rows + PartBegin(a, Part::kV) - KvBegin(a), kv.size(1)}};
}

// The kernel for CPUs computes in fp32, whatever the activations are.
at::Tensor ForMaths(const at::Tensor& prepared) {
  return prepared.is_cpu() ? prepared.to(at::kFloat).contiguous() : prepared;
}

at::Tensor OwnKeysAndValues(const Attention& a, const at::Tensor& prepared) {
  return prepared.narrow(1, KvBegin(a), KvWidth(a)).contiguous();
}

// Calls visit(source, kv_RX) for every rank's keys and values, the own first.
template <typename F>
void ForEveryRank(const Attention& a, const at::Tensor& prepared, const ContextCut& cut,
                  const F& visit) {
  const int64_t size = cut.exchange->size(), own = cut.exchange->rank();
  const at::Tensor kv = OwnKeysAndValues(a, prepared);
  visit(own, kv);
  for (int64_t step = 1; step < size; ++step) {
    const int64_t source = (own + size - step) % size;
    visit(source, cut.exchange->HandOn(kv, (own + step) % size, source, "keys and values"));
  }
}

// Outputs of rows over the keys seen so far, in fp32.
struct Seen {
  at::Tensor o;    // [R, H E]
  at::Tensor lse;  // [H, R]

  Seen(const Attention& a, int64_t rows, double nothing, at::Device device)
      : o(at::zeros({rows, a.out_width()}, at::device(device))),
        lse(at::full({a.heads, rows}, nothing, at::device(device))) {}
  Seen(at::Tensor o, at::Tensor lse) : o(std::move(o)), lse(std::move(lse)) {}
  void Join(const Attention& a, const Seen& more) {
    const at::Tensor all = at::logaddexp(lse, more.lse);
    const auto share = [&](const at::Tensor& part) {
      return (part - all).exp_().t().unsqueeze(2);  // [R, H, 1]
    };
    const std::vector<int64_t> heads = {o.size(0), a.heads, a.value_dim};
    o.view(heads).mul_(share(lse)).add_(more.o.view(heads) * share(more.lse));
    lse = all;
  }
};

// `first`: the sinks join a row's sum once.
void SeeSegments(const Attention& a, const Segments& segments, const at::Tensor& prepared,
                 const at::Tensor& kv, bool first, Seen& seen) {
  if (prepared.is_cpu()) {
    AttentionShape shape = ShapeOf(a);
    if (!first) shape.sinks = nullptr;
    AttentionForward(shape, segments, Inputs(a, prepared, kv),
                     {seen.o.mutable_data_ptr<float>(), seen.o.size(1)},
                     seen.lse.mutable_data_ptr<float>(), seen.lse.size(1));
    return;
  }
  SegmentsForward(a, segments, SegmentRowsOf(a, prepared, kv), seen.o, seen.lse);
  if (first && a.sinks.defined()) AddSinks(a.sinks, seen.o, seen.lse);
}

Seen Forward(const Attention& a, const at::Tensor& prepared, const ContextCut& cut) {
  const int64_t rows = prepared.size(0);
  // Filler has seen something, so that its numbers stay finite.
  Seen seen(a, rows, 0, prepared.device());
  bool first = true;
  ForEveryRank(a, prepared, cut, [&](int64_t source, const at::Tensor& kv) {
    for (const Segments& round : Rounds(a, cut.own(), cut.pieces[static_cast<size_t>(source)])) {
      if (first) {
        SeeSegments(a, round, prepared, kv, first, seen);
      } else if (!round.empty()) {
        Seen more(a, rows, -std::numeric_limits<double>::infinity(), prepared.device());
        SeeSegments(a, round, prepared, kv, first, more);
        seen.Join(a, more);
      }
      first = false;
    }
  });
  return seen;
}

// Adds a round's gradients to those of the queries (in d_RW) and of the keys and values.
struct RoundBackward {
  const Attention& a;
  const at::Tensor& prepared;
  const Seen& seen;
  const at::Tensor& d_o;
  at::Tensor& d;

  void Run(const Segments& round, const at::Tensor& kv, at::Tensor& d_kv, double* d_sinks) const {
    if (!prepared.is_cpu()) {
      SegmentsBackward(a, round, SegmentRowsOf(a, prepared, kv), seen.o, seen.lse, d_o,
                       SegmentRowsOf(a, d, d_kv));
      return;
    }
    at::Tensor dq = at::zeros({prepared.size(0), KvBegin(a)});
    at::Tensor part = at::zeros_like(kv);
    float* to = part.mutable_data_ptr<float>();
    AttentionBackward(ShapeOf(a), round, Inputs(a, prepared, kv),
                      {seen.o.const_data_ptr<float>(), a.out_width()},
                      {d_o.const_data_ptr<float>(), a.out_width()},
                      seen.lse.const_data_ptr<float>(), prepared.size(0),
                      {{dq.mutable_data_ptr<float>(), dq.size(1)},
                       {to, kv.size(1)},
                       {to + PartBegin(a, Part::kV) - KvBegin(a), kv.size(1)},
                       d_sinks});
    d.narrow(1, 0, KvBegin(a)).add_(dq);
    d_kv.add_(part);
  }
};

// The gradient of the prepared qkv. What a rank makes of another's keys goes back to it.
at::Tensor Backward(const Attention& a, const at::Tensor& prepared, const Seen& seen,
                    const at::Tensor& d_o, const ContextCut& cut) {
  const int64_t size = cut.exchange->size(), own = cut.exchange->rank();
  at::Tensor d = at::zeros(prepared.sizes(), prepared.options().dtype(at::kFloat));
  at::Tensor own_d_kv;
  const bool sinks_learn = a.sinks_grad != nullptr;
  std::vector<double> d_sinks(sinks_learn && prepared.is_cpu() ? a.heads : 0);
  const RoundBackward backward{a, prepared, seen, d_o, d};
  bool first = true;
  ForEveryRank(a, prepared, cut, [&](int64_t source, const at::Tensor& kv) {
    at::Tensor d_kv = at::zeros(kv.sizes(), d.options());
    for (const Segments& round : Rounds(a, cut.own(), cut.pieces[static_cast<size_t>(source)])) {
      double* sinks = first && !d_sinks.empty() ? d_sinks.data() : nullptr;
      if (!round.empty()) backward.Run(round, kv, d_kv, sinks);
      first = false;
    }
    if (source == own) {
      own_d_kv = d_kv;
    } else {
      const int64_t step = (own + size - source) % size;
      own_d_kv.add_(
          cut.exchange->HandOn(d_kv, source, (own + step) % size, "gradients of keys and values"));
    }
  });
  if (sinks_learn) {
    a.sinks_grad->grad.add_(prepared.is_cpu()
                                ? at::tensor(at::ArrayRef<double>(d_sinks), at::kFloat)
                                : SinkGradients(a.sinks, seen.o, seen.lse, d_o));
  }
  d.narrow(1, KvBegin(a), KvWidth(a)).copy_(own_d_kv);
  return d;
}

struct ContextAttentionFunction : torch::autograd::Function<ContextAttentionFunction> {
  struct Held : torch::CustomClassHolder {
    explicit Held(std::shared_ptr<const ContextCut> cut) : cut(std::move(cut)) {}
    std::shared_ptr<const ContextCut> cut;  // shared with the batch, which may die before the graph
  };

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const Attention* a,
                            const RopeTable* rope, const std::shared_ptr<const ContextCut>* cut) {
    const at::Tensor prepared = Prepare(*a, qkv, rope, /*keep=*/ChangesBeforeRotation(*a));
    const Seen seen = Forward(*a, ForMaths(prepared), **cut);
    const at::Tensor none;
    ctx->save_for_backward({qkv, seen.o, seen.lse, rope == nullptr ? none : rope->cos,
                            rope == nullptr ? none : rope->sin});
    ctx->saved_data["attention"] = reinterpret_cast<int64_t>(a);
    ctx->saved_data["cut"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(*cut));
    return seen.o.to(qkv.scalar_type());
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& a = *reinterpret_cast<const Attention*>(ctx->saved_data["attention"].toInt());
    const auto held = ctx->saved_data["cut"].toCapsule();
    const RopeTable table = {saved[3], saved[4]};
    const RopeTable* rope = table.cos.defined() ? &table : nullptr;
    const at::Tensor& qkv = saved[0];
    const at::Tensor prepared =
        ChangesBeforeRotation(a) ? Prepare(a, qkv, rope, /*keep=*/true) : qkv;
    const Seen seen(saved[1], saved[2]);
    at::Tensor d = Backward(a, ForMaths(prepared), seen, grads[0].to(at::kFloat).contiguous(),
                            *static_cast<const Held&>(*held).cut)
                       .to(qkv.scalar_type());
    PrepareBackward(a, qkv, rope, d);
    return {d, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor ApplyContextAttention(const Attention& attention, const at::Tensor& qkv,
                                 const RopeTable* rope,
                                 const std::shared_ptr<const ContextCut>& context) {
  return ContextAttentionFunction::apply(qkv, &attention, rope, &context);
}

}  // namespace graft::model
