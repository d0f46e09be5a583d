// The program as a whole on a tiny model: what it leaves behind, and that a run that was killed at
// any moment ends with the bytes of the one that was not.
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tier.h"
#include "worker/trainer/control_words.h"
#include "worker/trainer/events.h"
#include "worker/trainer/run_config.h"
#include "worker/trainer/test_run.h"

namespace graft::trainer {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class RunTest : public TinyRunTest {
 protected:
  void SetUp() override {
    TinyRunTest::SetUp();
    config_.tuning.dropout = 0.1;
    config_.schedule.epochs = 4;
    config_.batch.global = 2;
    config_.checkpoint.interval = 3;
  }

  // Runs the program and calls `each` with its events; returns all that came.
  std::vector<Event> RunWith(const std::function<void(TrainerProcess&, const Event&)>& each) {
    const std::string run = folder_ + "/run.json";
    WriteTestFile(run, FormatRunConfig(config_));
    TrainerProcess trainer(run);
    const std::vector<Event> events = trainer.ReadEvents([&](const Event& event) {
      each(trainer, event);
      return true;
    });
    trainer.Wait();
    return events;
  }
  // SIGKILLs it at the event that `last` is true for.
  std::vector<Event> RunUntil(const std::function<bool(const Event&)>& last) {
    return RunWith([&](TrainerProcess& trainer, const Event& event) {
      if (last(event)) kill(trainer.pid(), SIGKILL);
    });
  }
  // Tells it something after a step.
  std::vector<Event> RunAndTell(absl::string_view word, int64_t after) {
    return RunWith([&](TrainerProcess& trainer, const Event& event) {
      const auto* step = std::get_if<StepEvent>(&event);
      if (step != nullptr && step->step == after) trainer.Tell(word);
    });
  }
  // The same with the `kill_after`-th event where that is given.
  std::vector<Event> RunTrainer(std::optional<uint64_t> kill_after = std::nullopt) {
    uint64_t seen = 0;
    return RunUntil([&](const Event&) { return kill_after.has_value() && ++seen == *kill_after; });
  }

  // Rows whose loss rises once the training rows are learnt by heart.
  void ValidateOnOtherAnswers() {
    std::string rows;
    for (int i = 0; i < 8; ++i) {
      rows += "{\"prompt\":\"say " + std::to_string(i) + " \",\"completion\":\"it is " +
              std::to_string((i * 3 + 5) % 10) + "\"}\n";
    }
    WriteTestFile(folder_ + "/validation.jsonl", rows);
    config_.dataset.validation = {folder_ + "/validation.jsonl"};
  }

  std::string Adapter(const std::string& folder) {
    auto bytes = ReadFile(folder_ + "/" + folder + "/adapter_model.safetensors");
    return bytes.ok() ? *bytes : bytes.status().ToString();
  }
};

TEST_F(RunTest, RowsThatAreSplitOffAreAskedWhileItTrains) {
  config_.dataset.validation_split = 0.1;
  config_.evaluation.sample_rows = 5;
  config_.evaluation.sample_tokens = 2;
  Into("a");
  std::vector<int64_t> rows;
  std::vector<SampleEvent> samples;
  for (const Event& event : RunTrainer()) {
    if (const auto* run = std::get_if<RunEvent>(&event)) rows = run->split_rows;
    if (const auto* sample = std::get_if<SampleEvent>(&event)) samples.push_back(*sample);
  }
  ASSERT_EQ(rows.size(), 2);
  ASSERT_GE(samples.size(), 2);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(samples[i].row, rows[i] + 1);
    EXPECT_EQ(samples[i].prompt, "say " + std::to_string(rows[i]) + " ");
    EXPECT_EQ(samples[i].wanted, "it is " + std::to_string(rows[i] * 7 % 10));
  }
}

TEST_F(RunTest, TheSameRunTwiceGivesTheSameBytes) {
  Into("a");
  const std::vector<Event> events = RunTrainer();
  ASSERT_FALSE(events.empty());
  ASSERT_TRUE(std::holds_alternative<DoneEvent>(events.back())) << FormatEvent(events.back(), 0);
  EXPECT_EQ(std::get<DoneEvent>(events.back()).step, 48);
  Into("b");
  RunTrainer();
  EXPECT_EQ(Adapter("out-a"), Adapter("out-b"));
  EXPECT_GT(Adapter("out-a").size(), 1000u);
}

