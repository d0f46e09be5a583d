#include "worker/model/moe.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>
#include <vector>

#include "worker/model/mlp.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Leaves the probabilities as they are, counts them, and adds the balance's gradient to theirs.
struct BalanceFunction : torch::autograd::Function<BalanceFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& probabilities_TE,
                            const at::Tensor& chosen_Tk, RouterBalance* balance, bool count) {
    ctx->saved_data["balance"] = reinterpret_cast<int64_t>(balance);
    if (count) {
      const int64_t experts = probabilities_TE.size(1);
      const at::Tensor& real = balance->real;
      const at::Tensor weights =
          real.defined() ? real.expand(chosen_Tk.sizes()).flatten() : at::Tensor();
      const at::Tensor choices = at::bincount(chosen_Tk.flatten(), weights, experts).to(at::kFloat);
      const at::Tensor p = probabilities_TE.to(at::kFloat);
      const at::Tensor sums = (real.defined() ? p * real : p).sum(0);
      balance->choices = balance->choices.defined() ? balance->choices + choices : choices;
      balance->probabilities =
          balance->probabilities.defined() ? balance->probabilities + sums : sums;
      balance->rows += real.defined() ? real.sum().item<int64_t>() : p.size(0);
    }
    return probabilities_TE.view_as(probabilities_TE);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto& b = *reinterpret_cast<const RouterBalance*>(ctx->saved_data["balance"].toInt());
    const double rows = static_cast<double>(b.rows);
    const double scale =
        b.gradient_scale * b.coefficient * static_cast<double>(b.choices.size(0)) / (rows * rows);
    at::Tensor own = b.choices * scale;
    if (b.real.defined()) own = own * b.real;
    return {grads[0] + own.to(grads[0].scalar_type()), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct Routing {
  at::Tensor weights_Tk;
  at::Tensor chosen_Tk;  // int64
};

// Only the best groups of experts may be chosen from.
at::Tensor WithinBestGroups(const spec::MoeSpec& m, const at::Tensor& scores_TE) {
  if (m.groups_per_token >= m.groups) return scores_TE;
  const int64_t tokens = scores_TE.size(0);
  const at::Tensor grouped = scores_TE.view({tokens, m.groups, m.experts / m.groups});
  const at::Tensor group_scores = std::get<0>(grouped.topk(2, -1)).sum(-1);
  const at::Tensor best = std::get<1>(group_scores.topk(m.groups_per_token, -1));
  const at::Tensor allowed =
      at::zeros({tokens, m.groups}, best.options().dtype(at::kBool)).scatter_(1, best, true);
  return grouped
      .masked_fill(allowed.logical_not().unsqueeze(-1), -std::numeric_limits<double>::infinity())
      .view({tokens, m.experts});
}

Routing Route(const MoeBlock& block, const at::Tensor& xn, const PassState& pass) {
  const spec::MoeSpec& m = *block.spec;
  at::Tensor logits = ApplyLinear(block.router, xn, {}, pass).to(at::kFloat);
  Routing routing;
  at::Tensor scores = logits;
  if (m.score == spec::RouterScore::kSoftmaxThenTopK) scores = at::softmax(logits, -1);
  if (m.score == spec::RouterScore::kSigmoidThenTopK) scores = at::sigmoid(logits);
  {
    const at::NoGradGuard no_grad;
    at::Tensor choice = scores;
    if (block.correction_bias.defined()) choice = choice + block.correction_bias;
    routing.chosen_Tk = std::get<1>(WithinBestGroups(m, choice).topk(m.experts_per_token, -1));
  }
  if (pass.balance != nullptr) {
    // The reference takes the softmax of the logits, whatever the weights are made of.
    const bool same = m.score == spec::RouterScore::kSoftmaxThenTopK;
    const at::Tensor p = same ? scores : at::softmax(logits, -1);
    const at::Tensor counted =
        BalanceFunction::apply(p, routing.chosen_Tk, pass.balance, pass.count_balance);
    // What nothing else reads must still be reached by the backward.
    scores = same ? counted : scores + (counted - counted.detach());
  }
  at::Tensor weights = scores.gather(1, routing.chosen_Tk);
  if (m.score == spec::RouterScore::kTopKThenSoftmax) weights = at::softmax(weights, -1);
  if (m.renormalise) weights = weights / (weights.sum(-1, true) + m.renormalise_eps);
  if (m.routed_scale != 1) weights = weights * m.routed_scale;
  routing.weights_Tk = weights.to(xn.scalar_type());
  return routing;
}

// Which places (token * k + slot) each expert serves, in the order of tokens.
std::vector<std::vector<int64_t>> PlacesOf(const at::Tensor& chosen_Tk, int64_t experts) {
  const at::Tensor flat = chosen_Tk.flatten().cpu().contiguous();
  const int64_t* ids = flat.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> places(static_cast<size_t>(experts));
  for (int64_t i = 0; i < flat.numel(); ++i) places[static_cast<size_t>(ids[i])].push_back(i);
  return places;
}

at::Tensor IndexOf(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(at::ArrayRef<int64_t>(values), at::kLong).to(device);
}

// One expert's part of a pass.
struct Share {
  size_t expert = 0;
  at::Tensor places;  // into the flattened weights
  at::Tensor rows;    // into x
};

std::vector<Share> SharesOf(const at::Tensor& chosen_Tk, int64_t experts) {
  std::vector<Share> shares;
  const auto places = PlacesOf(chosen_Tk, experts);
  const int64_t slots = chosen_Tk.size(1);
  for (size_t e = 0; e < places.size(); ++e) {
    if (places[e].empty()) continue;
    const at::Tensor index = IndexOf(places[e], chosen_Tk.device());
    shares.push_back({e, index, index.floor_divide(slots)});
  }
  return shares;
}

struct ExpertsFunction : torch::autograd::Function<ExpertsFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weights_Tk,
                            const at::Tensor& chosen_Tk, const MoeBlock* block, PassState pass) {
    at::Tensor y = at::zeros_like(x);
    const at::Tensor flat = weights_Tk.reshape({-1, 1});
    variable_list saved = {x, weights_Tk, chosen_Tk};
    for (const Share& share : SharesOf(chosen_Tk, static_cast<int64_t>(block->gate_up.size()))) {
      const at::Tensor w = flat.index_select(0, share.places);
      at::Tensor kept_in, kept_out;
      const at::Tensor inner = LinearForward(block->gate_up[share.expert],
                                             x.index_select(0, share.rows), {}, pass, &kept_in);
      const at::Tensor product = MlpProduct(block->spec->expert, inner) * w;
      at::Tensor out = LinearForward(block->down[share.expert], product, {}, pass, &kept_out);
      if (block->down_bias.defined()) {
        out.addmm_(w, block->down_bias.narrow(0, static_cast<int64_t>(share.expert), 1)
                          .to(out.scalar_type()));
      }
      y.index_add_(0, share.rows, out);
      saved.insert(saved.end(), {inner, kept_in, kept_out});
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["block"] = reinterpret_cast<int64_t>(block);
    ctx->saved_data["training"] = pass.training;
    ctx->saved_data["seed"] = static_cast<int64_t>(pass.dropout_seed);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& block = *reinterpret_cast<const MoeBlock*>(ctx->saved_data["block"].toInt());
    PassState pass;
    pass.training = ctx->saved_data["training"].toBool();
    pass.dropout_seed = static_cast<uint64_t>(ctx->saved_data["seed"].toInt());
    const at::Tensor& x = saved[0];
    const at::Tensor flat = saved[1].reshape({-1, 1});
    at::Tensor dx = at::zeros_like(x);
    at::Tensor d_weights = at::zeros_like(flat);
    size_t next = 3;
    for (const Share& share : SharesOf(saved[2], static_cast<int64_t>(block.gate_up.size()))) {
      const at::Tensor& inner = saved[next];
      const at::Tensor w = flat.index_select(0, share.places);
      const at::Tensor dy = grads[0].index_select(0, share.rows);
      const at::Tensor product = MlpProduct(block.spec->expert, inner);
      // `down` saw product * w, so what comes back is the gradient of that.
      const at::Tensor d_scaled = LinearBackward(block.down[share.expert], dy, product * w,
                                                 saved[next + 2], pass, /*need_dx=*/true);
      at::Tensor dw = (d_scaled * product).sum(1, true);
      if (block.down_bias.defined()) dw = dw + BiasBackward(block, share, w, dy);
      d_weights.index_copy_(0, share.places, dw);
      const at::Tensor d_inner = MlpProductBackward(block.spec->expert, inner, d_scaled * w);
      dx.index_add_(0, share.rows,
                    LinearBackward(block.gate_up[share.expert], d_inner,
                                   x.index_select(0, share.rows), saved[next + 1], pass,
                                   /*need_dx=*/true));
      next += 3;
    }
    return {dx, d_weights.view_as(saved[1]), at::Tensor(), at::Tensor(), at::Tensor()};
  }

  // The weights' part that comes through the bias, which w scales.
  static at::Tensor BiasBackward(const MoeBlock& block, const Share& share, const at::Tensor& w,
                                 const at::Tensor& dy) {
    const auto expert = static_cast<int64_t>(share.expert);
    if (block.down_bias_grad != nullptr) {
      block.down_bias_grad->grad.select(0, expert).add_((dy * w).to(at::kFloat).sum(0));
    }
    return at::mm(dy, block.down_bias.select(0, expert).to(dy.scalar_type()).unsqueeze(1));
  }
};

// Which rows go where: tokens in the order of the experts that they chose, and so of ranks.
struct Dispatch {
  at::Tensor places;                      // [T k] into the flattened weights, sorted by expert
  at::Tensor rows;                        // into x
  std::vector<int64_t> counts, expected;  // rows for and from every rank

  static Dispatch Plan(const MoeBlock& block, const at::Tensor& chosen_Tk) {
    Dispatch d;
    const int64_t per_rank = block.spec->experts / block.exchange->size();
    d.counts.resize(static_cast<size_t>(block.exchange->size()));
    std::vector<int64_t> order;
    const auto places = PlacesOf(chosen_Tk, block.spec->experts);
    for (size_t e = 0; e < places.size(); ++e) {
      order.insert(order.end(), places[e].begin(), places[e].end());
      d.counts[e / static_cast<size_t>(per_rank)] += static_cast<int64_t>(places[e].size());
    }
    d.expected = block.exchange->ShareCounts(d.counts, "ep counts");
    d.places = IndexOf(order, chosen_Tk.device());
    d.rows = d.places.floor_divide(chosen_Tk.size(1));
    return d;
  }
};

// Rows of x and their weights to the ranks of their experts.
struct SendFunction : torch::autograd::Function<SendFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x,
                               const at::Tensor& weights_Tk, const Dispatch* d,
                               ExpertExchange* exchange) {
    Save(ctx, *d, exchange);
    ctx->saved_data["tokens"] = x.size(0);
    ctx->saved_data["slots"] = weights_Tk.size(1);
    return {exchange->AllToAll(x.index_select(0, d->rows), d->counts, d->expected, "ep tokens"),
            exchange->AllToAll(weights_Tk.reshape({-1, 1}).index_select(0, d->places), d->counts,
                               d->expected, "ep weights")};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    auto* exchange = reinterpret_cast<ExpertExchange*>(ctx->saved_data["exchange"].toInt());
    const auto counts = ctx->saved_data["counts"].toIntVector();
    const auto expected = ctx->saved_data["expected"].toIntVector();
    const int64_t tokens = ctx->saved_data["tokens"].toInt();
    const int64_t slots = ctx->saved_data["slots"].toInt();
    const at::Tensor d_rows =
        exchange->AllToAll(grads[0], expected, counts, "ep gradients of tokens");
    const at::Tensor d_weights =
        exchange->AllToAll(grads[1], expected, counts, "ep gradients of weights");
    at::Tensor dx = at::zeros({tokens, d_rows.size(1)}, d_rows.options());
    dx.index_add_(0, saved[1], d_rows);
    at::Tensor dw = at::zeros({tokens * slots, 1}, d_weights.options());
    dw.index_copy_(0, saved[0], d_weights);
    return {dx, dw.view({tokens, slots}), at::Tensor(), at::Tensor()};
  }
  static void Save(AutogradContext* ctx, const Dispatch& d, ExpertExchange* exchange) {
    ctx->save_for_backward({d.places, d.rows});
    ctx->saved_data["counts"] = d.counts;
    ctx->saved_data["expected"] = d.expected;
    ctx->saved_data["exchange"] = reinterpret_cast<int64_t>(exchange);
  }
};

