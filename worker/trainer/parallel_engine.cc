#include "worker/trainer/parallel_engine.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/method/sft.h"
#include "worker/model/torch_boundary.h"
#include "worker/spec/stages.h"
#include "worker/trainer/elapsed.h"

namespace graft::trainer {
namespace {

using parallel::OpKind;
using parallel::PipelineOp;
using parallel::PipelineShape;
using parallel::Ranks;
using parallel::World;
// A rank's line of what all ranks learn of each other once a step. The digest of each kind of
// holders has two columns of its own: 32 bits are exact in a double.
enum Column : int64_t {
  kLoss,
  kSquares,
  kFinite,
  kBusySeconds,
  kDigests,
  kColumns = kDigests + 2 * World::kHolderKinds,
};

// Whose digest of a group's numbers is not that of the most.
Ranks Odd(const Ranks& ranks, const std::vector<uint64_t>& digests) {
  std::map<uint64_t, size_t> votes;
  for (uint64_t digest : digests) ++votes[digest];
  if (votes.size() < 2) return {};
  const auto most = std::max_element(
      votes.begin(), votes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  // Without a majority nobody can tell who is right.
  const bool tie = std::count_if(votes.begin(), votes.end(),
                                 [&](const auto& v) { return v.second == most->second; }) > 1;
  Ranks odd;
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (tie || digests[i] != most->first) odd.push_back(ranks[i]);
  }
  return odd;
}

// Of this rank's rows, in their order; -1: filler.
std::vector<int64_t> TokensOfRows(const model::ContextCut& cut) {
  std::vector<int64_t> token_of(static_cast<size_t>(cut.rows), -1);
  for (const auto* pieces : {&cut.own().early, &cut.own().late}) {
    for (const model::ContextCut::Piece& piece : *pieces) {
      for (int64_t i = 0; i < piece.count; ++i) token_of[piece.row + i] = piece.token + i;
    }
  }
  return token_of;
}

}  // namespace

struct ParallelEngine::Summary {
  double loss = 0;
  double squares = 0;
  Ranks not_finite;
  int64_t slowest = 0;
  double slowest_seconds = 0;
};

absl::StatusOr<ModelPart> PartOf(parallel::World& world, const RunConfig& config,
                                 const spec::DecoderSpec& spec) {
  const int64_t stages = world.layout().pp;
  const int64_t chunks = config.parallelism.chunks;
  if (stages * chunks > spec.num_layers()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "parallelism: ", stages, " stages of ", chunks, " chunks are more than the model's ",
        spec.num_layers(), " layers; use pp x chunks of at most ", spec.num_layers()));
  }
  ModelPart part;
  part.division.tp = world.layout().tp;
  part.division.tp_rank = world.place().tp;
  part.division.tensor = world.tensor_exchange();
  part.division.context = world.context_exchange();
  part.division.experts = world.expert_exchange();
  part.division.embedding = world.first_stage();
  part.division.head = world.last_stage();
  // Every token counts for the head where all carry loss; of answers about half do.
  const double share = config.dataset.loss_on == LossOn::kAll ? 1.0 : 0.5;
  const auto ranges = spec::CutLayers(spec, config.dataset.max_seq_length, share, stages * chunks);
  int64_t at = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    const auto range = ranges[static_cast<size_t>(c * stages + world.place().pp)];
    if (stages * chunks > 1) part.division.layers.push_back(range);
    part.chunks.emplace_back(at, at + range.second - range.first);
    at = part.chunks.back().second;
  }
  return part;
}

absl::StatusOr<RankModel> BuildRank(const spec::ModelDescription& description,
                                    const spec::ParameterReader& reader,
                                    model::BuildOptions options, parallel::World& world,
                                    const parallel::Reducer::Options& reducer_options) {
  RankModel built;
  options.layers_apart = reducer_options.zero >= 3;
  options.allocated = [&](model::ParameterStore& store) {
    built.reducer = std::make_unique<parallel::Reducer>(world, store, reducer_options);
  };
  options.filled = [&](int64_t layer) { built.reducer->Keep(layer); };
  GRAFT_ASSIGN_OR_RETURN(built.decoder, model::BuildDecoder(description, reader, options));
  built.reducer->TakeValues();
  return built;
}