TEST_F(RunTest, AKilledRunEndsWithTheBytesOfTheUninterruptedOne) {
  Into("whole");
  const uint64_t events = RunTrainer().size();
  ASSERT_GT(events, 20u);
  SeededRandom random(3);
  for (int i = 0; i < testing::ByTier(2, 20, 200); ++i) {
    Into("killed" + std::to_string(i));
    config_.resume_from.clear();
    // After the first checkpoint, so that there is one to go on from.
    RunTrainer(6 + random.Uniform(events - 8));
    config_.resume_from = config_.checkpoint.folder;
    const std::vector<Event> rest = RunTrainer();
    ASSERT_FALSE(rest.empty());
    ASSERT_TRUE(std::holds_alternative<DoneEvent>(rest.back())) << FormatEvent(rest.back(), 0);
    EXPECT_EQ(Adapter("out-killed" + std::to_string(i)), Adapter("out-whole"));
  }
}

TEST_F(RunTest, ARunThatStopsEarlyLeavesItsBestEvenWhereThatWasBeforeAKill) {
  ValidateOnOtherAnswers();
  config_.schedule.learning_rate = 2e-2;
  config_.schedule.epochs = 20;
  config_.evaluation.interval = 1;
  config_.evaluation.patience = 8;
  config_.evaluation.restore_best = true;
  config_.checkpoint.interval = 1;
  Into("whole");
  const std::vector<Event> whole = RunTrainer();
  const DoneEvent* done = GoodEnd(whole);
  ASSERT_NE(done, nullptr);
  ASSERT_EQ(done->reason, DoneReason::kEarlyStopped);
  const int64_t best = done->step - config_.evaluation.patience;
  ASSERT_GT(best, 0);

  Into("killed");
  RunUntil([&](const Event& event) {
    const auto* saved = std::get_if<CheckpointEvent>(&event);
    return saved != nullptr && saved->step == best + 2;
  });
  ASSERT_FALSE(FileExists(config_.output.folder + "/adapter_model.safetensors"));
  config_.resume_from = config_.checkpoint.folder;
  const std::vector<Event> rest = RunTrainer();
  const DoneEvent* end = GoodEnd(rest);
  ASSERT_NE(end, nullptr);
  const auto* run = std::get_if<RunEvent>(&rest.front());
  ASSERT_NE(run, nullptr);
  EXPECT_GT(run->first_step, best);
  EXPECT_EQ(run->best_step, best);
  EXPECT_EQ(end->step, done->step);
  EXPECT_EQ(end->validation_loss, done->validation_loss);
  EXPECT_EQ(Adapter("out-killed"), Adapter("out-whole"));
}

TEST_F(RunTest, LayersMayBeLeftOutOfAnAdapter) {
  config_.schedule.max_steps = 1;
  config_.tuning.exclude_modules = {"re:.*mlp.*", "o_proj"};
  config_.tuning.layers_to_transform = {1};
  Into("a");
  ASSERT_NE(GoodEnd(RunTrainer()), nullptr);
  const std::string adapter = Adapter("out-a");
  for (const char* module : {"q_proj", "k_proj", "v_proj"}) {
    EXPECT_THAT(adapter, HasSubstr(std::string("layers.1.self_attn.") + module + ".lora_A"));
  }
  EXPECT_THAT(adapter, Not(HasSubstr("layers.0.")));
  EXPECT_THAT(adapter, Not(HasSubstr("mlp")));
  EXPECT_THAT(adapter, Not(HasSubstr("o_proj")));
  config_.tuning.layers_to_transform = {99};
  const std::vector<Event> events = RunTrainer();
  ASSERT_FALSE(events.empty());
  ASSERT_TRUE(std::holds_alternative<ErrorEvent>(events.back()));
  EXPECT_THAT(std::get<ErrorEvent>(events.back()).message, HasSubstr("names layer 99"));
}

