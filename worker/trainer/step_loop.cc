#include "worker/trainer/step_loop.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <sys/resource.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "worker/model/decoder_build.h"
#include "worker/model/torch_boundary.h"
#include "worker/parallel/reducer.h"
#include "worker/spec/estimate.h"
#include "worker/spec/layout.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/compute_device.h"
#include "worker/trainer/elapsed.h"
#include "worker/trainer/engine.h"
#include "worker/trainer/flops.h"
#include "worker/trainer/health.h"
#include "worker/trainer/heap.h"
#include "worker/trainer/model_export.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/optimizer.h"
#include "worker/trainer/parallel_engine.h"
#include "worker/trainer/precision.h"
#include "worker/trainer/rank_gang.h"
#include "worker/trainer/run_failure.h"
#include "worker/trainer/run_plan.h"
#include "worker/trainer/schedule.h"
#include "worker/trainer/sharded_state.h"
#include "worker/trainer/starting_weights.h"
#include "worker/trainer/training_data.h"
#include "worker/trainer/validation.h"

namespace graft::trainer {
namespace {

int64_t PeakResidentBytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

constexpr int64_t kSplitRowsTold = 1000;
constexpr int64_t kJudgedSteps = 8;  // that a verdict on the layout is made from

class RunLoop {
 public:
  RunLoop(const RunConfig& config, Control& control, EventWriter& events,
          const model::Accelerator* accelerator)
      : config_(config),
        control_(control),
        events_(events),
        accelerator_(accelerator),
        start_(SteadyClock::now()),
        gang_(config, events) {}

  // Tells the other ranks and whoever reads the events.
  void Fail(const absl::Status& status) {
    gang_.Fail(status);
    const RunFailure failure = Classify(phase_, status);
    events_.Write(
        ErrorEvent{failure.code, std::string(status.message()), failure.hint, state_.step});
  }

  absl::Status Go() {
    phase_ = Phase::kConfig;
    GRAFT_ASSIGN_OR_RETURN(device_,
                           ChooseDevice(config_.device, config_.parallelism.rank, accelerator_));
    if (device_.types.gpu) {
      // What is asked for without a number is this rank's own.
      c10::impl::VirtualGuardImpl(device_.device.type()).setDevice(device_.device);
    }
    compute_ = ChooseCompute(WantedPrecision(config_, device_.types), device_.types);
    scaler_ = LossScaler(compute_.precision == Precision::kFp16);
    GRAFT_RETURN_IF_ERROR(CheckSupported(config_));
    phase_ = Phase::kModel;
    GRAFT_ASSIGN_OR_RETURN(model_, OpenModel(config_.model.path, config_.dataset.chat_template));
    phase_ = Phase::kGather;
    GRAFT_RETURN_IF_ERROR(gang_.Gather(model_->description.spec, device_.device, accelerator_));
    phase_ = Phase::kData;
    GRAFT_ASSIGN_OR_RETURN(data_, PrepareData(config_, *model_));
    phase_ = Phase::kModel;
    GRAFT_RETURN_IF_ERROR(Build());
    if (!config_.resume_from.empty()) {
      phase_ = Phase::kResume;
      GRAFT_RETURN_IF_ERROR(Resume());
    } else if (!config_.start_from.empty()) {
      phase_ = Phase::kStart;
      GRAFT_RETURN_IF_ERROR(OpenStart());
    }
    Announce();
    phase_ = Phase::kTrain;
    GRAFT_RETURN_IF_ERROR(Train());
    return Finish();
  }

 private:
  // Before anything is computed there.
  void TakeDevice() {
    if (!device_.types.gpu) return;
    // The same run twice gives the same numbers: sums in one order, also where that takes longer.
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
    const absl::Status taken = TakeKernels(device_, *accelerator_);
    if (!taken.ok()) {
      events_.Warn("KERNELS_NOT_USED",
                   absl::StrCat("ATen's kernels are used instead: ", taken.message()));
    }
  }

  int64_t PeakBytes() const {
    return device_.types.gpu ? accelerator_->PeakBytes(device_.device.index())
                             : PeakResidentBytes();
  }

  // Of the heap before the first step: what a forward keeps, where another core has the time.
  int64_t WarmBytes(Freed freed) const {
    if (device_.types.gpu || freed == Freed::kGoesBack || at::get_num_threads() < 2) {
      return 0;
    }
    return estimate_.Of("activations");
  }

  parallel::World* world() { return gang_.world(); }

  RankRefs Refs() { return {world(), reducer_.get()}; }

