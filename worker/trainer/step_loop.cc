#include "worker/trainer/step_loop.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/model/decoder_build.h"
#include "worker/model/torch_boundary.h"
#include "worker/parallel/rendezvous.h"
#include "worker/parallel/watchdog.h"
#include "worker/parallel/world.h"
#include "worker/spec/estimate.h"
#include "worker/spec/layout.h"
#include "worker/trainer/adapter_files.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/engine.h"
#include "worker/trainer/flops.h"
#include "worker/trainer/generator.h"
#include "worker/trainer/health.h"
#include "worker/trainer/model_export.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/optimizer.h"
#include "worker/trainer/parallel_engine.h"
#include "worker/trainer/schedule.h"
#include "worker/trainer/sharded_state.h"
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
enum class Phase { kConfig, kModel, kGather, kData, kResume, kTrain, kStore };

// How long a rank that fails stays, so that the others hear of it from itself; and how long one
// whose collective broke waits to learn who is to blame. Together they stay below 30 s.
constexpr double kTellSeconds = 3;
constexpr double kLearnSeconds = 22;
constexpr int kExitFailed = 1;
constexpr int64_t kJudgedSteps = 8;  // that a verdict on the layout is made from

// What the agent hands to a rank beside run.json. The secret does not stay in the environment.
parallel::RendezvousOptions RendezvousOf(const ParallelismConfig& p) {
  parallel::RendezvousOptions options;
  options.rank = p.rank;
  options.world = p.world;
  options.address = p.rendezvous;
  options.attempt = p.attempt;
  int fd = -1;
  if (const char* given = std::getenv("GRAFT_RENDEZVOUS_FD");
      given != nullptr && absl::SimpleAtoi(given, &fd)) {
    options.listen_fd = fd;
  }
  if (const char* secret = std::getenv("GRAFT_ATTEMPT_SECRET"); secret != nullptr) {
    options.secret = absl::HexStringToBytes(secret);
    unsetenv("GRAFT_ATTEMPT_SECRET");
  }
  return options;
}

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
    case Phase::kGather:
      if (absl::IsInvalidArgument(status)) {
        return {ErrorCode::kInvalidConfig, status, "mend the layout"};
      }
      return {ErrorCode::kRankLost, status, "start all ranks of the attempt anew"};
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
  if (absl::IsDataLoss(status) || absl::IsUnavailable(status)) {
    return {ErrorCode::kRankLost, status, "the run goes on from its last checkpoint"};
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
  same.parallelism = {};  // another layout gives the same run
  same.output = {};
  same.checkpoint = {};
  same.resume_from.clear();
  same.evaluation = {};
  same.events_fd = 1;
  same.log_interval = 1;
  return Sha256::HexOf(absl::StrCat(FormatRunConfig(same), rows));
}

model::TrainedBias BiasOf(LoraBias bias) {
  if (bias == LoraBias::kNone) return model::TrainedBias::kNone;
  return bias == LoraBias::kAll ? model::TrainedBias::kAll : model::TrainedBias::kAdapted;
}

// The fullest micro-batch of the first steps, as a plan of one sequence.
void PlanOfBatches(const data::BatchPlan& batches, spec::TrainingPlan* plan) {
  constexpr int64_t kLookedAt = 64;
  plan->micro_batch = 1;
  plan->sequence = 1;
  for (int64_t step = 0; step < std::min(kLookedAt, batches.steps()); ++step) {
    for (const data::MicroBatch& micro : batches.Step(step, 0).micro_batches) {
      const auto tokens = static_cast<int64_t>(micro.tokens.size());
      if (tokens <= plan->sequence) continue;
      plan->sequence = tokens;
      plan->effective_length = std::max<int64_t>(1, micro.max_segment);
      plan->supervised_share =
          static_cast<double>(micro.supervised_tokens) / static_cast<double>(tokens);
    }
  }
}