TEST_F(RunTest, PatienceMayBeEpochs) {
  ValidateOnOtherAnswers();
  config_.schedule.epochs = 40;
  config_.schedule.learning_rate = 1e-2;
  config_.evaluation.interval = 3;
  config_.evaluation.patience_epochs = 1;  // of 12 steps
  Into("a");
  const std::vector<Event> events = RunTrainer();
  const DoneEvent* done = GoodEnd(events);
  ASSERT_NE(done, nullptr);
  EXPECT_EQ(done->reason, DoneReason::kEarlyStopped);
  int64_t best = 0;
  for (const Event& event : events) {
    const auto* eval = std::get_if<EvalEvent>(&event);
    if (eval != nullptr && eval->best) best = eval->step;
  }
  EXPECT_EQ(done->step, best + 12);
}

// Learns nothing more, so that what comes out is what it began with.
TEST_F(RunTest, ARunMayStartFromTheWeightsOfAnother) {
  ValidateOnOtherAnswers();
  config_.evaluation.at_start = true;
  config_.tuning.dropout = 0;
  for (const TuningKind kind : {TuningKind::kLora, TuningKind::kAllWeights}) {
    config_.tuning.kind = kind;
    config_.start_from.clear();
    config_.schedule.max_steps = 6;
    config_.schedule.learning_rate = 1e-2;
    Into("first");
    const std::vector<Event> first = RunTrainer();
    ASSERT_NE(GoodEnd(first), nullptr);
    config_.schedule.max_steps = 1;
    config_.schedule.learning_rate = 1e-300;
    const bool lora = kind == TuningKind::kLora;
    const std::string file = lora ? "/adapter_model.safetensors" : "/model.safetensors";
    std::vector<std::string> sources = {config_.checkpoint.folder};
    if (lora) sources.push_back(config_.output.folder);
    for (const std::string& source : sources) {
      config_.start_from = source;
      Into("again");
      const std::vector<Event> again = RunTrainer();
      ASSERT_NE(GoodEnd(again), nullptr);
      EXPECT_EQ(std::get<RunEvent>(again.front()).first_step, 0);
      EXPECT_EQ(*ReadFile(folder_ + "/out-again" + file), *ReadFile(folder_ + "/out-first" + file));
      // Before and after are of the base and of what came out.
      const auto loss = [](const std::vector<Event>& events, int64_t step) {
        for (const Event& event : events) {
          const auto* eval = std::get_if<EvalEvent>(&event);
          if (eval != nullptr && eval->step == step) return eval->loss;
        }
        return std::nan("");
      };
      EXPECT_EQ(loss(again, 0), loss(first, 0));
      EXPECT_EQ(loss(again, 1), loss(first, 6));
    }
  }
}

TEST_F(RunTest, WeightsOfAnotherTuningAreRefusedByName) {
  config_.schedule.max_steps = 1;
  Into("first");
  ASSERT_NE(GoodEnd(RunTrainer()), nullptr);
  const std::string adapter = config_.output.folder, checkpoint = config_.checkpoint.folder;
  const TuningConfig tuning = config_.tuning;
  Into("again");
  const auto refusal = [&](const std::string& from) {
    config_.start_from = from;
    const std::vector<Event> events = RunTrainer();
    config_.tuning = tuning;
    const auto* error = events.empty() ? nullptr : std::get_if<ErrorEvent>(&events.back());
    if (error == nullptr) return std::string("no error");
    EXPECT_EQ(error->code, ErrorCode::kInvalidCheckpoint);
    return error->message;
  };
  config_.tuning.alpha = 1;
  EXPECT_THAT(refusal(adapter), HasSubstr("has tuning.alpha 32, this run 1"));
  config_.tuning.rank = 2;
  EXPECT_THAT(refusal(adapter), HasSubstr("has tuning.rank 4, this run 2"));
  config_.tuning.rank = 2;
  EXPECT_THAT(refusal(checkpoint), HasSubstr("wanted"));
  config_.tuning.target_modules = {"q_proj"};
  EXPECT_THAT(refusal(checkpoint), HasSubstr("is not trained by this run"));
  config_.tuning.kind = TuningKind::kAllWeights;
  EXPECT_THAT(refusal(adapter), HasSubstr("merge it into its base first"));
  EXPECT_THAT(refusal(folder_ + "/nothing"), HasSubstr("no whole checkpoint"));
}

