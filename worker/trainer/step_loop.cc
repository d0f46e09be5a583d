#include "worker/trainer/step_loop.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/model/decoder_build.h"
#include "worker/model/torch_boundary.h"
#include "worker/trainer/adapter_files.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/engine.h"
#include "worker/trainer/flops.h"
#include "worker/trainer/generator.h"
#include "worker/trainer/model_export.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/optimizer.h"
#include "worker/trainer/schedule.h"
#include "worker/trainer/training_data.h"

namespace graft::trainer {
namespace {

using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

int64_t PeakResidentBytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

// Where in a run an error arose says what kind it is.
enum class Phase { kConfig, kModel, kData, kResume, kTrain, kStore };

RunFailure Classify(Phase phase, const absl::Status& status) {
  if (absl::IsUnimplemented(status)) {
    return {ErrorCode::kUnimplemented, status, "leave the feature out of the job"};
  }
  if (absl::IsResourceExhausted(status) && phase != Phase::kStore) {
    return {ErrorCode::kOutOfMemory, status,
            "lower batch.micro or dataset.max_seq_length, or set activation_checkpointing to full"};
  }
  switch (phase) {
    case Phase::kConfig:
      return {ErrorCode::kInvalidConfig, status, "mend run.json"};
    case Phase::kModel:
      return {ErrorCode::kInvalidModel, status, "check the model's files"};
    case Phase::kData:
      return {ErrorCode::kInvalidDataset, status, "mend the rows that are named"};
    case Phase::kResume:
      return {ErrorCode::kInvalidCheckpoint, status,
              "resume with the run.json of the checkpoint, or start anew without resume_from"};
    case Phase::kStore:
      return {ErrorCode::kStorage, status, "make room, or check the folder's permissions"};
    case Phase::kTrain:
      break;
  }
  if (absl::IsAborted(status)) {
    return {ErrorCode::kDiverged, status, "lower the learning rate, or look at the rows named"};
  }
  return {ErrorCode::kInternal, status, "report this as a bug"};
}

// What a checkpoint and the run that goes on from it must share. Folders, intervals and the number
// of steps may differ; what changes the numbers may not.
std::string IdentityOf(const RunConfig& config, int64_t rows) {
  RunConfig same = config;
  same.model.path.clear();
  same.model.name.clear();
  same.dataset.training.clear();
  same.dataset.validation.clear();
  same.output = {};
  same.checkpoint = {};
  same.resume_from.clear();
  same.evaluation = {};
  same.events_fd = 1;
  same.log_interval = 1;
  return Sha256::HexOf(absl::StrCat(FormatRunConfig(same), rows));
}

class RunLoop {
 public:
  RunLoop(const RunConfig& config, Control& control, EventWriter& events)
      : config_(config), control_(control), events_(events), start_(SteadyClock::now()) {}

  // The phase in which it ended, for Classify.
  Phase phase() const { return phase_; }
  int64_t step() const { return state_.step; }

  absl::Status Go() {
    phase_ = Phase::kConfig;
    GRAFT_RETURN_IF_ERROR(CheckSupported());
    phase_ = Phase::kModel;
    GRAFT_ASSIGN_OR_RETURN(model_, OpenModel(config_.model.path, config_.dataset.chat_template));
    phase_ = Phase::kData;
    GRAFT_ASSIGN_OR_RETURN(data_, PrepareData(config_, *model_));
    phase_ = Phase::kModel;
    GRAFT_RETURN_IF_ERROR(Build());
    phase_ = Phase::kResume;
    if (!config_.resume_from.empty()) GRAFT_RETURN_IF_ERROR(Resume());
    Announce();
    phase_ = Phase::kTrain;
    GRAFT_RETURN_IF_ERROR(Train());
    return Finish();
  }