// The experts' answers back to their tokens, added in the order of the experts' numbers.
struct ReturnFunction : torch::autograd::Function<ReturnFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& answers, int64_t tokens,
                            const Dispatch* d, ExpertExchange* exchange) {
    SendFunction::Save(ctx, *d, exchange);
    const at::Tensor rows = exchange->AllToAll(answers, d->expected, d->counts, "ep answers");
    at::Tensor y = at::zeros({tokens, answers.size(1)}, answers.options());
    y.index_add_(0, d->rows, rows);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    auto* exchange = reinterpret_cast<ExpertExchange*>(ctx->saved_data["exchange"].toInt());
    return {exchange->AllToAll(
                grads[0].index_select(0, saved[1]), ctx->saved_data["counts"].toIntVector(),
                ctx->saved_data["expected"].toIntVector(), "ep gradients of answers"),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// The experts' part where each rank has some of them.
at::Tensor AcrossRanks(const MoeBlock& block, const at::Tensor& xn, const at::Tensor& weights_Tk,
                       const at::Tensor& chosen_Tk, const PassState& pass) {
  const Dispatch d = Dispatch::Plan(block, chosen_Tk);
  const int64_t first = block.spec->experts / block.exchange->size() * block.exchange->rank();
  const at::Tensor ids = chosen_Tk.reshape({-1, 1}).index_select(0, d.places);
  const at::Tensor own_ids =
      block.exchange->AllToAll(ids, d.counts, d.expected, "ep choices") - first;
  const variable_list sent = SendFunction::apply(xn, weights_Tk, &d, block.exchange);
  const at::Tensor answers = ExpertsFunction::apply(sent[0], sent[1], own_ids, &block, pass);
  return ReturnFunction::apply(answers, xn.size(0), &d, block.exchange);
}

at::Tensor SharedExpert(const MoeBlock& block, const at::Tensor& xn, const PassState& pass) {
  const at::Tensor inner = ApplyLinear(block.shared_gate_up, xn, {}, pass);
  at::Tensor y = ApplyDown(block.spec->expert, block.shared_down, inner, {}, pass);
  if (block.shared_gate.parts.empty()) return y;
  return y * at::sigmoid(ApplyLinear(block.shared_gate, xn, {}, pass));
}

}  // namespace

double RouterBalance::Loss() const {
  if (rows == 0) return 0;
  const double n = static_cast<double>(rows);
  return coefficient * static_cast<double>(choices.size(0)) / (n * n) *
         (choices.to(at::kDouble) * probabilities.to(at::kDouble)).sum().item<double>();
}

at::Tensor RouterBalance::Sums(int64_t experts, at::Device device) const {
  at::Tensor sums = at::zeros({2 * experts + 1}, at::dtype(at::kDouble).device(device));
  if (rows == 0) return sums;
  sums.narrow(0, 0, experts).copy_(choices);
  sums.narrow(0, experts, experts).copy_(probabilities);
  sums[-1] = static_cast<double>(rows);
  return sums;
}

void RouterBalance::Take(const at::Tensor& sums) {
  const int64_t experts = sums.size(0) / 2;
  choices = sums.narrow(0, 0, experts).to(at::kFloat);
  probabilities = sums.narrow(0, experts, experts).to(at::kFloat);
  rows = static_cast<int64_t>(sums[-1].item<double>());
}

at::Tensor ApplyMoe(const MoeBlock& block, const at::Tensor& x, const PassState& pass) {
  const at::Tensor xn = GatherRowsOp(block.norm.present ? ApplyNorm(block.norm, x) : x,
                                     block.tensor, "tp gather for experts");
  const Routing routing = Route(block, xn, pass);
  // Experts that are trained make a graph even where nothing before them does.
  const at::Tensor weights = at::GradMode::is_enabled() && !routing.weights_Tk.requires_grad()
                                 ? routing.weights_Tk.detach().requires_grad_(true)
                                 : routing.weights_Tk;
  at::Tensor y = block.exchange != nullptr
                     ? AcrossRanks(block, xn, weights, routing.chosen_Tk, pass)
                     : ExpertsFunction::apply(xn, weights, routing.chosen_Tk, &block, pass);
  if (block.has_shared) y = y + SharedExpert(block, xn, pass);
  return SumScatterRowsOp(y, block.tensor, "tp sum of experts");
}

}  // namespace graft::model
