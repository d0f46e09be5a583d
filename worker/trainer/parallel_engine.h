// A step over many ranks: the passes of this rank's pipeline stage by the schedule, gradient sums
// beside them, one exchange of what all must know (the loss, the norm, who is slow, whether the
// copies still agree), and the update. Every rank of the run calls Step and Evaluate alike.
//
// The result is that of one rank up to the order of sums; what is cut up how never shows.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/decoder_build.h"
#include "worker/parallel/pipeline_schedule.h"
#include "worker/parallel/reducer.h"
#include "worker/parallel/world.h"
#include "worker/trainer/engine.h"

namespace graft::trainer {

// What this rank holds of the model, and how its layers fall into the stage's chunks.
struct ModelPart {
  model::Division division;
  // Of each chunk: the layers as indices into Decoder::layers().
  std::vector<std::pair<int64_t, int64_t>> chunks;
};

// INVALID_ARGUMENT where the layers do not suffice for the stages.
absl::StatusOr<ModelPart> PartOf(parallel::World& world, const RunConfig& config,
                                 const spec::DecoderSpec& spec);

// A rank's model, and the reducer of its gradients.
struct RankModel {
  std::unique_ptr<model::Decoder> decoder;
  std::unique_ptr<parallel::Reducer> reducer;
};

// With ZeRO-3 no more than a layer and this rank's shares are here at a time.
absl::StatusOr<RankModel> BuildRank(const spec::ModelDescription& description,
                                    const spec::ParameterReader& reader,
                                    model::BuildOptions options, parallel::World& world,
                                    const parallel::Reducer::Options& reducer_options);

class ParallelEngine final : public Engine {
 public:
  // All must outlive it. The optimizer works on `reducer.owned()`.
  ParallelEngine(const RunConfig& config, const ModelPart& part, parallel::World& world,
                 model::Decoder& decoder, parallel::Reducer& reducer, Optimizer& optimizer,
                 LossScaler& scaler);

  // DATA_LOSS when the ranks' copies of the numbers have come apart, naming those that differ.
  absl::StatusOr<StepResult> Step(const data::StepBatch& batch, double learning_rate) override;
  absl::StatusOr<EvalResult> Evaluate(const data::BatchPlan& plan) override;
  // Where the model is divided there is no cache: each token takes a pass of all that stands
  // before.
  Continuation Begin(int64_t capacity) override;
  bool Divided() const override {
    return !decoder_.division().whole() || reducer_.weights_come_and_go();
  }

 private:
  // One pass under way: what its backward needs.
  struct Flight {
    at::Tensor in;   // from the stage before; undefined at the embedding
    at::Tensor out;  // or the loss
    std::unique_ptr<model::RouterBalance> balance;  // of the routers; read by the backward
  };
  struct Passes {
    const std::vector<const data::MicroBatch*>* micros = nullptr;
    double denominator = 1;
    bool training = false;
    int64_t step = 0;
    const data::MicroBatch* first = nullptr;  // of the step
    // With context parallelism: how each micro-batch is cut.
    std::vector<std::shared_ptr<const model::ContextCut>> cuts;
    StepResult* result = nullptr;
    std::map<std::pair<int64_t, int64_t>, Flight> flights;  // by micro-batch and chunk
    std::map<std::pair<int64_t, int64_t>, at::Tensor> gradients;
    // RouterBalance::Sums: of the parts so far on the way forth, of all on the way back.
    std::map<std::pair<int64_t, int64_t>, at::Tensor> routed;
    std::vector<parallel::Pending> sends;
    at::Tensor logits;  // defined where these are wanted of the last token, and no loss
  };
  struct Summary;

  parallel::PipelineShape Shape(int64_t micros) const;
  void Run(const parallel::PipelineOp& op, const parallel::PipelineShape& shape, Passes& passes);
  // Without gradients, every micro-batch through all stages.
  void Forwards(Passes& passes);
  void Forward(const parallel::PipelineOp& op, Passes& passes);
  // Behind the last layer, of a pass that wants logits.
  void AddLogits(const at::Tensor& x, Passes& passes) const;
  at::Tensor LogitsBehind(const std::vector<int32_t>& tokens);
  void Backward(const parallel::PipelineOp& op, Passes& passes);
  // An empty tensor for what travels between stages in a pass of `micro`.
  at::Tensor Activations(const Passes& passes, int64_t micro) const;
  model::Batch BatchOf(const Passes& passes, int64_t micro) const;
  model::LossTargets TargetsOf(const Passes& passes, int64_t micro) const;
  // Whether the routers' balance is part of the loss of that micro-batch.
  bool Balances(const Passes& passes, int64_t micro) const;
  std::unique_ptr<model::RouterBalance> BalanceOf(const Passes& passes, int64_t micro) const;
  // Behind a forward, which `own` has counted.
  void AddRouted(const model::RouterBalance& own, const parallel::PipelineOp& op, Passes& passes);
  // The micro-batches that take a pass.
  std::vector<const data::MicroBatch*> Active(const data::StepBatch& batch) const;
  void Cut(Passes& passes) const;
  // Whether data ranks make the same passes: experts or weights are divided over them.
  bool InStep() const {
    return part_.division.experts != nullptr || reducer_.weights_come_and_go();
  }
  int64_t PartIndex(int64_t chunk) const;
  absl::StatusOr<Summary> Exchange(const StepResult& own);
  // `own`: this rank's; `rows`: everybody's summaries.
  absl::Status CheckDigests(const parallel::Reducer::HolderDigests& own,
                            const at::Tensor& rows) const;

  const RunConfig& config_;
  const ModelPart& part_;
  parallel::World& world_;
  model::Decoder& decoder_;
  parallel::Reducer& reducer_;
  Optimizer& optimizer_;
  LossScaler& scaler_;  // alike on all ranks: what it is told is
  StepGuard guard_;
  std::map<int64_t, std::vector<std::vector<parallel::PipelineOp>>> schedules_;  // by micro-batches
};

}  // namespace graft::trainer