ParallelEngine::ParallelEngine(const RunConfig& config, const ModelPart& part,
                               parallel::World& world, model::Decoder& decoder,
                               parallel::Reducer& reducer, Optimizer& optimizer, LossScaler& scaler)
    : config_(config),
      part_(part),
      world_(world),
      decoder_(decoder),
      reducer_(reducer),
      optimizer_(optimizer),
      scaler_(scaler),
      guard_(config.guards, scaler) {
  decoder_.set_observer(&reducer_);
}

PipelineShape ParallelEngine::Shape(int64_t micros) const {
  return {world_.layout().pp, static_cast<int64_t>(part_.chunks.size()), micros};
}

int64_t ParallelEngine::PartIndex(int64_t chunk) const {
  return chunk * world_.layout().pp + world_.place().pp;
}

void ParallelEngine::Cut(Passes& passes) const {
  if (part_.division.context == nullptr) return;
  for (const data::MicroBatch* micro : *passes.micros) {
    const std::vector<int64_t> starts(micro->segment_starts.begin(), micro->segment_starts.end());
    passes.cuts.push_back(std::make_shared<const model::ContextCut>(
        model::MakeContextCut(starts, *part_.division.context, world_.layout().tp)));
  }
}

at::Tensor ParallelEngine::Activations(const Passes& passes, int64_t micro) const {
  const int64_t tp = world_.layout().tp;
  const int64_t all = passes.cuts.empty()
                          ? static_cast<int64_t>((*passes.micros)[micro]->tokens.size())
                          : passes.cuts[micro]->rows;
  return at::empty({(all + tp - 1) / tp, decoder_.spec().hidden},
                   at::device(decoder_.device()).dtype(decoder_.compute_type()));
}

model::Batch ParallelEngine::BatchOf(const Passes& passes, int64_t index) const {
  const data::MicroBatch& micro = *(*passes.micros)[index];
  const parallel::Place& own = world_.place();
  model::Batch batch =
      method::BatchOf(micro, passes.cuts.empty() ? world_.layout().tp : 1, decoder_.device());
  if (const double alpha = config_.sft.neftune_noise_alpha; alpha > 0 && passes.training) {
    batch.noise = method::NoiseOf(micro, alpha, decoder_.spec().hidden, batch.tokens.size(0));
  }
  if (!passes.cuts.empty()) {
    batch.context = passes.cuts[index];
    if (!batch.noise.empty()) {
      std::vector<float> own_rows;
      for (const int64_t token : TokensOfRows(*batch.context)) {
        own_rows.push_back(token < 0 ? 0.0f : batch.noise[static_cast<size_t>(token)]);
      }
      batch.noise = std::move(own_rows);
    }
    const at::Tensor own_tokens = batch.context->tokens.to(decoder_.device());
    batch.tokens = batch.tokens.index_select(0, own_tokens);
    batch.positions = batch.positions.index_select(0, own_tokens);
  }
  // As one rank would draw them, and alike on every rank that sees these tokens; other data and
  // context ranks have other masks.
  const uint64_t place = passes.training ? static_cast<uint64_t>(&micro - passes.first) : 0;
  const uint64_t pass = static_cast<uint64_t>(own.dp * world_.layout().cp + own.cp) << 48 |
                        static_cast<uint64_t>(passes.step) << 20 | place;
  batch.pass = {.training = passes.training,
                .dropout_seed = static_cast<uint64_t>(config_.seed) * 0x9E3779B97F4A7C15ULL ^ pass};
  return batch;
}

model::LossTargets ParallelEngine::TargetsOf(const Passes& passes, int64_t index) const {
  const data::MicroBatch& micro = *(*passes.micros)[index];
  model::LossTargets targets;
  if (passes.cuts.empty()) targets = method::TargetsOf(micro, passes.denominator);
  targets.gradient_scale = scaler_.scale();
  if (passes.training) targets.label_smoothing = config_.sft.label_smoothing;
  if (passes.cuts.empty()) return targets;
  const std::vector<int64_t> token_of = TokensOfRows(*passes.cuts[index]);
  targets.denominator = passes.denominator;
  for (size_t row = 0; row < token_of.size(); ++row) {
    if (token_of[row] < 0 || micro.targets[token_of[row]] == data::kIgnoreTarget) continue;
    targets.rows.push_back(static_cast<int64_t>(row));
    targets.targets.push_back(micro.targets[token_of[row]]);
  }
  return targets;
}