TEST_F(RunTest, APausedRunLeavesACheckpointAndGoesOnToTheSameBytes) {
  config_.schedule.epochs = 40;  // so that the word comes in time
  Into("whole");
  RunTrainer();
  Into("paused");
  const std::vector<Event> first = RunAndTell(kPauseWord, 7);
  const DoneEvent* done = GoodEnd(first);
  ASSERT_NE(done, nullptr);
  EXPECT_EQ(done->reason, DoneReason::kPaused);
  EXPECT_GE(done->step, 7);
  EXPECT_TRUE(done->output_folder.empty());
  config_.resume_from = config_.checkpoint.folder;
  const std::vector<Event> rest = RunTrainer();
  ASSERT_FALSE(rest.empty());
  EXPECT_EQ(std::get<RunEvent>(rest.front()).first_step, done->step);
  EXPECT_EQ(Adapter("out-paused"), Adapter("out-whole"));
}

TEST_F(RunTest, ACheckpointThatIsAskedForIsTakenAndTheRunGoesOn) {
  config_.schedule.epochs = 40;
  config_.checkpoint.interval = 1000000;
  Into("a");
  std::vector<int64_t> saved;
  bool completed = false;
  for (const Event& event : RunAndTell(kCheckpointWord, 5)) {
    if (const auto* checkpoint = std::get_if<CheckpointEvent>(&event)) {
      saved.push_back(checkpoint->step);
    }
    const auto* done = std::get_if<DoneEvent>(&event);
    completed |= done != nullptr && done->reason == DoneReason::kCompleted;
  }
  ASSERT_EQ(saved.size(), 2);
  EXPECT_GT(saved[0], 5);
  EXPECT_LT(saved[0], saved[1]);
  EXPECT_TRUE(completed);
}

TEST_F(RunTest, IntervalsMayBePartsOfAnEpochOrSeconds) {
  config_.dataset.validation = {folder_ + "/train.jsonl"};
  config_.schedule.epochs = 1.5;  // of 12 steps
  config_.evaluation.interval_epochs = 0.25;
  config_.checkpoint.interval = 0;
  config_.checkpoint.interval_epochs = 0.5;
  const auto run = [&] {
    std::pair<std::vector<int64_t>, std::vector<int64_t>> steps;
    for (const Event& event : RunTrainer()) {
      if (const auto* eval = std::get_if<EvalEvent>(&event)) steps.first.push_back(eval->step);
      const auto* saved = std::get_if<CheckpointEvent>(&event);
      if (saved != nullptr) steps.second.push_back(saved->step);
    }
    return steps;
  };
  Into("epochs");
  const auto parts = run();
  EXPECT_THAT(parts.first, ::testing::ElementsAre(3, 6, 9, 12, 15, 18));
  EXPECT_THAT(parts.second, ::testing::ElementsAre(6, 12, 18));

  config_.checkpoint.interval_epochs = 0;
  config_.checkpoint.interval_seconds = 1e-9;  // over behind every step
  Into("seconds");
  EXPECT_EQ(run().second.size(), 18);
  config_.checkpoint.interval_seconds = 3600;
  Into("hour");
  EXPECT_THAT(run().second, ::testing::ElementsAre(18));
}

TEST_F(RunTest, ARunThatIsToFinishLeavesWhatItHasLearntOrItsBest) {
  ValidateOnOtherAnswers();
  config_.schedule.learning_rate = 2e-2;
  config_.evaluation.interval = 2;
  config_.checkpoint.interval = 2;
  config_.schedule.epochs = 400;  // it would last for long
  for (const absl::string_view word : {kFinishWord, kFinishWithBestWord}) {
    SCOPED_TRACE(word);
    Into(std::string(word));
    const std::vector<Event> events = RunAndTell(word, 60);
    const DoneEvent* done = GoodEnd(events);
    ASSERT_NE(done, nullptr);
    EXPECT_EQ(done->reason, DoneReason::kCompleted);
    EXPECT_GE(done->step, 60);
    EXPECT_LT(done->step, 4800);
    EXPECT_TRUE(FileExists(done->output_folder + "/adapter_model.safetensors"));
    std::optional<double> newest, best;
    for (const Event& event : events) {
      const auto* eval = std::get_if<EvalEvent>(&event);
      if (eval == nullptr || eval->step == 0) continue;
      newest = eval->loss;
      best = std::min(best.value_or(eval->loss), eval->loss);
    }
    EXPECT_LT(best, newest);
    EXPECT_EQ(done->validation_loss, word == kFinishWord ? newest : best);
  }
}

