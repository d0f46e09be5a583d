// run.json: everything that one rank of a training run needs, resolved. Nothing is looked up
// elsewhere, so the same file gives the same run again. Whoever starts the trainer fills this
// struct and writes it with FormatRunConfig; the trainer reads it with ParseRunConfig. Free of
// torch.
//
// worker/trainer/README.md says what the fields mean to a person; defaults are here alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/trainer/json_fields.h"

namespace graft::trainer {

// Raised when a reader of the previous version would misread the file. Version N reads N-1.
inline constexpr int64_t kRunConfigVersion = 1;
inline constexpr int64_t kMaxRunConfigBytes = 4 << 20;  // of the file

enum class Method { kSft };
enum class TuningKind { kLora, kLoraMerged, kAllWeights };
enum class OptimizerKind { kAdamW, kAdamW8bit, kPagedAdamW8bit, kAdafactor, kLion, kSgd };
enum class LoraInit { kKaiming, kGaussian };
enum class LoraBias { kNone, kAll, kLoraOnly };
// What backward finds again instead of keeping. The fused modules always make norms and products
// anew, so `none` and `selective` are the same here; `full` keeps the input of each layer alone,
// and `offload` keeps it in the CPU's memory (on a CPU the two are the same).
enum class ActivationCheckpointing { kNone, kSelective, kFull, kOffload };
// Of activations and products; what is trained stays in fp32. `auto`: bf16 where the device
// computes with it (fp16 on older GPUs), else fp32.
enum class Precision { kAuto, kFp32, kBf16, kFp16 };
// Which tokens of a conversation carry loss.
enum class LossOn { kAnswers, kAll, kLastAnswer };
enum class OnBadRow { kFail, kSkip };

struct ModelConfig {
  std::string path;  // a Hugging Face folder, or one .gguf file
  // What an adapter calls its base (adapter_config.json); empty: `path`.
  std::string name;
};

// Names of the members of a row.
struct RowFieldsConfig {
  std::string messages = "messages";
  std::string tools = "tools";
  std::string prompt = "prompt";
  std::string completion = "completion";
  std::string text = "text";
};

struct DatasetConfig {
  std::vector<std::string> training;  // .jsonl, .ndjson, .json or .csv files, or folders of them
  // One for each of `training`, or none: how often its rows are seen per epoch (0.1: another tenth
  // each epoch), and how many of them there are, from the first (0: all).
  std::vector<double> weights;
  std::vector<int64_t> limits;
  std::vector<std::string> validation;  // may be empty: no evaluation
  // Share of the training rows that validates where `validation` is empty, drawn with the seed.
  double validation_split = 0;
  std::string format = "auto";  // auto, chat, prompt_completion, text
  RowFieldsConfig fields;
  std::string prompt_template;  // for prompt_completion rows; empty: by the rows' own names
  std::string chat_template;    // Jinja source instead of the model's own
  int64_t max_seq_length = 2048;
  bool packing = true;
  int64_t packing_max_samples = 0;  // examples in a sequence; 0: as many as fit
  bool shuffle = true;
  LossOn loss_on = LossOn::kAnswers;
  int64_t limit = 0;  // first rows only; 0: all
  int64_t validation_limit = 0;
  bool apply_chat_template = false;  // to prompt_completion rows; chat rows always go through it
  std::string system_prompt;         // before conversations that have no system message
  // A row that cannot be used, or whose answer the cut at max_seq_length leaves nothing of: fails
  // the run, or is left out and counted.
  OnBadRow on_bad_row = OnBadRow::kFail;
  // Folder for the rows left out: training.jsonl and what is wrong with them; empty: not kept.
  std::string skipped_rows;
  // Folder in which the rows' tokens are kept for the next run over the same rows; empty: nowhere.
  std::string token_cache;
};

struct TuningConfig {
  TuningKind kind = TuningKind::kLora;
  int64_t rank = 16;
  double alpha = 32;
  double dropout = 0;
  // Module names by suffix ("q_proj"), "all-linear", or one regular expression over full names as
  // "re:...". Empty: all linear layers but the head.
  std::vector<std::string> target_modules;
  std::vector<std::string> exclude_modules;  // of those
  std::vector<int64_t> layers_to_transform;  // of those, counted from 0; empty: all
  std::vector<std::string> modules_to_save;  // trained whole beside the adapters
  bool rslora = false;
  bool dora = false;
  LoraBias bias = LoraBias::kNone;
  LoraInit init = LoraInit::kKaiming;  // of lora_A
  std::optional<int64_t> init_seed;    // of lora_A; absent: `seed`
};

struct ScheduleConfig {
  std::string kind = "cosine";  // one of transformers' eleven names
  double learning_rate = 2e-4;
  int64_t warmup_steps = 0;
  double warmup_ratio = 0;  // of all steps; not together with warmup_steps
  double num_cycles = 0.5;  // the cosine kinds
  double power = 1.0;       // polynomial
  double min_lr_rate = 0;   // cosine_with_min_lr, warmup_stable_decay
  int64_t decay_steps = 0;  // warmup_stable_decay
  double decay_ratio = 0;   // of all steps; not together with decay_steps
  double epochs = 1;
  int64_t max_steps = 0;  // caps the epochs; 0: no cap
};

struct BatchConfig {
  int64_t global = 8;  // examples of one optimizer step, over all ranks
  int64_t micro = 1;   // sequences (packs, when packing) of one forward
};

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  double momentum = 0;   // sgd
  double clip_norm = 1;  // 0: no clipping
};