bool ParallelEngine::Balances(const Passes& passes, int64_t index) const {
  return passes.training && decoder_.router_loss_coefficient > 0 &&
         (*passes.micros)[index]->supervised_tokens > 0;
}

std::unique_ptr<model::RouterBalance> ParallelEngine::BalanceOf(const Passes& passes,
                                                                int64_t index) const {
  const data::MicroBatch& micro = *(*passes.micros)[index];
  auto balance = std::make_unique<model::RouterBalance>();
  balance->coefficient = decoder_.router_loss_coefficient;
  // Tensor-parallel ranks route the same tokens, and gradients are summed over them.
  balance->gradient_scale = world_.place().tp == 0 ? scaler_.scale() : 0;
  std::vector<int64_t> token_of(micro.tokens.size());
  if (passes.cuts.empty()) {
    const int64_t tp = world_.layout().tp;
    token_of.resize((token_of.size() + tp - 1) / tp * tp, -1);
  } else {
    token_of = TokensOfRows(*passes.cuts[index]);
  }
  if (std::count(token_of.begin(), token_of.end(), -1) == 0) return balance;
  std::vector<float> real;
  for (const int64_t token : token_of) real.push_back(token < 0 ? 0.0f : 1.0f);
  balance->real = at::tensor(at::ArrayRef<float>(real)).unsqueeze(1).to(decoder_.device());
  return balance;
}

void ParallelEngine::AddRouted(const model::RouterBalance& own, const PipelineOp& op,
                               Passes& passes) {
  at::Tensor sums = own.Sums(decoder_.spec().moe.experts, decoder_.device());
  if (part_.division.context != nullptr) part_.division.context->Sum(sums, "cp routed tokens");
  at::Tensor& all = passes.routed[{op.micro, op.chunk}];
  all = all.defined() ? all + sums : sums;
}

// Without a target a pass changes nothing, and the ranks that share its tokens all leave it out;
// but where other data ranks' tokens or gathers need this one, all make as many passes.
std::vector<const data::MicroBatch*> ParallelEngine::Active(const data::StepBatch& batch) const {
  std::vector<const data::MicroBatch*> micros;
  for (const data::MicroBatch& micro : batch.micro_batches) {
    if (micro.supervised_tokens > 0 || InStep()) micros.push_back(&micro);
  }
  return micros;
}

void ParallelEngine::Forward(const PipelineOp& op, Passes& passes) {
  const auto start = SteadyClock::now();
  const auto [begin, end] = part_.chunks[op.chunk];
  Flight& flight = passes.flights[{op.micro, op.chunk}];
  if (flight.in.defined() && passes.training) flight.in.requires_grad_(true);
  model::Batch batch = BatchOf(passes, op.micro);
  if (Balances(passes, op.micro)) {
    flight.balance = BalanceOf(passes, op.micro);
    batch.pass.balance = flight.balance.get();
  }
  flight.out = decoder_.Through(batch, begin, end, flight.in);
  const bool last = PartIndex(op.chunk) == world_.layout().pp * Shape(1).chunks - 1;
  if (flight.balance != nullptr) AddRouted(*flight.balance, op, passes);
  if (last) {
    if (flight.balance != nullptr && world_.place().cp == 0) {  // context ranks all know it
      flight.balance->Take(passes.routed[{op.micro, op.chunk}]);
      passes.result->loss += flight.balance->Loss();
    }
    if (passes.logits.defined()) {
      AddLogits(flight.out, passes);
    } else {
      const model::LossTargets targets = TargetsOf(passes, op.micro);
      double loss = 0;
      flight.out = model::HeadLoss(decoder_.head(), flight.out, targets, &loss);
      passes.result->loss += loss;
    }
    if (!passes.training) passes.flights.erase({op.micro, op.chunk});
  }
  passes.result->forward_seconds += SecondsSince(start);
}

