#include "tests/parity/parallel/layout_run.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/random.h"
#include "worker/model/decoder_build.h"
#include "worker/parallel/test_ranks.h"

namespace graft::trainer {
namespace {

constexpr int64_t kExamples = 8;  // of a step
constexpr int64_t kVocab = 96;

// The sequences of a step, of uneven lengths; the first tokens of each carry no loss.
struct Sequence {
  std::vector<int32_t> tokens;
  int64_t prompt;
};

std::vector<Sequence> SequencesOf(int64_t step) {
  SeededRandom random(1000 + static_cast<uint64_t>(step % 2));  // seen again, so that it is learnt
  std::vector<Sequence> sequences(kExamples);
  for (Sequence& s : sequences) {
    const int64_t length = 5 + static_cast<int64_t>(random.Uniform(17));
    for (int64_t i = 0; i < length; ++i) {
      s.tokens.push_back(static_cast<int32_t>(random.Uniform(kVocab)));
    }
    s.prompt = static_cast<int64_t>(random.Uniform(4));
  }
  return sequences;
}

// Packs of two sequences; a data rank takes its share of them in turn.
data::StepBatch BatchOf(int64_t step, int64_t dp, int64_t rank) {
  data::StepBatch batch;
  batch.step = step;
  batch.examples = kExamples;
  const std::vector<Sequence> sequences = SequencesOf(step);
  for (const Sequence& s : sequences) {
    batch.tokens += static_cast<int64_t>(s.tokens.size());
    batch.supervised_tokens += static_cast<int64_t>(s.tokens.size()) - 1 - s.prompt;
  }
  for (int64_t first = 2 * rank; first < kExamples; first += 2 * dp) {
    data::MicroBatch micro;
    micro.segment_starts.push_back(0);
    for (int64_t i = first; i < first + 2; ++i) {
      const Sequence& s = sequences[static_cast<size_t>(i)];
      for (size_t t = 0; t < s.tokens.size(); ++t) {
        const bool learns = t + 1 < s.tokens.size() && static_cast<int64_t>(t) >= s.prompt;
        micro.tokens.push_back(s.tokens[t]);
        micro.positions.push_back(static_cast<int32_t>(t));
        micro.targets.push_back(learns ? s.tokens[t + 1] : data::kIgnoreTarget);
        micro.supervised_tokens += learns ? 1 : 0;
      }
      micro.segment_starts.push_back(static_cast<int32_t>(micro.tokens.size()));
    }
    batch.micro_batches.push_back(std::move(micro));
  }
  return batch;
}

RunConfig ConfigOf(const LayoutCase& c) {
  RunConfig config;
  config.tuning.kind = c.tuning;
  config.optimizer.kind = c.optimizer;
  config.sft = c.sft;
  config.optimizer.weight_decay = 0.01;
  // With 1e-8 a gradient that is rounding alone becomes a whole step, in either direction, which no
  // order of sums survives.
  config.optimizer.epsilon = 1e-3;
  config.dataset.max_seq_length = kMaxLength;
  config.seed = 3;
  config.parallelism = {.tp = c.layout.tp,
                        .pp = c.layout.pp,
                        .cp = c.layout.cp,
                        .ep = c.layout.ep,
                        .dp = c.layout.dp,
                        .world = c.layout.world(),
                        .chunks = c.chunks,
                        .zero = c.zero};
  return config;
}

model::BuildOptions OptionsOf(const LayoutCase& c) {
  model::BuildOptions options;
  options.train = c.tuning == TuningKind::kLora ? model::Train::kLora : model::Train::kAllWeights;
  options.lora = {.rank = 4,
                  .alpha = 8,
                  .dropout = c.dropout,
                  .dora = c.dora,
                  .target_modules = c.targets,
                  .modules_to_save = c.whole,
                  .seed = 11};
  options.compute_type = ComputeChoice{c.precision, ""}.type();
  return options;
}

}  // namespace

std::string LayoutCase::Name() const {
  std::string name =
      absl::StrCat(family, tuning == TuningKind::kLora ? "Lora" : "AllWeights", dora ? "Dora" : "",
                   dropout > 0 ? "Dropout" : "", "Tp", layout.tp, "Pp", layout.pp, "Cp", layout.cp,
                   "Dp", layout.dp, "Ep", layout.ep);
  if (zero > 0) absl::StrAppend(&name, "Zero", zero);
  if (chunks > 1) absl::StrAppend(&name, "Chunks", chunks);
  if (device) absl::StrAppend(&name, "OnDevice");
  if (precision != Precision::kFp32) absl::StrAppend(&name, EnumName(precision));
  if (optimizer != OptimizerKind::kAdamW) absl::StrAppend(&name, EnumName(optimizer));
  if (balanced) absl::StrAppend(&name, "Balanced");
  if (sft.label_smoothing > 0) absl::StrAppend(&name, "Smoothed");
  if (sft.neftune_noise_alpha > 0) absl::StrAppend(&name, "Noisy");
  for (const std::string& target : targets) absl::StrAppend(&name, "_", target);
  for (const std::string& module : whole) absl::StrAppend(&name, "_whole", module);
  name.erase(std::remove(name.begin(), name.end(), '_'), name.end());
  return name;
}

LayoutModel RandomModel(const LayoutCase& c) {
  const std::string folder =
      absl::StrCat(std::getenv("GRAFT_SOURCE_DIR"), "/tests/parity/trainer/goldens/", c.family);
  auto text = ReadFile(folder + "/config.json");
  GRAFT_CHECK(text.ok()) << text.status();
  Json config = *Json::Parse(*text);
  config.Set("num_hidden_layers", kLayers);
  config.Set("vocab_size", kVocab + 1);  // divides by nothing
  // Divides by every ep.
  if (config.Find("num_local_experts") != nullptr) config.Set("num_local_experts", 8);
  // Large enough for states of 8 bits, in every share.
  if (c.optimizer == OptimizerKind::kAdamW8bit) config.Set("intermediate_size", 512);
  if (c.balanced) config.Set("output_router_logits", true).Set("router_aux_loss_coef", 0.5);
  if (const Json* types = config.Find("layer_types"); types != nullptr && types->is_array()) {
    Json deeper = Json::MakeArray();
    const auto& given = types->as_array();
    for (int64_t i = 0; i < kLayers; ++i)
      deeper.Append(given[static_cast<size_t>(i) % given.size()]);
    config.Set("layer_types", std::move(deeper));
  }
  auto described = spec::DescribeConfig(config);
  GRAFT_CHECK(described.ok()) << described.status();
  LayoutModel model;
  model.files =
      spec::FilesInMemory({{"config.json", config.Dump()},
                           {"model.safetensors", spec::RandomSafetensors(*described, 5)}});
  auto description = spec::ReadModel(*model.files);
  GRAFT_CHECK(description.ok()) << description.status();
  model.description = *std::move(description);
  return model;
}

RankRun::RankRun(const LayoutModel& model, const LayoutCase& c, parallel::World& world)
    : case_(c), world_(world), config_(ConfigOf(c)), scaler_(c.precision == Precision::kFp16) {
  scaler_.Restore(/*scale=*/1024, /*good_steps=*/0);  // without the first steps' halvings
  auto reader = spec::ParameterReader::Open(*model.files, model.description);
  GRAFT_CHECK(reader.ok()) << reader.status();
  auto part = PartOf(world, config_, model.description.spec);
  GRAFT_CHECK(part.ok()) << part.status();
  part_ = *std::move(part);
  model::BuildOptions options = OptionsOf(c);
  options.division = part_.division;
  auto built =
      BuildRank(model.description, **reader, options, world,
                {.zero = c.zero,
                 .layers = kLayers,
                 .bucket_bytes = c.optimizer == OptimizerKind::kAdamW ? 16 << 10 : 64 << 10,
                 .under_way_bytes = 40 << 10});
  GRAFT_CHECK(built.ok()) << built.status();
  decoder_ = std::move(built->decoder);
  reducer_ = std::move(built->reducer);
  auto optimizer = MakeOptimizer(config_.optimizer, reducer_->owned());
  GRAFT_CHECK(optimizer.ok()) << optimizer.status();
  optimizer_ = *std::move(optimizer);
  const std::vector<OptimizerState> states = optimizer_->states();
  const bool coded = std::any_of(states.begin(), states.end(), [](const OptimizerState& state) {
    return state.numbers.code != nullptr;
  });
  GRAFT_CHECK(coded == (c.optimizer == OptimizerKind::kAdamW8bit)) << "every tensor is small";
  if (world.size() > 1) {
    engine_ = std::make_unique<ParallelEngine>(config_, part_, world, *decoder_, *reducer_,
                                               *optimizer_, scaler_);
  } else {
    engine_ = std::make_unique<LocalEngine>(config_, *decoder_, *optimizer_, scaler_);
  }
}

absl::StatusOr<StepResult> RankRun::Step(int step) {
  const double learning_rate = case_.tuning == TuningKind::kLora ? 1e-3 : 3e-4;
  return engine_->Step(BatchOf(step, case_.layout.dp, world_.place().dp), learning_rate);
}

void RankRun::Load(const std::string& folder, int64_t steps) {
  GRAFT_CHECK_OK(ReadParts(folder + "/trained.safetensors", TrainedParts(*decoder_, Refs())));
  GRAFT_CHECK_OK(
      ReadParts(folder + "/optimizer.safetensors", OptimizerParts(*optimizer_, *decoder_, Refs())));
  optimizer_->set_steps(steps);
  reducer_->Restored();
}

void RankRun::Save(const std::string& folder) {
  // Every third rank is on a node that shares nothing with the first one's.
  const std::string own = world_.rank() % 3 == 1 ? folder + "/elsewhere" : folder;
  const FileGang gang = GangOf(&world_);
  GRAFT_CHECK_OK(WriteTogether(gang, "save", own, "trained", TrainedParts(*decoder_, Refs())));
  GRAFT_CHECK_OK(WriteTogether(gang, "save", own, "optimizer",
                               OptimizerParts(*optimizer_, *decoder_, Refs())));
}

namespace {

Curve TrainRank(const LayoutModel& model, const LayoutCase& c, const Span& span,
                parallel::World& world) {
  RankRun run(model, c, world);
  if (!span.resume_from.empty()) run.Load(span.resume_from, span.first);
  Curve curve;
  for (int step = span.first; step < span.last; ++step) {
    const auto result = run.Step(step);
    GRAFT_CHECK(result.ok()) << "rank " << world.rank() << ": " << result.status();
    curve.losses.push_back(result->loss);
    curve.norms.push_back(result->grad_norm);
  }
  if (!span.save_to.empty()) run.Save(span.save_to);
  return curve;
}

}  // namespace

Curve Train(const LayoutModel& model, const LayoutCase& c, const Span& span) {
  Curve first;
  parallel::RunWorlds(
      c.layout, model.description.spec.attention.kv_heads,
      [&](parallel::World& world) {
        Curve curve = TrainRank(model, c, span, world);
        if (world.rank() == 0) first = std::move(curve);
      },
      [&c](parallel::WorldOptions& options) {
        if (c.device) parallel::OverDeviceCollectives(options);
      });
  return first;
}

}  // namespace graft::trainer
