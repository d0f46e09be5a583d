// Answers of the model while it is trained, so that a person sees it learn: to the run's sample
// prompts and to rows of its validation set, after a few early steps and at each evaluation.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/engine.h"
#include "worker/trainer/event_writer.h"
#include "worker/trainer/generator.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/rank_gang.h"
#include "worker/trainer/report.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// What is asked (report.h); the same on every rank. Warns where rows are wanted of a set that has
// none to ask.
absl::StatusOr<std::vector<ReportRow>> ChooseSamples(const RunConfig& config,
                                                     const ModelSource& model,
                                                     const std::vector<int64_t>& split_rows,
                                                     EventWriter& events);

class Samples {
 public:
  // All references must outlive it.
  Samples(std::vector<ReportRow> questions, const ModelSource& model, Engine& engine,
          RankGang& gang, EventWriter& events)
      : questions_(std::move(questions)),
        generator_(model, [&engine](int64_t capacity) { return engine.Begin(capacity); }),
        engine_(engine),
        gang_(gang),
        events_(events) {}

  // Whether a run is so young that its answers are wanted without an evaluation.
  static bool Early(int64_t step);
  // Every rank calls it after the same steps. A question that the model cannot take is warned of
  // and not asked again.
  absl::Status AnswerAll(int64_t step);

 private:
  absl::Status AnswerOne(const ReportRow& question, int64_t step);

  std::vector<ReportRow> questions_;
  const Generator generator_;
  Engine& engine_;
  RankGang& gang_;
  EventWriter& events_;
};

}  // namespace graft::trainer