 private:
  absl::Status CheckSupported() const {
    const ParallelismConfig& p = config_.parallelism;
    if (p.world > 1) {
      return absl::UnimplementedError(absl::StrCat(
          "parallelism.world is ", p.world,
          "; this trainer runs on one rank (tensor, pipeline, context, expert and data "
          "parallelism are not there)"));
    }
    const TuningConfig& t = config_.tuning;
    if (config_.precision == Precision::kBf16) {
      return absl::UnimplementedError("precision bf16 is not there on CPUs; use auto or fp32");
    }
    if (t.bias != LoraBias::kNone) {
      return absl::UnimplementedError("tuning.bias other than none is not there");
    }
    if (!t.modules_to_save.empty()) {
      return absl::UnimplementedError("tuning.modules_to_save is not there");
    }
    if (t.dora && t.dropout > 0) {
      return absl::UnimplementedError("tuning.dora together with tuning.dropout is not there");
    }
    return absl::OkStatus();
  }

  absl::Status Build() {
    model::BuildOptions options;
    const TuningConfig& t = config_.tuning;
    if (t.kind == TuningKind::kAllWeights) {
      options.train = model::Train::kAllWeights;
    } else {
      options.train = model::Train::kLora;
      options.lora = {.rank = t.rank,
                      .alpha = t.alpha,
                      .dropout = t.dropout,
                      .rslora = t.rslora,
                      .dora = t.dora,
                      .target_modules = t.target_modules,
                      .seed = static_cast<uint64_t>(t.init_seed.value_or(config_.seed))};
    }
    absl::Status built;
    GRAFT_RETURN_IF_ERROR(model::TorchCall("loading the model", [&] {
      auto decoder = model::BuildDecoder(model_->description, *model_->reader, options);
      built = decoder.status();
      if (decoder.ok()) decoder_ = *std::move(decoder);
    }));
    GRAFT_RETURN_IF_ERROR(built);
    if (config_.activation_checkpointing == ActivationCheckpointing::kFull) {
      decoder_->set_recompute(model::Recompute::kLayers);
    }
    GRAFT_ASSIGN_OR_RETURN(optimizer_, MakeOptimizer(config_.optimizer, decoder_->store()));
    GRAFT_ASSIGN_OR_RETURN(Schedule schedule,
                           Schedule::Create(config_.schedule, data_->total_steps));
    schedule_.emplace(std::move(schedule));
    engine_ = std::make_unique<LocalEngine>(config_, *decoder_, *optimizer_);
    state_.identity = IdentityOf(config_, data_->training.rows());
    if (!config_.checkpoint.folder.empty()) {
      GRAFT_RETURN_IF_ERROR(MakeDirectories(config_.checkpoint.folder));
      checkpoints_ = std::make_unique<Checkpoints>(
          Checkpoints::Options{config_.checkpoint.folder, config_.checkpoint.keep_last,
                               config_.checkpoint.keep_best},
          [this](const absl::StatusOr<SavedCheckpoint>& saved) { OnSaved(saved); });
    }
    return absl::OkStatus();
  }

  CheckpointContents Contents() {
    CheckpointContents contents;
    state_.optimizer_steps = optimizer_->steps();
    const Schedule::PlateauState plateau = schedule_->plateau();
    state_.plateau_factor = plateau.factor;
    state_.plateau_best = plateau.best;
    state_.plateau_bad = plateau.bad;
    state_.plateau_seen = plateau.seen;
    contents.state = state_;
    for (const model::Trained& t : decoder_->store().trained()) {
      contents.trained.emplace_back(t.name, t.value);
    }
    contents.optimizer = optimizer_->states();
    return contents;
  }

  absl::Status Resume() {
    GRAFT_ASSIGN_OR_RETURN(const std::string folder, FindCheckpoint(config_.resume_from));
    GRAFT_ASSIGN_OR_RETURN(const CheckpointState state, ReadCheckpointState(folder));
    if (state.identity != state_.identity) {
      return absl::FailedPreconditionError(absl::StrCat(
          folder,
          " is of another run: model, rows, tuning, batch, schedule, optimizer, seed or "
          "precision differ from run.json"));
    }
    const CheckpointContents contents = Contents();
    GRAFT_RETURN_IF_ERROR(ReadCheckpointTensors(folder, contents.trained, contents.optimizer));
    state_ = state;
    optimizer_->set_steps(state.optimizer_steps);
    schedule_->set_plateau(
        {state.plateau_factor, state.plateau_best, state.plateau_bad, state.plateau_seen});
    newest_checkpoint_ = folder;
    return absl::OkStatus();
  }