  absl::Status BuildModel() {
    const spec::ModelDescription& description = model_->description;
    if (world() == nullptr) {
      GRAFT_ASSIGN_OR_RETURN(decoder_,
                             model::BuildDecoder(description, *model_->reader, build_options_));
      return absl::OkStatus();
    }
    GRAFT_ASSIGN_OR_RETURN(
        RankModel built,
        BuildRank(description, *model_->reader, build_options_, *world(),
                  {.zero = config_.parallelism.zero, .layers = description.spec.num_layers()}));
    decoder_ = std::move(built.decoder);
    reducer_ = std::move(built.reducer);
    return absl::OkStatus();
  }

  absl::Status Build() {
    build_options_ = BuildOptionsOf(config_, compute_, model_->description.facts);
    build_options_.device = device_.device;
    if (world() != nullptr) build_options_.division = gang_.part().division;
    TakeDevice();
    const model::Recompute recompute = RecomputeOf(config_.activation_checkpointing);
    const bool spares = recompute != model::Recompute::kNone || config_.parallelism.zero >= 3;
    const Freed freed = spares ? Freed::kGoesBack : Freed::kStays;
    PlanHeap(freed);
    estimate_ = EstimateMemory(config_, compute_, *model_, *data_->plan);
    absl::Status built;
    GRAFT_RETURN_IF_ERROR(model::TorchCall("loading the model", [&] {
      const HeapWarmer warmer(WarmBytes(freed));
      built = BuildModel();
    }));
    GRAFT_RETURN_IF_ERROR(built);
    GRAFT_RETURN_IF_ERROR(CheckOutput(config_, *decoder_));
    decoder_->set_recompute(recompute);
    GRAFT_ASSIGN_OR_RETURN(
        optimizer_, MakeOptimizer(config_.optimizer,
                                  reducer_ != nullptr ? reducer_->owned() : decoder_->store()));
    GRAFT_ASSIGN_OR_RETURN(Schedule schedule,
                           Schedule::Create(config_.schedule, data_->total_steps));
    schedule_.emplace(std::move(schedule));
    if (world() != nullptr) {
      engine_ = std::make_unique<ParallelEngine>(config_, gang_.part(), *world(), *decoder_,
                                                 *reducer_, *optimizer_, scaler_);
    } else {
      engine_ = std::make_unique<LocalEngine>(config_, *decoder_, *optimizer_, scaler_);
    }
    const bool elsewhere = reducer_ != nullptr && reducer_->weights_come_and_go();
    GRAFT_ASSIGN_OR_RETURN(std::vector<ReportRow> questions,
                           ChooseSamples(config_, *model_, data_->split_rows, events_));
    samples_.emplace(std::move(questions), *model_, *engine_, gang_, events_);
    validation_ = std::make_unique<Validation>(
        Validation::Parts{config_, *data_, elsewhere ? reducer_->owned() : decoder_->store(),
                          *engine_, *samples_, *schedule_, gang_, events_, state_});
    state_.identity = IdentityOf(config_, compute_, data_->training_rows);
    if (!config_.checkpoint.folder.empty()) {
      GRAFT_RETURN_IF_ERROR(MakeDirectories(config_.checkpoint.folder));
      checkpoints_ = std::make_unique<Checkpoints>(
          Checkpoints::Options{config_.checkpoint.folder, config_.checkpoint.keep_last,
                               config_.checkpoint.keep_best, gang_.ForFiles()},
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
    state_.loss_scale = scaler_.scale();
    state_.loss_scale_good_steps = scaler_.good_steps();
    contents.state = state_;
    contents.trained = TrainedParts(*decoder_, Refs());
    contents.optimizer = OptimizerParts(*optimizer_, *decoder_, Refs());
    if (const at::Tensor& best = validation_->best_values(); best.defined()) {
      contents.best = TrainedParts(*decoder_, Refs(), best);
    }
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
    // Each rank may have read a folder of its own.
    GRAFT_RETURN_IF_ERROR(SameOnAll(gang_.ForFiles(), "the checkpoint's step", state.step));
    if (HasBest(folder) && validation_->keeps_best()) validation_->KeepAsBest();
    GRAFT_RETURN_IF_ERROR(ReadCheckpointTensors(folder, Contents()));
    if (reducer_ != nullptr) reducer_->Restored();
    state_ = state;
    optimizer_->set_steps(state.optimizer_steps);
    schedule_->set_plateau(
        {state.plateau_factor, state.plateau_best, state.plateau_bad, state.plateau_seen});
    scaler_.Restore(state.loss_scale, state.loss_scale_good_steps);
    newest_checkpoint_ = folder;
    return absl::OkStatus();
  }

  absl::Status OpenStart() {
    absl::Status status;
    GRAFT_RETURN_IF_ERROR(model::TorchCall("opening start_from", [&] {
      absl::StatusOr<StartingWeights> opened =
          StartingWeights::Open(config_, *model_, build_options_);
      status = opened.ok() ? opened->Check(TrainedParts(*decoder_, Refs())) : opened.status();
      if (status.ok()) starting_ = *std::move(opened);
    }));
    return status;
  }

  // Behind the evaluation of the base, which is the model without them.
  absl::Status TakeStart() {
    absl::Status filled;
    GRAFT_RETURN_IF_ERROR(model::TorchCall("taking start_from", [&] {
      filled = starting_->Fill(TrainedParts(*decoder_, Refs()));
      starting_.reset();
      if (filled.ok() && reducer_ != nullptr) reducer_->Restored();
    }));
    return filled;
  }

  void Announce() {
    RunEvent run;
    if (const char* trace = std::getenv("TRACEPARENT")) run.traceparent = trace;
    run.device = device_.types.gpu ? absl::StrCat(device_.device.str(), ", ", device_.name)
                                   : absl::StrCat("cpu, ", at::get_num_threads(), " threads");
    absl::StrAppend(&run.device, ", ", EnumName(compute_.precision));
    if (world() != nullptr) {
      absl::StrAppend(&run.device, ", rank ", world()->rank(), " of ", world()->size(), " (",
                      spec::LayoutText(world()->layout()), ", ", world()->TransportText(), ")");
    }
    run.architecture = model_->description.facts.architecture;
    run.parameters = model_->description.facts.parameters;
    run.trainable_parameters = decoder_->store().trained_elements();
    const data::TokenStats& stats = data_->stats;
    run.training_rows = data_->training_rows;
    run.validation_rows = data_->validation_rows;
    run.split_rows = Spread(data_->split_rows, kSplitRowsTold);
    run.tokens_per_epoch = stats.tokens;
    run.supervised_tokens_per_epoch = stats.supervised_tokens;
    run.truncated_rows = stats.truncated_rows;
    run.skipped_rows = stats.dropped_empty + stats.dropped_overlong + stats.bad_rows;
    run.total_steps = data_->total_steps;
    run.estimated_peak_bytes = estimate_.total() + spec::kCpuResidentExtraBytes;
    run.first_step = state_.step;
    run.base_validation_loss = state_.base_validation_loss;
    run.validation_loss = state_.validation_loss;
    run.best_validation_loss = state_.best_validation_loss;
    run.best_step = state_.best_step;
    run.start_seconds = SecondsSince(start_);
    run.config = WriteConfig(config_);
    events_.Write(std::move(run));
    if (!compute_.warning.empty()) events_.Warn("PRECISION", compute_.warning);
    for (const data::DatasetWarning& warning : stats.warnings) {
      events_.Warn(warning.code, warning.message);
    }
  }

  absl::Status Train() {
    GRAFT_RETURN_IF_ERROR(validation_->EvaluateBase());
    if (starting_.has_value()) GRAFT_RETURN_IF_ERROR(TakeStart());
    while (state_.step < data_->total_steps) {
      const double seconds = config_.checkpoint.interval_seconds;
      const bool late = seconds > 0 && SecondsSince(saved_at_) >= seconds;
      const bool asked = control_.TakeCheckpointRequest() || late;
      GRAFT_ASSIGN_OR_RETURN(told_, gang_.Agree({control_.terminate(), control_.pause(), asked,
                                                 control_.finish(), control_.finish_with_best()}));
      if (told_.terminate || told_.pause) {
        reason_ = told_.pause ? DoneReason::kPaused : DoneReason::kTerminated;
        phase_ = Phase::kStore;
        return SaveCheckpoint();
      }
      if (told_.finish && state_.step > 0) return FinishEarly();
      GRAFT_RETURN_IF_ERROR(OneStep());
      GRAFT_RETURN_IF_ERROR(validation_->AfterStep(state_.step == data_->total_steps));
      GRAFT_RETURN_IF_ERROR(MaybeCheckpoint());
      if (validation_->stop_early()) {
        reason_ = DoneReason::kEarlyStopped;
        return absl::OkStatus();
      }
    }
    return absl::OkStatus();
  }

  // As asked for: done with what has been learnt.
  absl::Status FinishEarly() {
    GRAFT_RETURN_IF_ERROR(validation_->AtEnd());
    GRAFT_RETURN_IF_ERROR(SaveCheckpoint());
    const bool newest_is_best = state_.best_step == state_.step;
    return told_.finish_with_best && !newest_is_best ? FindBest() : absl::OkStatus();
  }

  // The numbers of the best evaluation, from its checkpoint where they are not kept.
  absl::Status FindBest() {
    if (validation_->best_values().defined()) return absl::OkStatus();
    if (checkpoints_ != nullptr) GRAFT_RETURN_IF_ERROR(checkpoints_->Wait());
    const std::string folder =
        JoinPath(config_.checkpoint.folder, CheckpointName(state_.best_step));
    const absl::Status here = state_.best_validation_loss.has_value()
                                  ? FindCheckpoint(folder).status()
                                  : absl::NotFoundError("no validation");
    if (Agree(gang_.ForFiles(), "the best checkpoint", here).ok()) {
      CheckpointContents contents;
      contents.trained = TrainedParts(*decoder_, Refs(), validation_->KeepAsBest());
      return ReadCheckpointTensors(folder, contents);
    }
    if (!gang_.first()) return absl::OkStatus();
    events_.Warn(
        "BEST_NOT_KEPT",
        state_.best_validation_loss.has_value()
            ? absl::StrCat("no checkpoint of step ", state_.best_step,
                           ", the best one, is there; the output is that of step ", state_.step)
            : absl::StrCat("without validation no step is the best; the output is that of "
                           "step ",
                           state_.step),
        state_.step);
    return absl::OkStatus();
  }

  absl::Status OneStep() {
    const auto begin = SteadyClock::now();
    const int64_t share = world() == nullptr ? 0 : world()->place().dp;
    const data::StepBatch batch = data_->plan->Step(state_.step, static_cast<int>(share));
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
    event.idle_seconds = result.idle_seconds;
    event.slowest_rank = result.slowest_rank;
    event.slowest_busy_seconds = result.slowest_busy_seconds;
    event.peak_memory_bytes = PeakBytes();
    event.gflops = StepFlops(decoder_->spec(), *decoder_, batch) / event.seconds * 1e-9;
    if (peak_flops_ > 0) event.mfu = event.gflops * 1e9 / peak_flops_;
    event.skipped = result.skipped;
    JudgeStall(result, event.seconds);
    if (state_.step % config_.log_interval == 0 || state_.step == data_->total_steps ||
        result.skipped) {
      events_.Write(event);
    }
    // Behind the first step, which people wait for; its own share would say little.
    if (peak_flops_ < 0) peak_flops_ = PeakFlopsOf(device_);
    return CountSkipped(result, batch);
  }

  // Says once where the time goes, from steps that are past the first ones.
  void JudgeStall(const StepResult& result, double seconds) {
    if (world() == nullptr || !gang_.first() || judged_ > kJudgedSteps) return;
    if (++judged_ > 1) {  // the first step is another
      shares_.seconds += seconds;
      shares_.busy_seconds += result.busy_seconds;
      shares_.tensor_seconds += result.tensor_seconds;
      shares_.sum_seconds += result.communication_seconds - result.tensor_seconds;
      shares_.idle_seconds += result.idle_seconds;
    }
    if (judged_ <= kJudgedSteps) return;
    const spec::TrainingPlan plan = PlanOf(config_, compute_);
    const spec::CostModel cost(model_->description);
    const auto verdict = StallVerdict(cost, plan, shares_);
    if (verdict.has_value()) events_.Warn("LAYOUT_STALLS", *verdict, state_.step);
  }

  absl::Status CountSkipped(const StepResult& result, const data::StepBatch& batch) {
    if (!result.skipped) {
      state_.skipped_in_a_row = 0;
      return absl::OkStatus();
    }
    // How fp16 finds its scale; below 1 it is the numbers themselves that are at fault.
    if (result.overflowed && scaler_.scale() >= 1) return absl::OkStatus();
    std::string rows;
    for (const data::MicroBatch& micro : batch.micro_batches) {
      for (size_t i = 0; i < micro.sequences.size(); ++i) {
        absl::StrAppend(&rows, rows.empty() ? "" : ", ",
                        data_->training[micro.datasets[i]].source_row(micro.sequences[i]));
      }
    }
    const std::string message = absl::StrCat(
        "step ", state_.step, " changed nothing: ", result.skip_reason, "; its rows are ", rows);
    if (gang_.first()) events_.Warn("STEP_SKIPPED", message, state_.step);
    if (++state_.skipped_in_a_row > config_.guards.max_skipped) {
      return absl::AbortedError(absl::StrCat(state_.skipped_in_a_row,
                                             " steps in a row were skipped; the last: ", message));
    }
    return absl::OkStatus();
  }

  absl::Status MaybeCheckpoint() {
    if (checkpoints_ == nullptr) return absl::OkStatus();
    const CheckpointConfig& every = config_.checkpoint;
    const bool by_epochs =
        every.interval_epochs > 0 || (every.interval == 0 && every.interval_seconds == 0);
    const bool due = told_.checkpoint || state_.step == data_->total_steps ||
                     (every.interval > 0 && state_.step % every.interval == 0) ||
                     (by_epochs && data_->EndsPart(state_.step, every.interval_epochs));
    return due ? SaveCheckpoint() : absl::OkStatus();
  }

  absl::Status SaveCheckpoint() {
    if (checkpoints_ == nullptr) return absl::OkStatus();
    const auto begin = SteadyClock::now();
    const Phase before = phase_;
    phase_ = Phase::kStore;
    saving_ = {state_, 0};
    if (!validation_->evaluated(state_.step)) saving_.first.validation_loss.reset();
    saved_at_ = begin;
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

  // Writes what the run leaves behind; on the first rank alone where there are several.
  absl::Status Output() {
    std::unique_ptr<model::Decoder> whole;
    if (engine_->Divided()) {
      const bool merged = config_.tuning.kind == TuningKind::kLoraMerged;
      GRAFT_ASSIGN_OR_RETURN(whole, GatherDecoder(*model_, build_options_, *decoder_, Refs(),
                                                  gang_.ForFiles(), config_.output.folder, merged));
    }
    if (!gang_.first()) return absl::OkStatus();
    return WriteOutput(config_, *model_, whole != nullptr ? *whole : *decoder_);
  }

  absl::Status Finish() {
    phase_ = Phase::kStore;
    gang_.EndTraining();
    if (checkpoints_ != nullptr) GRAFT_RETURN_IF_ERROR(checkpoints_->Wait());
    DoneEvent done;
    bool restored = false;
    const bool ended = reason_ == DoneReason::kCompleted || reason_ == DoneReason::kEarlyStopped;
    if (ended && !config_.output.folder.empty()) {
      restored = validation_->RestoreBest();
      absl::Status written;
      GRAFT_RETURN_IF_ERROR(model::TorchCall("writing the output", [&] { written = Output(); }));
      GRAFT_RETURN_IF_ERROR(written);
      done.output_folder = config_.output.folder;
    }
    done.reason = reason_;
    done.step = state_.step;
    done.loss = state_.loss;
    done.validation_loss = restored ? state_.best_validation_loss : state_.validation_loss;
    done.checkpoint_folder = newest_checkpoint_;
    done.seconds = SecondsSince(start_);
    done.peak_memory_bytes = PeakBytes();
    GRAFT_RETURN_IF_ERROR(gang_.FinishTogether());
    events_.Write(done);
    return absl::OkStatus();
  }

  const RunConfig& config_;
  Control& control_;
  EventWriter& events_;
  const model::Accelerator* const accelerator_;
  const SteadyClock::time_point start_;

  Phase phase_ = Phase::kConfig;
  SteadyClock::time_point saved_at_ = SteadyClock::now();
  Orders told_;
  DeviceChoice device_;
  ComputeChoice compute_;
  LossScaler scaler_{false};

  RankGang gang_;
  std::unique_ptr<ModelSource> model_;
  std::unique_ptr<TrainingData> data_;
  model::BuildOptions build_options_;
  spec::MemoryEstimate estimate_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<parallel::Reducer> reducer_;  // null where there is one rank
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<Schedule> schedule_;
  std::unique_ptr<Engine> engine_;

  CheckpointState state_;
  std::optional<StartingWeights> starting_;  // until they are taken
  std::optional<Samples> samples_;
  std::unique_ptr<Validation> validation_;
  double peak_flops_ = -1;  // of a product here; 0: not known, below: not asked yet
  int64_t judged_ = 0;      // steps that went into `shares_`, and the first
  StepShares shares_;
  DoneReason reason_ = DoneReason::kCompleted;
  std::pair<CheckpointState, double> saving_;  // what is being written, and how long a step waited
  std::string newest_checkpoint_;              // the writer sets it; read after Wait alone
  std::unique_ptr<Checkpoints> checkpoints_;   // last: its thread uses what stands above
};

}  // namespace

absl::Status Run(const RunConfig& config, Control& control, EventWriter& events, Clock& clock,
                 const model::Accelerator* accelerator) {
  if (config.threads > 0) at::set_num_threads(static_cast<int>(config.threads));
  RunLoop loop(config, control, events, accelerator);
  const absl::Status status = loop.Go();
  if (!status.ok()) loop.Fail(status);
  return status;
}

}  // namespace graft::trainer