struct EvaluationConfig {
  int64_t interval = 0;        // steps; 0: at the end of each epoch, or as the next field says
  double interval_epochs = 0;  // so many epochs, or a part of one
  int64_t patience = 0;        // evaluations without improvement until the run stops; 0: never
  double patience_epochs = 0;  // the same in epochs, in place of evaluations
  double min_delta = 0;
  bool restore_best = true;  // output is the best by validation loss, when either is set
  // Answered after the steps 10, 50 and 100 and at each evaluation, with at most so many tokens.
  std::vector<std::string> sample_prompts;
  int64_t sample_rows = 0;  // of those that validate, evenly spread
  int64_t sample_tokens = 64;
  bool at_start = false;  // also before the first step: what the base can do
  // For whoever compares base and result afterwards; the run itself does not look at them.
  int64_t report_rows = 0;  // 0: no report
  int64_t report_tokens = 128;
};

struct SftConfig {
  double label_smoothing =
      0;  // share of each target that goes to the whole vocabulary; in training
  double neftune_noise_alpha = 0;  // noise on the embeddings of alpha / sqrt(tokens x hidden), too
};

struct GuardConfig {
  bool skip_nonfinite = true;  // a step whose loss or gradients are not finite changes nothing
  int64_t max_skipped = 10;    // in a row, then the run fails
  double spike_factor = 0;     // skip a step whose loss exceeds this multiple of its mean; 0: off
};

struct ParallelismConfig {
  int64_t tp = 1;
  int64_t pp = 1;
  int64_t cp = 1;
  int64_t ep = 1;
  int64_t dp = 1;
  int64_t rank = 0;
  int64_t world = 1;
  std::string rendezvous;             // host:port of rank 0's store
  std::string address = "127.0.0.1";  // of the interface that this rank's traffic goes through
  std::string attempt;                // its name; two attempts at one rendezvous do not meet
  int64_t chunks = 1;                 // parts of the model a pipeline stage holds, interleaved
  // 0: every rank of a dp x cp group keeps all; 1: optimizer states are divided over them; 3: the
  // layers' weights and gradients too.
  int64_t zero = 0;
  bool shared_memory = true;  // between ranks of one host; false: Gloo for all
};

struct OutputConfig {
  std::string folder;  // the adapter or the model; empty while nothing may be written
  std::string precision =
      "auto";  // of a written model: auto (the base's own), float32, bfloat16, float16
  int64_t max_shard_bytes = 5'000'000'000;
};

struct CheckpointConfig {
  std::string folder;  // empty: no checkpoints
  // Steps, epochs or a part of one, and seconds between two of them, each where it is above 0;
  // without any of the three at the end of each epoch. Also when asked for, and at the end.
  int64_t interval = 0;
  double interval_epochs = 0;
  double interval_seconds = 0;
  int64_t keep_last = 2;
  bool keep_best = true;
};

