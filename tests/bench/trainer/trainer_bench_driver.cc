// Our side of the trainer's benchmark: does one piece of training work for each line of stdin, so
// that compare.py can take turns with the reference.
//
//   trainer_bench_driver dense MODEL lora|all_weights ROWS LENGTH THREADS
//   trainer_bench_driver chats MODEL FILE TOKENS_PER_PACK THREADS
//   trainer_bench_driver memory MODEL lora|all_weights ROWS LENGTH none|full OPTIMIZER THREADS
//
// Answers each line with one JSON object; a unit of work is an optimizer step (dense, memory) or an
// epoch (chats). `memory` counts the bytes of tensors and says what the estimate had been.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "base/check.h"
#include "base/json.h"
#include "base/random.h"
#include "worker/model/decoder_build.h"
#include "worker/trainer/engine.h"
#include "worker/trainer/flops.h"
#include "worker/trainer/heap.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/precision.h"
#include "worker/trainer/run_plan.h"
#include "worker/trainer/training_data.h"

namespace graft::trainer {
namespace {

using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

int64_t Number(const char* text) {
  int64_t value = 0;
  GRAFT_CHECK(absl::SimpleAtoi(text, &value)) << text;
  return value;
}

// What the machine does in plain products of the size that dominates SmolLM2, now: long enough that
// a moment of other work on the machine does not decide.
class Products {
 public:
  void Run() {
    constexpr double kSeconds = 0.4;
    at::mm_out(c_, a_, b_);
    const auto start = SteadyClock::now();
    do {
      at::mm_out(c_, a_, b_);
      flop_ += 2.0 * kM * kK * kN;
    } while (SecondsSince(start) < kSeconds);
    seconds_ += SecondsSince(start);
  }
  double gflops() const { return flop_ / seconds_ * 1e-9; }

 private:
  static constexpr int64_t kM = 512, kK = 576, kN = 1536;
  const at::Tensor a_ = at::randn({kM, kK});
  const at::Tensor b_ = at::randn({kK, kN});
  at::Tensor c_ = at::empty({kM, kN});
  double flop_ = 0;
  double seconds_ = 0;
};

data::StepBatch RandomTokens(int64_t vocab, int64_t rows, int64_t length, uint64_t seed) {
  SeededRandom random(seed);
  data::MicroBatch micro;
  for (int64_t row = 0; row < rows; ++row) {
    micro.segment_starts.push_back(static_cast<int32_t>(row * length));
    micro.sequences.push_back(static_cast<int32_t>(row));
    micro.datasets.push_back(0);
    for (int64_t i = 0; i < length; ++i) {
      micro.tokens.push_back(static_cast<int32_t>(random.UniformDouble() * (vocab - 1)));
      micro.positions.push_back(static_cast<int32_t>(i));
    }
  }
  micro.segment_starts.push_back(static_cast<int32_t>(rows * length));
  for (size_t i = 0; i < micro.tokens.size(); ++i) {
    const bool last = (i + 1) % static_cast<size_t>(length) == 0;
    micro.targets.push_back(last ? data::kIgnoreTarget : micro.tokens[i + 1]);
  }
  micro.supervised_tokens = rows * (length - 1);
  micro.max_segment = static_cast<int>(length);
  data::StepBatch batch;
  batch.examples = rows;
  batch.tokens = rows * length;
  batch.supervised_tokens = micro.supervised_tokens;
  batch.micro_batches.push_back(std::move(micro));
  return batch;
}

// Counts what tensors take on their way to the allocator that torch has.
class CountingAllocator final : public c10::Allocator {
 public:
  CountingAllocator() : inner_(c10::GetCPUAllocator()) {
    c10::SetCPUAllocator(this, /*priority=*/1);
  }
  at::DataPtr allocate(size_t bytes) override {
    auto block = std::make_unique<Block>(Block{this, inner_->allocate(bytes), bytes});
    const int64_t now = (now_ += static_cast<int64_t>(bytes));
    int64_t peak = peak_;
    while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
    }
    void* data = block->data.get();
    return {data, block.release(), &Free, at::kCPU};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  int64_t peak() const { return peak_; }

 private:
  struct Block {
    CountingAllocator* owner;
    at::DataPtr data;
    size_t bytes;
  };
  static void Free(void* context) {
    const std::unique_ptr<Block> block(static_cast<Block*>(context));
    block->owner->now_ -= static_cast<int64_t>(block->bytes);
  }