void ParallelEngine::Backward(const PipelineOp& op, Passes& passes) {
  const auto start = SteadyClock::now();
  // After the last micro-batch a chunk's gradients are whole.
  reducer_.Arm(op.micro == static_cast<int64_t>(passes.micros->size()) - 1);
  Flight flight = std::move(passes.flights[{op.micro, op.chunk}]);
  passes.flights.erase({op.micro, op.chunk});
  if (flight.balance != nullptr) flight.balance->Take(passes.routed[{op.micro, op.chunk}]);
  const auto came = passes.gradients.find({op.micro, op.chunk});
  at::Tensor out = std::move(flight.out);
  flight.out = at::Tensor();
  if (!out.requires_grad()) {
    // Nothing is trained here or before.
  } else if (came == passes.gradients.end()) {
    out.backward();
  } else {
    torch::autograd::backward({out}, {came->second});
  }
  out.reset();
  if (came != passes.gradients.end()) passes.gradients.erase(came);
  if (flight.in.defined()) {
    at::Tensor d = flight.in.grad();
    passes.gradients[{op.micro, op.chunk}] = d.defined() ? d : at::zeros_like(flight.in);
  }
  passes.result->backward_seconds += SecondsSince(start);
}

void ParallelEngine::Run(const PipelineOp& op, const PipelineShape& shape, Passes& passes) {
  parallel::Group& pipeline = world_.pipeline();
  const std::pair<int64_t, int64_t> key = {op.micro, op.chunk};
  const int64_t part = PartIndex(op.chunk);
  const bool routes = Balances(passes, op.micro);
  const auto send = [&](const at::Tensor& x, int64_t to_part, bool back, const char* what) {
    const int64_t tag = MessageTag(shape, op.micro, to_part, back);
    passes.sends.push_back(pipeline.Send(x, op.peer, tag, what));
    if (routes) passes.sends.push_back(pipeline.Send(passes.routed[key], op.peer, tag, what));
  };
  const auto receive = [&](bool back, const char* what) {
    const int64_t tag = MessageTag(shape, op.micro, part, back);
    at::Tensor x = Activations(passes, op.micro);
    pipeline.Receive(x, op.peer, tag, what);
    if (routes) {
      at::Tensor sums = model::RouterBalance().Sums(decoder_.spec().moe.experts, x.device());
      pipeline.Receive(sums, op.peer, tag, what);
      passes.routed[key] = sums;
    }
    return x;
  };
  switch (op.kind) {
    case OpKind::kReceiveForward:
      passes.flights[key].in = receive(false, "pipeline activations");
      break;
    case OpKind::kForward:
      Forward(op, passes);
      break;
    case OpKind::kSendForward:
      send(passes.flights[key].out.detach(), part + 1, false, "pipeline activations");
      if (!passes.training) passes.flights.erase(key);
      break;
    case OpKind::kReceiveBackward:
      passes.gradients[key] = receive(true, "pipeline gradients");
      break;
    case OpKind::kBackward:
      Backward(op, passes);
      break;
    case OpKind::kSendBackward:
      send(passes.gradients[key], part - 1, true, "pipeline gradients");
      passes.gradients.erase(key);
      passes.routed.erase(key);
      break;
  }
}

absl::StatusOr<ParallelEngine::Summary> ParallelEngine::Exchange(const StepResult& own) {
  at::Tensor row = at::zeros({1, kColumns}, at::kDouble);
  double* columns = row.mutable_data_ptr<double>();
  // Tensor-parallel ranks of the last stage all have its loss.
  columns[kLoss] = world_.last_stage() && world_.place().tp == 0 ? own.loss : 0;
  columns[kSquares] = reducer_.OwnSquares();
  columns[kFinite] = reducer_.own_finite() ? 1 : 0;
  columns[kBusySeconds] = own.busy_seconds;
  const auto digests = reducer_.Digests();
  for (size_t kind = 0; kind < digests.size(); ++kind) {
    columns[kDigests + 2 * kind] = static_cast<double>(digests[kind].value >> 32);
    columns[kDigests + 2 * kind + 1] = static_cast<double>(digests[kind].value & 0xffffffffULL);
  }
  const at::Tensor rows = world_.all().Gather(row, "step summary");
  GRAFT_RETURN_IF_ERROR(CheckDigests(digests, rows));
  Summary summary;
  const auto all = rows.accessor<double, 2>();
  for (int64_t r = 0; r < world_.size(); ++r) {
    summary.loss += all[r][kLoss];
    summary.squares += all[r][kSquares];
    if (all[r][kFinite] == 0) summary.not_finite.push_back(r);
    if (all[r][kBusySeconds] > summary.slowest_seconds) {
      summary.slowest = r;
      summary.slowest_seconds = all[r][kBusySeconds];
    }
  }
  return summary;
}