  void Announce() {
    RunEvent run;
    run.device = absl::StrCat("cpu, ", at::get_num_threads(), " threads");
    run.architecture = model_->description.facts.architecture;
    run.parameters = model_->description.facts.parameters;
    run.trainable_parameters = decoder_->store().trained_elements();
    const data::TokenStats& stats = data_->training.stats();
    run.training_rows = data_->training.rows();
    run.validation_rows = data_->validation.has_value() ? data_->validation->rows() : 0;
    run.tokens_per_epoch = stats.tokens;
    run.supervised_tokens_per_epoch = stats.supervised_tokens;
    run.truncated_rows = stats.truncated_rows;
    run.skipped_rows = stats.dropped_empty + stats.dropped_overlong + stats.bad_rows;
    run.total_steps = data_->total_steps;
    run.first_step = state_.step;
    run.start_seconds = SecondsSince(start_);
    run.config = WriteConfig(config_);
    events_.Write(std::move(run));
    for (const data::DatasetWarning& warning : stats.warnings) {
      events_.Warn(warning.code, warning.message);
    }
  }

  absl::Status Train() {
    while (state_.step < data_->total_steps) {
      if (control_.terminate() || control_.pause()) {
        reason_ = control_.pause() ? DoneReason::kPaused : DoneReason::kTerminated;
        phase_ = Phase::kStore;
        return SaveCheckpoint();
      }
      GRAFT_RETURN_IF_ERROR(OneStep());
      const bool epoch_end = IsEpochEnd(state_.step);
      GRAFT_RETURN_IF_ERROR(MaybeEvaluate(epoch_end));
      GRAFT_RETURN_IF_ERROR(MaybeCheckpoint(epoch_end));
      if (stop_early_) {
        reason_ = DoneReason::kEarlyStopped;
        return absl::OkStatus();
      }
    }
    return absl::OkStatus();
  }

  // Whether an epoch ends with the first `steps` steps.
  bool IsEpochEnd(int64_t steps) const {
    if (steps == data_->total_steps) return true;
    const double per_epoch = data_->steps_per_epoch;
    return std::floor(static_cast<double>(steps) / per_epoch) >
           std::floor(static_cast<double>(steps - 1) / per_epoch);
  }

  absl::Status OneStep() {
    const auto begin = SteadyClock::now();
    const data::StepBatch batch = data_->plan->Step(state_.step, 0);
    const double data_seconds = SecondsSince(begin);
    const double learning_rate = schedule_->LearningRate(state_.step);
    GRAFT_ASSIGN_OR_RETURN(const StepResult result, engine_->Step(batch, learning_rate));
    ++state_.step;
    state_.loss = result.loss;
    if (result.split) {
      events_.Warn("MICRO_BATCH_SPLIT",
                   "memory did not suffice; micro-batches are halved from this step on",
                   state_.step);
    }
    StepEvent event;
    event.step = state_.step;
    event.total_steps = data_->total_steps;
    event.epoch = static_cast<double>(state_.step) / data_->steps_per_epoch;
    event.loss = result.loss;
    event.grad_norm = result.grad_norm;
    event.learning_rate = learning_rate;
    event.tokens = batch.tokens;
    event.supervised_tokens = batch.supervised_tokens;
    event.seconds = SecondsSince(begin);
    event.tokens_per_second = static_cast<double>(batch.tokens) / event.seconds;
    event.data_seconds = data_seconds;
    event.forward_seconds = result.forward_seconds;
    event.backward_seconds = result.backward_seconds;
    event.optimizer_seconds = result.optimizer_seconds;
    event.communication_seconds = result.communication_seconds;
    event.peak_memory_bytes = PeakResidentBytes();
    event.gflops = StepFlops(decoder_->spec(), *decoder_, batch) / event.seconds * 1e-9;
    event.skipped = result.skipped;
    if (state_.step % config_.log_interval == 0 || state_.step == data_->total_steps ||
        result.skipped) {
      events_.Write(event);
    }
    return CountSkipped(result, batch);
  }