double LastLoss(const std::vector<Event>& events) {
  const auto* done = events.empty() ? nullptr : std::get_if<DoneEvent>(&events.back());
  return done == nullptr ? std::nan("") : done->loss;
}

TEST_F(RunTest, SixteenBitsLearnWhatFp32Does) {
  Into("fp32");
  config_.tuning.dropout = 0;
  config_.schedule.learning_rate = 5e-3;
  const double fp32 = LastLoss(RunTrainer());
  for (Precision precision : {Precision::kBf16, Precision::kFp16}) {
    Into(EnumName(precision));
    config_.precision = precision;
    EXPECT_NEAR(LastLoss(RunTrainer()), fp32, 0.03 * fp32) << EnumName(precision);
    EXPECT_NE(Adapter("out-" + EnumName(precision)), Adapter("out-fp32"));
  }
}

TEST_F(RunTest, AKilledRunInFp16GoesOnWithItsLossScale) {
  config_.precision = Precision::kFp16;
  Into("whole");
  ASSERT_FALSE(std::isnan(LastLoss(RunTrainer())));
  Into("killed");
  RunTrainer(20);
  config_.resume_from = config_.checkpoint.folder;
  ASSERT_FALSE(std::isnan(LastLoss(RunTrainer())));
  EXPECT_EQ(Adapter("out-killed"), Adapter("out-whole"));
}

TEST_F(RunTest, AMergedModelIsWrittenWholeAndReadAgain) {
  Into("merged");
  config_.tuning.kind = TuningKind::kLoraMerged;
  config_.schedule.learning_rate = 1e-2;
  const std::vector<Event> events = RunTrainer();
  ASSERT_FALSE(events.empty());
  // The program has compared the written model with the trained one before it said done.
  ASSERT_TRUE(std::holds_alternative<DoneEvent>(events.back())) << FormatEvent(events.back(), 0);
  EXPECT_TRUE(FileExists(config_.output.folder + "/model.safetensors"));
  EXPECT_TRUE(FileExists(config_.output.folder + "/tokenizer.json"));
  // What was written is a base model itself.
  config_.model.path = config_.output.folder;
  Into("again");
  config_.tuning.kind = TuningKind::kAllWeights;
  const std::vector<Event> again = RunTrainer();
  ASSERT_FALSE(again.empty());
  ASSERT_TRUE(std::holds_alternative<DoneEvent>(again.back())) << FormatEvent(again.back(), 0);
  EXPECT_TRUE(FileExists(config_.output.folder + "/model.safetensors"));
}

TEST_F(RunTest, AnotherRunsCheckpointIsRefused) {
  Into("a");
  config_.schedule.max_steps = 3;
  RunTrainer();
  config_.resume_from = config_.checkpoint.folder;
  config_.seed = 12;
  const std::vector<Event> events = RunTrainer();
  ASSERT_FALSE(events.empty());
  ASSERT_TRUE(std::holds_alternative<ErrorEvent>(events.back()));
  EXPECT_EQ(std::get<ErrorEvent>(events.back()).code, ErrorCode::kInvalidCheckpoint);
}

TEST_F(RunTest, WhatALayoutCannotDoIsRefusedByName) {
  config_.parallelism.tp = config_.parallelism.world = 2;
  config_.optimizer.kind = OptimizerKind::kAdafactor;
  const std::vector<Event> events = RunTrainer();
  ASSERT_FALSE(events.empty());
  ASSERT_TRUE(std::holds_alternative<ErrorEvent>(events.back()));
  EXPECT_EQ(std::get<ErrorEvent>(events.back()).code, ErrorCode::kUnimplemented);
}

}  // namespace
}  // namespace graft::trainer