absl::Status ParallelEngine::CheckDigests(const parallel::Reducer::HolderDigests& own,
                                          const at::Tensor& rows) const {
  const auto all = rows.accessor<double, 2>();
  for (size_t kind = 0; kind < own.size(); ++kind) {
    const parallel::Group* group = own[kind].group;
    if (group == nullptr) continue;
    const auto column = static_cast<int64_t>(kDigests + 2 * kind);
    std::vector<uint64_t> digests;
    for (const int64_t r : group->ranks()) {
      digests.push_back(static_cast<uint64_t>(all[r][column]) << 32 |
                        static_cast<uint64_t>(all[r][column + 1]));
    }
    const Ranks odd = Odd(group->ranks(), digests);
    if (odd.empty()) continue;
    return absl::DataLossError(
        absl::StrCat("rank ", parallel::RanksText(odd), " has come apart from ranks ",
                     parallel::RanksText(group->ranks()),
                     ": numbers that they hold alike differ; seen in \"step summary\" of ranks ",
                     parallel::RanksText(world_.all().ranks())));
  }
  return absl::OkStatus();
}

absl::StatusOr<StepResult> ParallelEngine::Step(const data::StepBatch& batch,
                                                double learning_rate) {
  world_.activity().SetStep(batch.step + 1);
  world_.activity().TakeSeconds();
  StepResult result;
  const std::vector<const data::MicroBatch*> micros = Active(batch);
  Passes passes;
  passes.micros = &micros;
  passes.denominator = static_cast<double>(std::max<int64_t>(batch.supervised_tokens, 1));
  passes.training = true;
  passes.step = batch.step;
  passes.first = batch.micro_batches.data();
  passes.result = &result;
  parallel::Activity::Seconds waited;
  double passes_seconds = 0;
  GRAFT_RETURN_IF_ERROR(model::TorchCall("a training step", [&] {
    const auto start = SteadyClock::now();
    reducer_.Begin();
    Cut(passes);
    if (!micros.empty()) {
      const PipelineShape shape = Shape(static_cast<int64_t>(micros.size()));
      auto& schedule = schedules_[shape.micros];
      if (schedule.empty()) schedule = parallel::MakeSchedule(shape);
      for (const PipelineOp& op : schedule[world_.place().pp]) Run(op, shape, passes);
    }
    for (parallel::Pending& send : passes.sends) send.Wait();
    world_.activity().Settle();
    waited = world_.activity().TakeSeconds();
    passes_seconds = SecondsSince(start);
    reducer_.Finish();
  }));
  result.busy_seconds = passes_seconds - waited.communication - waited.pipeline;
  result.communication_seconds =
      waited.communication + world_.activity().TakeSeconds().communication;
  result.tensor_seconds = waited.tensor;
  result.idle_seconds = waited.pipeline;
  absl::StatusOr<Summary> summary = absl::InternalError("no summary");
  GRAFT_RETURN_IF_ERROR(model::TorchCall("a step's summary", [&] { summary = Exchange(result); }));
  if (!summary.ok()) return summary.status();
  result.loss = summary->loss;
  const double scale = scaler_.scale();
  result.grad_norm = std::sqrt(summary->squares) / scale;
  result.slowest_rank = summary->slowest;
  result.slowest_busy_seconds = summary->slowest_seconds;
  if (!summary->not_finite.empty()) {
    result.skip_reason = absl::StrCat("the gradients of rank ",
                                      parallel::RanksText(summary->not_finite), " are not finite");
  }
  const auto start = SteadyClock::now();
  guard_.Check(result);
  if (!result.skipped) {
    result.skip_reason.clear();
    GRAFT_RETURN_IF_ERROR(model::TorchCall("an update", [&] {
      optimizer_.Step(learning_rate,
                      ClipScale(result.grad_norm, config_.optimizer.clip_norm) / scale);
      reducer_.Publish();
    }));
  }
  result.optimizer_seconds = SecondsSince(start);
  return result;
}