  absl::Status CountSkipped(const StepResult& result, const data::StepBatch& batch) {
    if (!result.skipped) {
      state_.skipped_in_a_row = 0;
      return absl::OkStatus();
    }
    std::string rows;
    for (const data::MicroBatch& micro : batch.micro_batches) {
      for (int32_t sequence : micro.sequences) {
        absl::StrAppend(&rows, rows.empty() ? "" : ", ", data_->training.source_row(sequence));
      }
    }
    const std::string message = absl::StrCat(
        "step ", state_.step, " changed nothing: ", result.skip_reason, "; its rows are ", rows);
    events_.Warn("STEP_SKIPPED", message, state_.step);
    if (++state_.skipped_in_a_row > config_.guards.max_skipped) {
      return absl::AbortedError(absl::StrCat(state_.skipped_in_a_row,
                                             " steps in a row were skipped; the last: ", message));
    }
    return absl::OkStatus();
  }

  absl::Status MaybeEvaluate(bool epoch_end) {
    if (!data_->validation_plan.has_value()) return absl::OkStatus();
    const int64_t interval = config_.evaluation.interval;
    const bool due = interval > 0 ? state_.step % interval == 0 : epoch_end;
    if (!due && state_.step != data_->total_steps) return absl::OkStatus();
    GRAFT_ASSIGN_OR_RETURN(const EvalResult result, engine_->Evaluate(*data_->validation_plan));
    const bool best = !state_.best_validation_loss.has_value() ||
                      result.loss < *state_.best_validation_loss - config_.evaluation.min_delta;
    const bool rises = state_.validation_loss.has_value() && result.loss > *state_.validation_loss;
    state_.validation_loss = result.loss;
    schedule_->ObserveValidation(result.loss);
    if (best) {
      state_.best_validation_loss = result.loss;
      state_.best_step = state_.step;
      state_.bad_evaluations = 0;
    } else {
      ++state_.bad_evaluations;
    }
    EvalEvent event;
    event.step = state_.step;
    event.epoch = static_cast<double>(state_.step) / data_->steps_per_epoch;
    event.loss = result.loss;
    event.perplexity = std::exp(std::min(result.loss, 700.0));
    event.supervised_tokens = result.supervised_tokens;
    event.seconds = result.seconds;
    event.best = best;
    events_.Write(event);
    if (rises && state_.bad_evaluations >= 2 && !warned_overfitting_) {
      warned_overfitting_ = true;
      events_.Warn("OVERFITTING",
                   absl::StrCat("validation loss rises since step ", state_.best_step, ", whose ",
                                *state_.best_validation_loss, " is the best so far"),
                   state_.step);
    }
    if (config_.evaluation.patience > 0) {
      stop_early_ = state_.bad_evaluations >= config_.evaluation.patience;
      if (best && config_.evaluation.restore_best) KeepBest();
    }
    return Samples();
  }

  // The best numbers so far, for an output that is not the last ones.
  void KeepBest() { best_values_ = decoder_->store().values().clone(); }

  absl::Status Samples() {
    for (const std::string& prompt : config_.evaluation.sample_prompts) {
      GRAFT_ASSIGN_OR_RETURN(const std::string text, AnswerOnce(*model_, *decoder_, prompt,
                                                                config_.evaluation.sample_tokens));
      events_.Write(SampleEvent{state_.step, prompt, text});
    }
    return absl::OkStatus();
  }