// By the same model of memory as the scheduler's, for this very run.
int64_t EstimatePeakBytes(const RunConfig& config, const ModelSource& model,
                          const data::BatchPlan& batches) {
  spec::TrainingPlan plan;
  const bool all = config.tuning.kind == TuningKind::kAllWeights;
  plan.tuning = all ? spec::Tuning::kAllWeights : spec::Tuning::kLora;
  plan.lora_rank = config.tuning.rank;
  switch (config.optimizer.kind) {
    case OptimizerKind::kAdamW:
      plan.optimizer = spec::Optimizer::kAdamW;
      break;
    case OptimizerKind::kAdamW8bit:
      plan.optimizer = spec::Optimizer::kAdamW8bit;
      break;
    case OptimizerKind::kAdafactor:
      plan.optimizer = spec::Optimizer::kAdafactor;
      break;
    case OptimizerKind::kLion:
      plan.optimizer = spec::Optimizer::kLion;
      break;
    case OptimizerKind::kSgd:
      plan.optimizer =
          config.optimizer.momentum > 0 ? spec::Optimizer::kSgdMomentum : spec::Optimizer::kSgd;
      break;
  }
  plan.compute = plan.weights = spec::DType::kF32;
  if (const spec::Parameter* p = model.description.Find("layers.0.attn.o.weight");
      !all && p != nullptr && model.description.facts.quantized) {
    plan.weights = model.reader->StoredType(*p);
  }
  plan.global_batch = config.batch.global;
  PlanOfBatches(batches, &plan);
  if (config.activation_checkpointing == ActivationCheckpointing::kFull) {
    plan.recompute = spec::Recompute::kLayers;
  }
  plan.gpu = false;
  return spec::CostModel(model.description).Memory(plan).total() + spec::kCpuResidentExtraBytes;
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
    phase_ = Phase::kGather;
    if (config_.parallelism.world > 1) GRAFT_RETURN_IF_ERROR(Gather());
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

  // The run has failed with `status`. Returns what to say of it: where a collective broke, the
  // watchdog knows who is to blame and ends the process itself.
  void TellOthers(const absl::Status& status) {
    if (watchdog_ == nullptr) return;
    if (world_->activity().Now().broken) {
      watchdog_->Stay(kLearnSeconds);
    } else {
      watchdog_->Fail(std::string(status.message()));
      watchdog_->FinishTogether(kTellSeconds);
    }
    watchdog_->Stop();
  }

 private:
  absl::Status CheckSupported() const {
    const ParallelismConfig& p = config_.parallelism;
    if (p.world > 1 && config_.optimizer.kind == OptimizerKind::kAdafactor &&
        (p.tp > 1 || p.zero > 0)) {
      return absl::UnimplementedError(
          "optimizer.kind adafactor together with parallelism.tp or parallelism.zero is not there: "
          "its rows and columns are of whole tensors; use adamw, lion or sgd");
    }
    if (p.world > 1 && config_.optimizer.kind == OptimizerKind::kAdamW8bit) {
      return absl::UnimplementedError(
          "optimizer.kind adamw_8bit on more than one rank is not there: its blocks are of whole "
          "tensors; use adamw, lion or sgd");
    }
    if (config_.precision == Precision::kBf16) {
      return absl::UnimplementedError("precision bf16 is not there on CPUs; use auto or fp32");
    }
    return absl::OkStatus();
  }

  bool first_rank() const { return config_.parallelism.rank == 0; }

  // Finds the other ranks.
  absl::Status Gather() {
    const ParallelismConfig& p = config_.parallelism;
    const spec::DecoderSpec& spec = model_->description.spec;
    const spec::LayoutCheck check =
        spec::CheckLayout(spec, {.gpus = p.world,
                                 .tp = p.tp,
                                 .pp = p.pp,
                                 .cp = p.cp,
                                 .ep = p.ep,
                                 .micro_batch = config_.batch.micro,
                                 .global_batch = config_.batch.global,
                                 .sequence = config_.dataset.max_seq_length});
    GRAFT_RETURN_IF_ERROR(check.status());
    if (first_rank()) {
      for (const spec::LayoutRemark& warning : check.warnings) {
        events_.Warn("LAYOUT", warning.message);
      }
    }
    GRAFT_ASSIGN_OR_RETURN(const parallel::StorePtr store, parallel::Join(RendezvousOf(p)));
    parallel::WorldOptions options;
    options.layout = check.layout;
    options.rank = p.rank;
    options.address = p.address;
    options.kv_heads = spec.attention.kv_heads;
    GRAFT_ASSIGN_OR_RETURN(world_, parallel::World::Create(options, store));
    watchdog_ = std::make_unique<parallel::Watchdog>(
        p.rank, p.world, store, world_->activity(),
        [this](const std::string& message, int64_t step) { OnLost(message, step); });
    GRAFT_ASSIGN_OR_RETURN(part_, PartOf(*world_, config_, spec));
    return absl::OkStatus();
  }

  // On the watchdog's thread, while this rank's own may wait in a collective that never returns.
  void OnLost(const std::string& message, int64_t step) {
    events_.Write(ErrorEvent{ErrorCode::kRankLost, message,
                             "the run goes on from its last checkpoint", step});
    events_.Close(absl::Seconds(2));
    LOG_ERROR("the run cannot go on", {{"why", message}});
    _exit(kExitFailed);
  }

  CheckpointGang Gang() {
    CheckpointGang gang;
    if (world_ == nullptr) return gang;
    gang.rank = world_->rank();
    gang.world = world_->size();
    gang.share = [this](const std::string& key, const std::string& own) {
      return world_->Share(key, own);
    };
    return gang;
  }

  RankRefs Refs() { return {world_.get(), reducer_.get()}; }

  absl::Status Build() {
    model::BuildOptions& options = build_options_;
    if (world_ != nullptr) options.division = part_.division;
    const TuningConfig& t = config_.tuning;
    if (t.kind == TuningKind::kAllWeights) {
      options.train = model::Train::kAllWeights;
    } else {
      options.train = model::Train::kLora;
      options.keep_blocks = model_->description.facts.quantized;
      options.lora = {.rank = t.rank,
                      .alpha = t.alpha,
                      .dropout = t.dropout,
                      .rslora = t.rslora,
                      .dora = t.dora,
                      .target_modules = t.target_modules,
                      .modules_to_save = t.modules_to_save,
                      .bias = BiasOf(t.bias),
                      .seed = static_cast<uint64_t>(t.init_seed.value_or(config_.seed))};
    }
    absl::Status built;
    GRAFT_RETURN_IF_ERROR(model::TorchCall("loading the model", [&] {
      auto decoder = model::BuildDecoder(model_->description, *model_->reader, options);
      built = decoder.status();
      if (decoder.ok()) decoder_ = *std::move(decoder);
    }));
    GRAFT_RETURN_IF_ERROR(built);
    GRAFT_RETURN_IF_ERROR(CheckOutput(config_, *decoder_));
    if (world_ != nullptr && decoder_->router_loss_coefficient > 0) {
      return absl::UnimplementedError(
          "the routers' load-balancing loss on more than one rank is not there; set "
          "output_router_logits to false in the model's config.json");
    }
    if (config_.activation_checkpointing == ActivationCheckpointing::kFull) {
      decoder_->set_recompute(model::Recompute::kLayers);
    }
    if (world_ != nullptr) {
      reducer_ = std::make_unique<parallel::Reducer>(
          *world_, decoder_->store(),
          parallel::Reducer::Options{.shard = config_.parallelism.zero > 0,
                                     .tied = decoder_->spec().tied_embeddings});
    }
    GRAFT_ASSIGN_OR_RETURN(
        optimizer_, MakeOptimizer(config_.optimizer,
                                  reducer_ != nullptr ? reducer_->owned() : decoder_->store()));
    GRAFT_ASSIGN_OR_RETURN(Schedule schedule,
                           Schedule::Create(config_.schedule, data_->total_steps));
    schedule_.emplace(std::move(schedule));
    if (world_ != nullptr) {
      engine_ = std::make_unique<ParallelEngine>(config_, part_, *world_, *decoder_, *reducer_,
                                                 *optimizer_);
    } else {
      engine_ = std::make_unique<LocalEngine>(config_, *decoder_, *optimizer_);
    }
    state_.identity = IdentityOf(config_, data_->training.rows());
    if (!config_.checkpoint.folder.empty()) {
      GRAFT_RETURN_IF_ERROR(MakeDirectories(config_.checkpoint.folder));
      checkpoints_ = std::make_unique<Checkpoints>(
          Checkpoints::Options{config_.checkpoint.folder, config_.checkpoint.keep_last,
                               config_.checkpoint.keep_best, Gang()},
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
    contents.trained = TrainedParts(*decoder_, Refs());
    contents.optimizer = OptimizerParts(*optimizer_, *decoder_, Refs());
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
    GRAFT_RETURN_IF_ERROR(
        ReadCheckpointTensors(folder, state.version, contents.trained, contents.optimizer));
    if (state.version < kCheckpointVersion) {
      if (world_ != nullptr) {
        return absl::FailedPreconditionError(absl::StrCat(folder, " has version ", state.version,
                                                          ", which one rank alone goes on from"));
      }
      GRAFT_RETURN_IF_ERROR(ReadFlatStates(folder, optimizer_->states()));
    }
    if (reducer_ != nullptr) reducer_->TakeValues();
    state_ = state;
    state_.version = kCheckpointVersion;
    optimizer_->set_steps(state.optimizer_steps);
    schedule_->set_plateau(
        {state.plateau_factor, state.plateau_best, state.plateau_bad, state.plateau_seen});
    newest_checkpoint_ = folder;
    return absl::OkStatus();
  }

  void Announce() {
    RunEvent run;
    run.device = absl::StrCat("cpu, ", at::get_num_threads(), " threads");
    if (world_ != nullptr) {
      absl::StrAppend(&run.device, ", rank ", world_->rank(), " of ", world_->size(), " (",
                      spec::LayoutText(world_->layout()), ")");
    }
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
    run.estimated_peak_bytes = EstimatePeakBytes(config_, *model_, *data_->plan);
    run.first_step = state_.step;
    run.start_seconds = SecondsSince(start_);
    run.config = WriteConfig(config_);
    events_.Write(std::move(run));
    for (const data::DatasetWarning& warning : stats.warnings) {
      events_.Warn(warning.code, warning.message);
    }
  }

  // What the base can do: nothing that training decides upon, so that the best of the run is one
  // that it has made.
  absl::Status EvaluateBase() {
    const bool wanted = config_.evaluation.at_start && data_->validation_plan.has_value();
    if (!wanted || state_.step > 0) return absl::OkStatus();
    GRAFT_ASSIGN_OR_RETURN(const EvalResult result, engine_->Evaluate(*data_->validation_plan));
    EvalEvent event;
    event.loss = result.loss;
    event.perplexity = std::exp(std::min(result.loss, 700.0));
    event.supervised_tokens = result.supervised_tokens;
    event.seconds = result.seconds;
    events_.Write(event);
    return absl::OkStatus();
  }

  absl::Status Train() {
    GRAFT_RETURN_IF_ERROR(EvaluateBase());
    while (state_.step < data_->total_steps) {
      GRAFT_RETURN_IF_ERROR(Listen());
      if (told_.terminate || told_.pause) {
        reason_ = told_.pause ? DoneReason::kPaused : DoneReason::kTerminated;
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

  // What this rank was told, or any rank: all obey at the same step.
  absl::Status Listen() {
    told_ = {control_.terminate(), control_.pause(), control_.TakeCheckpointRequest()};
    if (world_ == nullptr) return absl::OkStatus();
    return model::TorchCall("asking the ranks", [&] {
      at::Tensor flags = at::zeros({3}, at::kFloat);
      const bool own[] = {told_.terminate, told_.pause, told_.checkpoint};
      for (int64_t i = 0; i < 3; ++i) flags[i] = own[i] ? 1.0f : 0.0f;
      world_->all().AllReduce(flags, parallel::Reduce::kMax, "orders from outside");
      const auto all = flags.accessor<float, 1>();
      told_ = {all[0] > 0, all[1] > 0, all[2] > 0};
    });
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
    const int64_t share = world_ == nullptr ? 0 : world_->place().dp;
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
    event.peak_memory_bytes = PeakResidentBytes();
    event.gflops = StepFlops(decoder_->spec(), *decoder_, batch) / event.seconds * 1e-9;
    event.skipped = result.skipped;
    JudgeStall(result, event.seconds);
    if (state_.step % config_.log_interval == 0 || state_.step == data_->total_steps ||
        result.skipped) {
      events_.Write(event);
    }
    return CountSkipped(result, batch);
  }

  // Says once where the time goes, from steps that are past the first ones.
  void JudgeStall(const StepResult& result, double seconds) {
    if (world_ == nullptr || !first_rank() || judged_ > kJudgedSteps) return;
    if (++judged_ > 1) {  // the first step is another
      shares_.seconds += seconds;
      shares_.busy_seconds += result.busy_seconds;
      shares_.tensor_seconds += result.tensor_seconds;
      shares_.sum_seconds += result.communication_seconds - result.tensor_seconds;
      shares_.idle_seconds += result.idle_seconds;
    }
    if (judged_ <= kJudgedSteps) return;
    spec::TrainingPlan plan;
    plan.tuning = config_.tuning.kind == TuningKind::kAllWeights ? spec::Tuning::kAllWeights
                                                                 : spec::Tuning::kLora;
    plan.lora_rank = config_.tuning.rank;
    plan.compute = plan.weights = spec::DType::kF32;
    plan.micro_batch = config_.batch.micro;
    plan.global_batch = config_.batch.global;
    plan.sequence = config_.dataset.max_seq_length;
    plan.layout = world_->layout();
    const spec::CostModel cost(model_->description);
    const auto verdict = StallVerdict(cost, plan, shares_);
    if (verdict.has_value()) events_.Warn("LAYOUT_STALLS", *verdict, state_.step);
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
    if (first_rank()) events_.Warn("STEP_SKIPPED", message, state_.step);
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
    if (first_rank()) events_.Write(event);
    if (first_rank() && rises && state_.bad_evaluations >= 2 && !warned_overfitting_) {
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
    if (config_.evaluation.sample_prompts.empty() || !first_rank()) return absl::OkStatus();
    if (!decoder_->division().whole()) {
      if (!warned_samples_) {
        events_.Warn("SAMPLES_LEFT_OUT",
                     "evaluation.sample_prompts are not answered where tp or pp divide the model",
                     state_.step);
      }
      warned_samples_ = true;
      return absl::OkStatus();
    }
    // The others wait at the next step meanwhile.
    if (world_ != nullptr) world_->activity().EndTraining();
    for (const std::string& prompt : config_.evaluation.sample_prompts) {
      GRAFT_ASSIGN_OR_RETURN(const std::string text, AnswerOnce(*model_, *decoder_, prompt,
                                                                config_.evaluation.sample_tokens));
      events_.Write(SampleEvent{state_.step, prompt, text});
    }
    return absl::OkStatus();
  }

  absl::Status MaybeCheckpoint(bool epoch_end) {
    if (checkpoints_ == nullptr) return absl::OkStatus();
    const int64_t interval = config_.checkpoint.interval;
    const bool due = interval > 0 ? state_.step % interval == 0 : epoch_end;
    if (!due && !told_.checkpoint && state_.step != data_->total_steps) return absl::OkStatus();
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

  // Writes what the run leaves behind; on the first rank alone where there are several.
  absl::Status Output() {
    std::unique_ptr<model::Decoder> whole;
    if (world_ != nullptr && !decoder_->division().whole()) {
      const bool merged = config_.tuning.kind == TuningKind::kLoraMerged;
      GRAFT_ASSIGN_OR_RETURN(whole, GatherDecoder(*model_, build_options_, *decoder_, Refs(),
                                                  Gang(), config_.output.folder, merged));
    }
    if (!first_rank()) return absl::OkStatus();
    return WriteOutput(config_, *model_, whole != nullptr ? *whole : *decoder_);
  }

  absl::Status Finish() {
    phase_ = Phase::kStore;
    if (world_ != nullptr) world_->activity().EndTraining();
    if (checkpoints_ != nullptr) GRAFT_RETURN_IF_ERROR(checkpoints_->Wait());
    DoneEvent done;
    const bool ended = reason_ == DoneReason::kCompleted || reason_ == DoneReason::kEarlyStopped;
    if (ended && !config_.output.folder.empty()) {
      if (best_values_.defined()) decoder_->store().values().copy_(best_values_);
      absl::Status written;
      GRAFT_RETURN_IF_ERROR(model::TorchCall("writing the output", [&] { written = Output(); }));
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
    if (watchdog_ != nullptr) {
      // Nobody is done before all are: the first rank holds the store, and writes the output.
      GRAFT_RETURN_IF_ERROR(world_->Share("finished", "").status());
      watchdog_->FinishTogether(kTellSeconds);
      watchdog_->Stop();
    }
    events_.Write(done);
    return absl::OkStatus();
  }

  const RunConfig& config_;
  Control& control_;
  EventWriter& events_;
  const SteadyClock::time_point start_;
  Phase phase_ = Phase::kConfig;

  struct Told {
    bool terminate = false;
    bool pause = false;
    bool checkpoint = false;
  };
  Told told_;

  std::unique_ptr<ModelSource> model_;
  std::unique_ptr<TrainingData> data_;
  // Null where there is one rank.
  std::unique_ptr<parallel::World> world_;
  ModelPart part_;
  model::BuildOptions build_options_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<parallel::Reducer> reducer_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<Schedule> schedule_;
  std::unique_ptr<Engine> engine_;

  CheckpointState state_;
  at::Tensor best_values_;
  bool stop_early_ = false;
  bool warned_overfitting_ = false;
  bool warned_samples_ = false;
  int64_t judged_ = 0;  // steps that went into `shares_`, and the first
  StepShares shares_;
  DoneReason reason_ = DoneReason::kCompleted;
  std::pair<CheckpointState, double> saving_;  // what is being written, and how long a step waited
  std::string newest_checkpoint_;              // the writer sets it; read after Wait alone
  // Last: their threads use what stands above.
  std::unique_ptr<Checkpoints> checkpoints_;
  std::unique_ptr<parallel::Watchdog> watchdog_;
};

}  // namespace

absl::Status Run(const RunConfig& config, Control& control, EventWriter& events, Clock& clock) {
  if (config.threads > 0) at::set_num_threads(static_cast<int>(config.threads));
  RunLoop loop(config, control, events);
  const absl::Status status = loop.Go();
  if (!status.ok()) {
    loop.TellOthers(status);
    const RunFailure failure = Classify(loop.phase(), status);
    events.Write(
        ErrorEvent{failure.code, std::string(status.message()), failure.hint, loop.step()});
  }
  return status;
}

}  // namespace graft::trainer