  c10::Allocator* const inner_;
  std::atomic<int64_t> now_{0}, peak_{0};
};

struct Trainer {
  RunConfig config;
  std::unique_ptr<ModelSource> model;
  std::unique_ptr<model::Decoder> decoder;
  std::unique_ptr<Optimizer> optimizer;
  LossScaler scaler{false};
  std::unique_ptr<Engine> engine;
};

std::unique_ptr<Trainer> MakeTrainer(const std::string& path, TuningKind kind,
                                     OptimizerKind optimizer_kind = OptimizerKind::kAdamW,
                                     model::Recompute recompute = model::Recompute::kNone) {
  PlanHeap(recompute != model::Recompute::kNone ? Freed::kGoesBack : Freed::kStays);
  auto t = std::make_unique<Trainer>();
  t->config.optimizer.kind = optimizer_kind;
  t->config.tuning.kind = kind;
  t->config.model.path = path;
  auto model = OpenModel(path, "");
  GRAFT_CHECK_OK(model.status());
  t->model = *std::move(model);
  model::BuildOptions options;
  options.train = kind == TuningKind::kAllWeights ? model::Train::kAllWeights : model::Train::kLora;
  auto decoder = model::BuildDecoder(t->model->description, *t->model->reader, options);
  GRAFT_CHECK_OK(decoder.status());
  t->decoder = *std::move(decoder);
  t->decoder->set_recompute(recompute);
  auto optimizer = MakeOptimizer(t->config.optimizer, t->decoder->store());
  GRAFT_CHECK_OK(optimizer.status());
  t->optimizer = *std::move(optimizer);
  t->engine = std::make_unique<LocalEngine>(t->config, *t->decoder, *t->optimizer, t->scaler);
  return t;
}

void Answer(Json json) {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  json.Set("peak_bytes", static_cast<int64_t>(usage.ru_maxrss) * 1024);
  std::printf("%s\n", json.Dump().c_str());
  std::fflush(stdout);
}

// Steps over `batches`; what they took together.
Json Work(Trainer& t, const std::vector<data::StepBatch>& batches) {
  double seconds = 0, flops = 0, forward = 0, backward = 0, loss = 0;
  int64_t tokens = 0, examples = 0;
  for (const data::StepBatch& batch : batches) {
    const auto start = SteadyClock::now();
    const auto result = t.engine->Step(batch, 2e-4);
    seconds += SecondsSince(start);
    GRAFT_CHECK_OK(result.status());
    flops += StepFlops(t.decoder->spec(), *t.decoder, batch);
    forward += result->forward_seconds;
    backward += result->backward_seconds;
    tokens += batch.tokens;
    examples += batch.examples;
    loss = result->loss;
  }
  Json json = Json::MakeObject();
  json.Set("seconds", seconds);
  json.Set("forward_seconds", forward);
  json.Set("backward_seconds", backward);
  json.Set("tokens", tokens);
  json.Set("examples", examples);
  json.Set("loss", loss);
  json.Set("gflops", flops / seconds * 1e-9);
  return json;
}

int MemoryMain(const std::vector<const char*>& args) {
  static CountingAllocator allocator;
  at::set_num_threads(static_cast<int>(Number(args.back())));
  const TuningKind kind =
      std::string(args[3]) == "lora" ? TuningKind::kLora : TuningKind::kAllWeights;
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  for (const auto& [known, name] : EnumNames<OptimizerKind>::Names()) {
    if (std::string(args[7]) == name) optimizer = known;
  }
  const int64_t rows = Number(args[4]), length = Number(args[5]);
  const bool full = std::string(args[6]) == "full";
  auto trainer = MakeTrainer(args[2], kind, optimizer,
                             full ? model::Recompute::kLayers : model::Recompute::kNone);
  spec::TrainingPlan plan = PlanOf(trainer->config, {});
  plan.micro_batch = 1;
  plan.sequence = rows * length;
  plan.effective_length = length;
  plan.recompute = full ? spec::Recompute::kLayers : spec::Recompute::kNone;
  const int64_t estimate = spec::CostModel(trainer->model->description).Memory(plan).total();
  const std::vector<data::StepBatch> batches = {
      RandomTokens(trainer->decoder->spec().vocab, rows, length, 11)};
  Answer(Json::MakeObject());
  for (std::string line; std::getline(std::cin, line);) {
    Json json = Work(*trainer, batches);
    json.Set("tensor_peak_bytes", allocator.peak());
    json.Set("estimated_tensor_bytes", estimate);
    json.Set("estimated_resident_bytes", estimate + spec::kCpuResidentExtraBytes);
    Answer(std::move(json));
  }
  return 0;
}

int Main(const std::vector<const char*>& args) {
  const std::string mode = args.size() > 1 ? args[1] : "";
  if (mode == "memory" && args.size() == 9) return MemoryMain(args);
  const bool dense = mode == "dense";
  if (!(dense && args.size() == 7) && !(mode == "chats" && args.size() == 6)) {
    std::fputs(
        "usage: trainer_bench_driver dense MODEL lora|all_weights ROWS LENGTH THREADS\n"
        "       trainer_bench_driver chats MODEL FILE TOKENS_PER_PACK THREADS\n"
        "       trainer_bench_driver memory MODEL lora|all_weights ROWS LENGTH none|full OPTIMIZER "
        "THREADS\n",
        stderr);
    return 2;
  }
  at::set_num_threads(static_cast<int>(Number(args.back())));
  const bool all = dense && std::string(args[3]) == "all_weights";
  auto trainer = MakeTrainer(args[2], all ? TuningKind::kAllWeights : TuningKind::kLora);
  std::vector<data::StepBatch> batches;
  std::unique_ptr<TrainingData> data;
  if (dense) {
    batches = {RandomTokens(trainer->decoder->spec().vocab, Number(args[4]), Number(args[5]), 11)};
  } else {
    trainer->config.dataset.training = {args[3]};
    trainer->config.dataset.max_seq_length = Number(args[4]);
    auto prepared = PrepareData(trainer->config, *trainer->model);
    GRAFT_CHECK_OK(prepared.status());
    data = *std::move(prepared);
    for (int64_t i = 0; i < data->total_steps; ++i) batches.push_back(data->plan->Step(i, 0));
  }
  Answer(Json::MakeObject());
  for (std::string line; std::getline(std::cin, line);) {
    Products products;  // on both sides of the work
    products.Run();
    Json json = Work(*trainer, batches);
    products.Run();
    json.Set("mm_gflops", products.gflops());
    Answer(std::move(json));
  }
  return 0;
}

}  // namespace
}  // namespace graft::trainer

int main(int argc, char** argv) {
  return graft::trainer::Main(std::vector<const char*>(argv, argv + argc));
}