  absl::Status MaybeCheckpoint(bool epoch_end) {
    if (checkpoints_ == nullptr) {
      control_.TakeCheckpointRequest();
      return absl::OkStatus();
    }
    const int64_t interval = config_.checkpoint.interval;
    const bool due = interval > 0 ? state_.step % interval == 0 : epoch_end;
    const bool asked = control_.TakeCheckpointRequest();
    if (!due && !asked && state_.step != data_->total_steps) return absl::OkStatus();
    return SaveCheckpoint();
  }

  absl::Status SaveCheckpoint() {
    if (checkpoints_ == nullptr) return absl::OkStatus();
    const auto begin = SteadyClock::now();
    const Phase before = phase_;
    phase_ = Phase::kStore;
    saving_ = {state_, 0};
    GRAFT_RETURN_IF_ERROR(checkpoints_->Save(Contents()));
    saving_.second = SecondsSince(begin);
    phase_ = before;
    return absl::OkStatus();
  }

  // On the writing thread. The next Save waits for it, so `saving_` stays.
  void OnSaved(const absl::StatusOr<SavedCheckpoint>& saved) {
    if (!saved.ok()) {
      events_.Warn("CHECKPOINT_FAILED", std::string(saved.status().message()));
      return;
    }
    CheckpointEvent event;
    event.step = saved->step;
    event.folder = saved->folder;
    event.bytes = saved->bytes;
    event.loss = saving_.first.loss;
    event.validation_loss = saving_.first.validation_loss;
    event.best = saving_.first.best_step == saved->step;
    event.blocking_seconds = saving_.second;
    event.seconds = saved->seconds;
    events_.Write(event);
    newest_checkpoint_ = saved->folder;
  }

  absl::Status Finish() {
    phase_ = Phase::kStore;
    if (checkpoints_ != nullptr) GRAFT_RETURN_IF_ERROR(checkpoints_->Wait());
    DoneEvent done;
    const bool ended = reason_ == DoneReason::kCompleted || reason_ == DoneReason::kEarlyStopped;
    if (ended && !config_.output.folder.empty()) {
      if (best_values_.defined()) decoder_->store().values().copy_(best_values_);
      absl::Status written;
      GRAFT_RETURN_IF_ERROR(model::TorchCall(
          "writing the output", [&] { written = WriteOutput(config_, *model_, *decoder_); }));
      GRAFT_RETURN_IF_ERROR(written);
      done.output_folder = config_.output.folder;
    }
    done.reason = reason_;
    done.step = state_.step;
    done.loss = state_.loss;
    done.validation_loss =
        best_values_.defined() ? state_.best_validation_loss : state_.validation_loss;
    done.checkpoint_folder = newest_checkpoint_;
    done.seconds = SecondsSince(start_);
    done.peak_memory_bytes = PeakResidentBytes();
    events_.Write(done);
    return absl::OkStatus();
  }

  const RunConfig& config_;
  Control& control_;
  EventWriter& events_;
  const SteadyClock::time_point start_;
  Phase phase_ = Phase::kConfig;

  std::unique_ptr<ModelSource> model_;
  std::unique_ptr<TrainingData> data_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<Schedule> schedule_;
  std::unique_ptr<Engine> engine_;

  CheckpointState state_;
  at::Tensor best_values_;
  bool stop_early_ = false;
  bool warned_overfitting_ = false;
  DoneReason reason_ = DoneReason::kCompleted;
  std::pair<CheckpointState, double> saving_;  // what is being written, and how long a step waited
  std::string newest_checkpoint_;              // the writer sets it; read after Wait alone
  std::unique_ptr<Checkpoints> checkpoints_;   // last: its thread uses what stands above
};

}  // namespace

absl::Status Run(const RunConfig& config, Control& control, EventWriter& events, Clock& clock) {
  if (config.threads > 0) at::set_num_threads(static_cast<int>(config.threads));
  RunLoop loop(config, control, events);
  const absl::Status status = loop.Go();
  if (!status.ok()) {
    const RunFailure failure = Classify(loop.phase(), status);
    events.Write(
        ErrorEvent{failure.code, std::string(status.message()), failure.hint, loop.step()});
  }
  return status;
}

}  // namespace graft::trainer