void ParallelEngine::Forwards(Passes& passes) {
  Cut(passes);
  const PipelineShape shape = Shape(static_cast<int64_t>(passes.micros->size()));
  for (const PipelineOp& op : parallel::ForwardSchedule(shape, world_.place().pp)) {
    Run(op, shape, passes);
  }
  for (parallel::Pending& send : passes.sends) send.Wait();
}

// The data ranks share the micro-batches; every rank learns the sum.
absl::StatusOr<EvalResult> ParallelEngine::Evaluate(const data::BatchPlan& plan) {
  EvalResult result;
  const auto start = SteadyClock::now();
  StepResult own;
  const spec::Layout& layout = world_.layout();
  int64_t index = 0;
  const bool together = InStep();  // one of the data ranks counts
  at::Tensor sum;
  GRAFT_RETURN_IF_ERROR(model::TorchCall("an evaluation", [&] {
    const at::NoGradGuard no_grad;
    for (int64_t step = 0; step < plan.steps(); ++step) {
      const data::StepBatch batch = plan.Step(step, 0);
      std::vector<const data::MicroBatch*> micros;
      for (const data::MicroBatch& micro : batch.micro_batches) {
        result.supervised_tokens += micro.supervised_tokens;
        if (micro.supervised_tokens == 0) continue;
        if (together || index++ % layout.dp == world_.place().dp) micros.push_back(&micro);
      }
      if (micros.empty()) continue;
      Passes passes;
      passes.micros = &micros;
      passes.result = &own;
      Forwards(passes);
    }
    const bool counts =
        world_.last_stage() && world_.place().tp == 0 && (!together || world_.place().dp == 0);
    sum = at::full({1}, counts ? own.loss : 0.0, at::kDouble);
    world_.all().AllReduce(sum, parallel::Reduce::kSum, "evaluation loss");
  }));
  result.loss =
      sum.item<double>() / static_cast<double>(std::max<int64_t>(result.supervised_tokens, 1));
  result.seconds = SecondsSince(start);
  return result;
}

void ParallelEngine::AddLogits(const at::Tensor& x, Passes& passes) const {
  const model::Head& head = decoder_.head();
  const at::Tensor rows =
      head.exchange == nullptr ? x : head.exchange->GatherRows(x, "tp gather for an answer");
  if (world_.place().dp != 0) return;  // data ranks pass the same text
  auto row = static_cast<int64_t>(passes.micros->front()->tokens.size()) - 1;
  if (!passes.cuts.empty()) {
    const std::vector<int64_t> token_of = TokensOfRows(*passes.cuts.front());
    const auto at = std::find(token_of.begin(), token_of.end(), row);
    if (at == token_of.end()) return;  // another context rank has it
    row = at - token_of.begin();
  }
  const at::Tensor own = model::HeadLogits(head, rows.narrow(0, row, 1)).view({-1});
  passes.logits.narrow(0, head.vocab_begin, own.numel()).copy_(own);
}

at::Tensor ParallelEngine::LogitsBehind(const std::vector<int32_t>& tokens) {
  const at::NoGradGuard no_grad;
  data::MicroBatch text;
  text.tokens = tokens;
  text.positions.resize(tokens.size());
  std::iota(text.positions.begin(), text.positions.end(), 0);
  text.segment_starts = {0, static_cast<int32_t>(tokens.size())};
  const std::vector<const data::MicroBatch*> micros = {&text};
  StepResult unused;
  Passes passes;
  passes.micros = &micros;
  passes.result = &unused;
  // Each rank puts in what it has; the rest is 0.
  passes.logits =
      at::zeros({decoder_.spec().vocab}, at::device(decoder_.device()).dtype(at::kFloat));
  Forwards(passes);
  world_.all().AllReduce(passes.logits, parallel::Reduce::kSum, "logits of an answer");
  return passes.logits.cpu();
}

Continuation ParallelEngine::Begin(int64_t capacity) {
  if (!Divided()) return ContinueWithCache(decoder_, capacity);
  auto text = std::make_shared<std::vector<int32_t>>();
  return [this, text](const std::vector<int32_t>& tokens) {
    text->insert(text->end(), tokens.begin(), tokens.end());
    return LogitsBehind(*text);
  };
}

}  // namespace graft::trainer
