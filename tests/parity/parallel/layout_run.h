// A run of a few steps under a layout, its ranks threads over real Gloo: what the parity tests
// compare. The model, its numbers and the rows of a step are the same under every layout.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/parallel/world.h"
#include "worker/spec/layout.h"
#include "worker/spec/test_models.h"
#include "worker/trainer/parallel_engine.h"
#include "worker/trainer/sharded_state.h"

namespace graft::trainer {

constexpr int64_t kLayers = 4;  // as many as the deepest pipeline has stages
constexpr int kSteps = 10;
constexpr int64_t kMaxLength = 24;  // of a sequence

struct LayoutCase {
  std::string family;
  spec::Layout layout;
  TuningKind tuning = TuningKind::kLora;
  int64_t zero = 0;
  int64_t chunks = 1;
  bool dora = false;
  double dropout = 0;
  bool device = false;  // over a device's collectives, which are Gloo's here
  Precision precision = Precision::kFp32;
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  bool balanced = false;  // the routers, by their loss
  SftConfig sft;
  // Of adapters: what gets one, and what is trained whole beside them.
  std::vector<std::string> targets;
  std::vector<std::string> whole;

  // The name of its test: letters and digits alone.
  std::string Name() const;
};

struct LayoutModel {
  std::unique_ptr<spec::ModelFiles> files;
  spec::ModelDescription description;
};

// The architecture of the family's golden, deeper, with random numbers.
LayoutModel RandomModel(const LayoutCase& c);

// Everything that one rank of a run has.
class RankRun {
 public:
  RankRun(const LayoutModel& model, const LayoutCase& c, parallel::World& world);

  absl::StatusOr<StepResult> Step(int step);

  // From and to the two files of a folder.
  void Load(const std::string& folder, int64_t steps);
  void Save(const std::string& folder);

  model::Decoder& decoder() { return *decoder_; }

 private:
  RankRefs Refs() { return {&world_, reducer_.get()}; }

  const LayoutCase& case_;
  parallel::World& world_;
  const RunConfig config_;
  ModelPart part_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<parallel::Reducer> reducer_;
  std::unique_ptr<Optimizer> optimizer_;
  LossScaler scaler_;
  std::unique_ptr<Engine> engine_;
};

struct Curve {
  std::vector<double> losses;
  std::vector<double> norms;
};

struct Span {
  int first = 0;
  int last = kSteps;
  std::string resume_from;  // folders, none where empty
  std::string save_to;
};

// All ranks of a run from the span's first step to its last; the curve is that of rank 0.
Curve Train(const LayoutModel& model, const LayoutCase& c, const Span& span);

}  // namespace graft::trainer