struct RunConfig {
  int64_t version = kRunConfigVersion;
  Method method = Method::kSft;
  SftConfig sft;
  ModelConfig model;
  DatasetConfig dataset;
  TuningConfig tuning;
  ScheduleConfig schedule;
  BatchConfig batch;
  OptimizerConfig optimizer;
  EvaluationConfig evaluation;
  GuardConfig guards;
  ParallelismConfig parallelism;
  OutputConfig output;
  CheckpointConfig checkpoint;
  std::string
      resume_from;  // a checkpoint folder, or the folder of checkpoints: the newest whole one
  // An adapter's or a checkpoint's folder whose numbers take the place of fresh ones; nothing else
  // of it is taken, and nothing where the run is resumed.
  std::string start_from;
  int64_t seed = 0;
  int64_t threads = 0;          // 0: one per processor
  std::string device = "auto";  // a GPU where there is one; cpu, cuda, cuda:N
  Precision precision = Precision::kAuto;
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  int64_t events_fd = 1;
  int64_t log_interval = 1;  // steps per step event
};

// INVALID_ARGUMENT with the path of what is wrong; FAILED_PRECONDITION for another version.
absl::StatusOr<RunConfig> ParseRunConfig(absl::string_view text);
std::string FormatRunConfig(const RunConfig& config);
Json WriteConfig(const RunConfig& config);
// What types cannot say: ranges, fields that exclude each other. ParseRunConfig calls it.
absl::Status ValidateRunConfig(const RunConfig& config);

template <>
struct EnumNames<Method> {
  static std::vector<std::pair<Method, const char*>> Names() { return {{Method::kSft, "sft"}}; }
};
template <>
struct EnumNames<TuningKind> {
  static std::vector<std::pair<TuningKind, const char*>> Names() {
    return {{TuningKind::kLora, "lora"},
            {TuningKind::kLoraMerged, "lora_merged"},
            {TuningKind::kAllWeights, "all_weights"}};
  }
};
template <>
struct EnumNames<OptimizerKind> {
  static std::vector<std::pair<OptimizerKind, const char*>> Names() {
    return {{OptimizerKind::kAdamW, "adamw"},
            {OptimizerKind::kAdamW8bit, "adamw_8bit"},
            {OptimizerKind::kPagedAdamW8bit, "paged_adamw_8bit"},
            {OptimizerKind::kAdafactor, "adafactor"},
            {OptimizerKind::kLion, "lion"},
            {OptimizerKind::kSgd, "sgd"}};
  }
};
template <>
struct EnumNames<LoraInit> {
  static std::vector<std::pair<LoraInit, const char*>> Names() {
    return {{LoraInit::kKaiming, "kaiming"}, {LoraInit::kGaussian, "gaussian"}};
  }
};
template <>
struct EnumNames<LoraBias> {
  static std::vector<std::pair<LoraBias, const char*>> Names() {
    return {{LoraBias::kNone, "none"}, {LoraBias::kAll, "all"}, {LoraBias::kLoraOnly, "lora_only"}};
  }
};
template <>
struct EnumNames<ActivationCheckpointing> {
  static std::vector<std::pair<ActivationCheckpointing, const char*>> Names() {
    return {{ActivationCheckpointing::kNone, "none"},
            {ActivationCheckpointing::kSelective, "selective"},
            {ActivationCheckpointing::kFull, "full"},
            {ActivationCheckpointing::kOffload, "offload"}};
  }
};
template <>
struct EnumNames<Precision> {
  static std::vector<std::pair<Precision, const char*>> Names() {
    return {{Precision::kAuto, "auto"},
            {Precision::kFp32, "fp32"},
            {Precision::kBf16, "bf16"},
            {Precision::kFp16, "fp16"}};
  }
};
template <>
struct EnumNames<LossOn> {
  static std::vector<std::pair<LossOn, const char*>> Names() {
    return {
        {LossOn::kAnswers, "answers"}, {LossOn::kAll, "all"}, {LossOn::kLastAnswer, "last_answer"}};
  }
};
template <>
struct EnumNames<OnBadRow> {
  static std::vector<std::pair<OnBadRow, const char*>> Names() {
    return {{OnBadRow::kFail, "fail"}, {OnBadRow::kSkip, "skip"}};
  }
};

}  // namespace graft::trainer
