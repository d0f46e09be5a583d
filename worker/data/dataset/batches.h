// Which tokens each step, rank and micro-batch trains on: a plan that is fixed before the start.
//
//   GRAFT_ASSIGN_OR_RETURN(BatchPlan plan, BatchPlan::Create({{&tokens, 1.0}}, {.seed = 7,
//       .global_batch_size = 8, .dp_size = 2, .max_seq_length = 2048}));
//   plan.steps();                                          // exact
//   StepBatch step = plan.Step(1234, /*dp_rank=*/1);       // any step, at once: exact resume
//   for (const MicroBatch& micro : step.micro_batches) ... // loss_sum / step.supervised_tokens
//
// Order. The examples of all epochs form one stream: every dataset contributes round(weight x rows)
// examples per epoch, shuffled by seed and epoch; step s takes the examples [s*G, (s+1)*G) of the
// stream, G = global_batch_size. So every update sees exactly G examples (the last one what is
// left), packed or not, on one rank or many; a step straddles the end of an epoch.
//
// Packing. The rows of a rank's share are laid one after another into micro-batches of at most
// micro_batch_size x max_seq_length tokens (best fit); without it each micro-batch holds
// micro_batch_size rows. Either way there is no padding: a micro-batch is a flat run of segments,
// positions start anew in each, and attention must not cross `segment_starts`. Packing therefore
// changes the number of forward passes and nothing else: same updates, same loss, same steps.
//
// Normalisation. `supervised_tokens` counts the targets of the whole step over all ranks and
// micro-batches. The loss of a step is sum(cross entropy) / supervised_tokens; how it was cut up
// never shows.
//
// Life cycle: immutable; Step() may be called from any thread. The TokenizedDatasets must outlive
// it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/data/dataset/tokenized.h"

namespace graft::data {

// A target that is not learnt.
constexpr int32_t kIgnoreTarget = -100;

struct WeightedDataset {
  const TokenizedDataset* data = nullptr;
  double weight = 1.0;  // how often each row is seen per epoch; 0.1: another tenth every epoch
  // Restricts to these rows (SplitRows); empty: all.
  std::vector<uint32_t> rows;
};

struct PlanOptions {
  uint64_t seed = 0;
  bool shuffle = true;  // false: the order of the files (evaluation)
  int epochs = 1;
  int64_t max_steps = 0;  // 0: no cap
  int global_batch_size = 8;
  int micro_batch_size = 1;
  int dp_size = 1;
  bool packing = true;
  int64_t packing_max_samples = 0;  // examples in a sequence; 0: as many as fit
  int max_seq_length = 2048;
};

// One forward and backward pass of one rank: `segments()` rows laid end to end.
struct MicroBatch {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;  // 0, 1, 2 ... anew in every segment
  std::vector<int32_t> targets;    // the token after this one in its segment, or kIgnoreTarget
  std::vector<int32_t>
      segment_starts;              // cu_seqlens: segments() + 1 offsets, the last = tokens.size()
  std::vector<int32_t> sequences;  // per segment: index into its TokenizedDataset
  std::vector<int32_t> datasets;   // per segment: which WeightedDataset
  int64_t supervised_tokens = 0;   // targets that are not kIgnoreTarget
  int max_segment = 0;             // longest segment, in tokens
  // Repeats tokens of another micro-batch with nothing to learn, so that every rank runs the same
  // number of passes. Its loss is 0 by its targets.
  bool filler = false;

  int segments() const { return static_cast<int>(segment_starts.size()) - 1; }
};

struct StepBatch {
  int64_t step = 0;
  int64_t examples = 0;           // of all ranks
  int64_t tokens = 0;             // of all ranks
  int64_t supervised_tokens = 0;  // of all ranks: the denominator
  double epoch = 0;               // examples seen before this step / examples per epoch
  // Of this rank; the same number on every rank. For preference data the segments come in pairs:
  // chosen, rejected.
  std::vector<MicroBatch> micro_batches;
};

class BatchPlan {
 public:
  // INVALID_ARGUMENT names the option: sizes below 1, no rows, a row longer than max_seq_length,
  // datasets that mix preference rows with others.
  static absl::StatusOr<BatchPlan> Create(std::vector<WeightedDataset> datasets,
                                          const PlanOptions& options);
  BatchPlan(BatchPlan&&) noexcept;
  BatchPlan& operator=(BatchPlan&&) noexcept;
  ~BatchPlan();

  int64_t steps() const;               // exact, max_steps applied
  int64_t examples_per_epoch() const;  // of all datasets, weights applied
  // The first step that begins in epoch `epoch` or later: where epoch-end work is due.
  int64_t FirstStepOfEpoch(int epoch) const;
  const PlanOptions& options() const;

  // What packing does, for the job to show: updates either way, and passes per rank of the whole
  // run. Walks the plan, lengths only: some microseconds per step.
  struct Cost {
    int64_t steps_packed = 0, steps_unpacked = 0;                  // equal by design, see above
    int64_t micro_batches_packed = 0, micro_batches_unpacked = 0;  // per rank
    double mean_tokens_per_step = 0;
    double mean_fill = 0;  // tokens / (micro_batch_size x max_seq_length), as the plan is set
  };
  Cost EstimateCost() const;

  // GRAFT_CHECKs 0 <= step < steps() and 0 <= dp_rank < dp_size.
  StepBatch Step(int64_t step, int dp_rank) const;

 private:
  struct Impl;
  explicit BatchPlan(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace graft::data
