// Every layout gives the one-rank run: ten steps of training under tensor, pipeline and data
// parallelism (ranks are threads over real Gloo) against the same steps on one rank, by loss,
// gradient norm and the numbers that are left; and runs that are saved under one layout and go on
// under another.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tier.h"
#include "worker/model/decoder_build.h"
#include "worker/parallel/test_ranks.h"
#include "worker/spec/test_models.h"
#include "worker/trainer/parallel_engine.h"
#include "worker/trainer/sharded_state.h"

namespace graft::trainer {
namespace {

constexpr int64_t kLayers = 4;  // as many as the deepest pipeline has stages
constexpr int kSteps = 10;
constexpr int64_t kExamples = 8;  // of a step
constexpr int64_t kVocab = 96;

struct Case {
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
  // Of adapters: what gets one, and what is trained whole beside them.
  std::vector<std::string> targets;
  std::vector<std::string> whole;

  std::string Name() const {
    std::string name =
        absl::StrCat(family, tuning == TuningKind::kLora ? "Lora" : "AllWeights",
                     dora ? "Dora" : "", dropout > 0 ? "Dropout" : "", "Tp", layout.tp, "Pp",
                     layout.pp, "Cp", layout.cp, "Dp", layout.dp, "Ep", layout.ep);
    if (zero > 0) absl::StrAppend(&name, "Zero", zero);
    if (chunks > 1) absl::StrAppend(&name, "Chunks", chunks);
    if (device) absl::StrAppend(&name, "OnDevice");
    if (precision != Precision::kFp32) absl::StrAppend(&name, EnumName(precision));
    if (optimizer != OptimizerKind::kAdamW) absl::StrAppend(&name, EnumName(optimizer));
    if (balanced) absl::StrAppend(&name, "Balanced");
    for (const std::string& target : targets) absl::StrAppend(&name, "_", target);
    for (const std::string& module : whole) absl::StrAppend(&name, "_whole", module);
    name.erase(std::remove(name.begin(), name.end(), '_'), name.end());
    return name;
  }
};

// A golden's architecture, deeper, with random numbers.
struct Model {
  std::unique_ptr<spec::ModelFiles> files;
  spec::ModelDescription description;
  std::unique_ptr<spec::ParameterReader> reader;
};

Model RandomModel(const Case& c) {
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
  SeededRandom random(5);
  std::vector<spec::RawTensor> tensors;
  for (const spec::HubTensor& t : spec::HubTensors(*described)) {
    int64_t count = 1;
    for (int64_t d : t.shape) count *= d;
    const bool norm = absl::StrContains(t.name, "norm");
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) {
      v = static_cast<float>((2 * random.UniformDouble() - 1) * (norm ? 0.1 : 0.25) +
                             (norm ? 1 : 0));
    }
    tensors.push_back(
        {t.name, "F32", t.shape,
         std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)});
  }
  Model model;
  model.files = spec::FilesInMemory(
      {{"config.json", config.Dump()}, {"model.safetensors", spec::SafetensorsBytes(tensors)}});
  auto description = spec::ReadModel(*model.files);
  GRAFT_CHECK(description.ok()) << description.status();
  model.description = *std::move(description);
  return model;
}

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

RunConfig ConfigOf(const Case& c) {
  RunConfig config;
  config.tuning.kind = c.tuning;
  config.optimizer.kind = c.optimizer;
  config.optimizer.weight_decay = 0.01;
  // With 1e-8 a gradient that is rounding alone becomes a whole step, in either direction, which no
  // order of sums survives.
  config.optimizer.epsilon = 1e-3;
  config.dataset.max_seq_length = 24;
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

model::BuildOptions OptionsOf(const Case& c) {
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

struct Curve {
  std::vector<double> losses;
  std::vector<double> norms;
};

struct Span {
  int first = 0;
  int last = kSteps;
  std::string resume_from;  // folders of the two files
  std::string save_to;
};

// Everything that one rank of a run has.
class RankRun {
 public:
  RankRun(const Model& model, const Case& c, parallel::World& world)
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

  void Load(const std::string& folder, int64_t steps) {
    GRAFT_CHECK_OK(ReadParts(folder + "/trained.safetensors", TrainedParts(*decoder_, Refs())));
    GRAFT_CHECK_OK(ReadParts(folder + "/optimizer.safetensors",
                             OptimizerParts(*optimizer_, *decoder_, Refs())));
    optimizer_->set_steps(steps);
    reducer_->Restored();
  }

  void Save(const std::string& folder) {
    // Every third rank is on a node that shares nothing with the first one's.
    const std::string own = world_.rank() % 3 == 1 ? folder + "/elsewhere" : folder;
    const FileGang gang = GangOf(&world_);
    GRAFT_CHECK_OK(WriteTogether(gang, "save", own, "trained", TrainedParts(*decoder_, Refs())));
    GRAFT_CHECK_OK(WriteTogether(gang, "save", own, "optimizer",
                                 OptimizerParts(*optimizer_, *decoder_, Refs())));
  }

  absl::StatusOr<StepResult> Step(int step) {
    const double learning_rate = case_.tuning == TuningKind::kLora ? 1e-3 : 3e-4;
    return engine_->Step(BatchOf(step, case_.layout.dp, world_.place().dp), learning_rate);
  }

  model::Decoder& decoder() { return *decoder_; }

 private:
  RankRefs Refs() { return {&world_, reducer_.get()}; }

  const Case& case_;
  parallel::World& world_;
  const RunConfig config_;
  ModelPart part_;
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<parallel::Reducer> reducer_;
  std::unique_ptr<Optimizer> optimizer_;
  LossScaler scaler_;
  std::unique_ptr<Engine> engine_;
};

Curve TrainRank(const Model& model, const Case& c, const Span& span, parallel::World& world) {
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

Curve Train(const Model& model, const Case& c, const Span& span) {
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

class LayoutParityTest : public ::testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() { at::set_num_threads(1); }
  void SetUp() override {
    char name[] = "/tmp/graft_layout_parity_XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    for (const char* sub : {"one", "many", "half"}) {
      GRAFT_CHECK_OK(MakeDirectories(folder_ + "/" + sub));
    }
  }
  void TearDown() override { RemoveTree(folder_).IgnoreError(); }

  struct Tolerance {
    double loss = 1e-5;
    double norm = 1e-4;
  };
  // But for the order of sums.
  static bool IsExact(const Case& c) {
    return c.precision == Precision::kFp32 && c.optimizer != OptimizerKind::kAdamW8bit;
  }
  // Within what a number of 8 bits leaves, or of 11; blocks of 8-bit states are each layout's own.
  static Tolerance ToleranceOf(const Case& c) {
    if (c.precision == Precision::kBf16) return {.loss = 2e-2, .norm = 5e-2};
    if (!IsExact(c)) return {.loss = 5e-3, .norm = 2e-2};
    return {};
  }
  void ExpectAlike(const Curve& got, const Curve& wanted, int first, const Tolerance& tolerance) {
    for (size_t i = 0; i < got.losses.size(); ++i) {
      EXPECT_NEAR(got.losses[i], wanted.losses[i + first], tolerance.loss) << "step " << first + i;
      EXPECT_NEAR(got.norms[i] / wanted.norms[i + first], 1, tolerance.norm)
          << "step " << first + i;
    }
  }

  // The largest difference between two files' tensors, and its tensor.
  std::pair<double, std::string> Difference(const std::string& a, const std::string& b) {
    auto index = ListTensors(a);
    GRAFT_CHECK(index.ok()) << index.status();
    auto other = ListTensors(b);
    GRAFT_CHECK(other.ok()) << other.status();
    EXPECT_EQ(index->size(), other->size());
    std::pair<double, std::string> most;
    for (const auto& [name, info] : *index) {
      at::Tensor x = at::empty(info.shape), y = at::empty(info.shape);
      GRAFT_CHECK_OK(ReadTensors(a, {{name, x}}));
      GRAFT_CHECK_OK(ReadTensors(b, {{name, y}}));
      const double d = (x - y).abs().max().item<double>();
      if (!(d <= most.first)) most = {d, name};
    }
    return most;
  }

  std::string folder_;
};

TEST_P(LayoutParityTest, TenStepsAreThoseOfOneRank) {
  const Case& c = GetParam();
  const Model model = RandomModel(c);
  Case alone = c;
  alone.layout = {};
  alone.zero = 0;
  alone.chunks = 1;
  const Curve wanted = Train(model, alone, {.save_to = folder_ + "/one"});
  const Curve got = Train(model, c, {.save_to = folder_ + "/many"});
  ASSERT_EQ(got.losses.size(), static_cast<size_t>(kSteps));
  EXPECT_NE(wanted.losses[0], wanted.losses[2]) << "the same rows, and nothing was learnt";
  ExpectAlike(got, wanted, 0, ToleranceOf(c));
  if (!IsExact(c)) return;
  const auto trained =
      Difference(folder_ + "/one/trained.safetensors", folder_ + "/many/trained.safetensors");
  EXPECT_LE(trained.first, 1e-6) << trained.second;
}

// Every valid layout of up to eight ranks, and of those an even spread of `count`.
std::vector<spec::Layout> SpreadOfLayouts(const spec::DecoderSpec& spec, size_t count) {
  std::vector<spec::Layout> all;
  for (int64_t tp : {1, 2, 4}) {
    for (int64_t pp : {1, 2, 4}) {
      for (int64_t cp : {1, 2}) {
        for (int64_t dp : {1, 2, 4}) {
          for (int64_t ep : {1, 2, 4}) {
            const int64_t world = tp * pp * cp * dp;
            if (world == 1 || world > 8 || (ep > 1 && !spec.is_moe())) continue;
            const spec::LayoutCheck check = spec::CheckLayout(
                spec, {.gpus = world, .tp = tp, .pp = pp, .cp = cp, .ep = ep, .sequence = 24});
            if (check.ok()) all.push_back(check.layout);
          }
        }
      }
    }
  }
  std::vector<spec::Layout> spread;
  for (size_t i = 0; i < std::min(count, all.size()); ++i) {
    spread.push_back(all[i * all.size() / std::min(count, all.size())]);
  }
  return spread;
}

// Without those that are there before: the spread may meet what was chosen by hand.
std::vector<Case> Once(std::vector<Case> cases) {
  std::set<std::string> seen;
  cases.erase(std::remove_if(cases.begin(), cases.end(),
                             [&](const Case& c) { return !seen.insert(c.Name()).second; }),
              cases.end());
  return cases;
}

std::vector<Case> Cases() {
  using TK = TuningKind;
  std::vector<Case> cases = {
      {"llama", {.pp = 2}, TK::kLora, 0, 2},
      {"llama", {.tp = 2}, TK::kLora, 0, 1, true},
      {"llama", {.tp = 2, .pp = 2}, TK::kLora, 0, 1, false, 0.1},
      {"llama", {.tp = 2, .dp = 2}, TK::kAllWeights, 1},
      {"llama", {.tp = 2, .dp = 2}, TK::kAllWeights, 3},
      {.family = "llama", .layout = {.pp = 2}, .chunks = 2, .device = true},
      {.family = "gpt_oss",
       .layout = {.tp = 2, .cp = 2},
       .tuning = TK::kAllWeights,
       .device = true},
      {.family = "qwen3_moe",
       .layout = {.pp = 2, .dp = 2, .ep = 2},
       .tuning = TK::kAllWeights,
       .zero = 1,
       .device = true},
      {.family = "llama",
       .layout = {.tp = 2, .pp = 2},
       .device = true,
       .precision = Precision::kBf16},
      {.family = "qwen3",
       .layout = {.tp = 2, .cp = 2},
       .tuning = TK::kAllWeights,
       .precision = Precision::kBf16},
      {.family = "llama", .layout = {.pp = 2, .dp = 2}, .precision = Precision::kFp16},
      {.family = "llama",
       .layout = {.tp = 2, .dp = 2},
       .tuning = TK::kAllWeights,
       .zero = 3,
       .device = true},
      {.family = "llama",
       .layout = {.cp = 2},
       .tuning = TK::kAllWeights,
       .optimizer = OptimizerKind::kAdamW8bit},
      {"qwen3_moe", {.cp = 2, .dp = 2, .ep = 2}, TK::kAllWeights, 3},
      {.family = "qwen3_moe",
       .layout = {.tp = 2, .pp = 2, .cp = 2},
       .tuning = TK::kAllWeights,
       .balanced = true},
      {.family = "qwen3_moe",
       .layout = {.pp = 2, .dp = 2, .ep = 2},
       .tuning = TK::kAllWeights,
       .chunks = 2,
       .device = true,
       .balanced = true},
      {.family = "llama",
       .layout = {.tp = 2, .dp = 2},
       .targets = {"embed_tokens", "lm_head", "q_proj"},
       .whole = {"norm"}},
      // Its head is its embedding: each end is trained without the other.
      {.family = "gemma3_text", .layout = {.tp = 2, .pp = 2}, .whole = {"embed_tokens"}},
      {.family = "gemma3_text", .layout = {.tp = 2, .pp = 2}, .whole = {"lm_head"}},
      {.family = "gemma3_text", .layout = {.pp = 2}, .targets = {"embed_tokens", "lm_head"}},
      {.family = "gpt_oss", .layout = {.tp = 2, .pp = 2}, .targets = {"experts", "q_proj"}},
      {.family = "gpt_oss", .layout = {.cp = 2, .ep = 2}, .targets = {"down_proj"}},
      {.family = "qwen3_moe",
       .layout = {.pp = 2, .dp = 2, .ep = 2},
       .targets = {"experts", "o_proj"},
       .whole = {"lm_head"}},
      {.family = "qwen3_moe", .layout = {.dp = 4, .ep = 4}, .zero = 1, .targets = {"experts"}}};
  if (testing::CurrentTier() == testing::Tier::kDefault) {
    const std::vector<Case> few = {
        {"llama", {.tp = 2, .pp = 2}, TK::kAllWeights},
        {"qwen3", {.tp = 4}, TK::kLora},
        {"gemma3_text", {.pp = 4}, TK::kAllWeights},
        {"gemma3_text", {.tp = 2, .cp = 2}, TK::kAllWeights},
        {"gpt_oss", {.tp = 2, .cp = 2}, TK::kAllWeights},
        {"qwen3_moe", {.cp = 2, .dp = 2, .ep = 4}, TK::kAllWeights},
        {"deepseek_v3", {.pp = 2, .dp = 2, .ep = 2}, TK::kAllWeights},
        {"deepseek_v3", {.tp = 2}, TK::kLora},
        // Both ends of the pipeline hold the table; other numbers stand before it on one of them.
        {"gpt2", {.tp = 2, .pp = 2}, TK::kAllWeights},
    };
    cases.insert(cases.end(), few.begin(), few.end());
    return cases;
  }
  if (std::getenv("GRAFT_SOURCE_DIR") == nullptr) return cases;
  for (const char* family :
       {"llama", "qwen3", "gemma3_text", "gpt_oss", "qwen3_moe", "deepseek_v3"}) {
    const spec::DecoderSpec spec = RandomModel({.family = family}).description.spec;
    for (const spec::Layout& layout : SpreadOfLayouts(spec, 10)) {
      for (const TK tuning : {TK::kLora, TK::kAllWeights})
        cases.push_back({family, layout, tuning});
      if (layout.dp > 1) cases.push_back({family, layout, TK::kAllWeights, 1});
      if (layout.dp * layout.cp > 1 && layout.pp == 1) {
        cases.push_back({family, layout, TK::kAllWeights, 3});
      }
    }
  }
  for (const char* family : {"olmo2", "phi3", "cohere", "gpt2"}) {
    cases.push_back({family, {.tp = 2, .pp = 2}, TK::kAllWeights});
    cases.push_back({family, {.tp = 2, .cp = 2}, TK::kLora});
  }
  return Once(std::move(cases));
}

INSTANTIATE_TEST_SUITE_P(Layouts, LayoutParityTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.Name(); });

class LayoutChangeTest : public LayoutParityTest {};

TEST_P(LayoutChangeTest, ARunSavedUnderOneLayoutGoesOnUnderOthers) {
  Case c = GetParam();
  const Model model = RandomModel(c);
  Case alone = c;
  alone.layout = {};
  alone.zero = 0;
  const Curve wanted = Train(model, alone, {.save_to = folder_ + "/one"});
  const Curve whole = Train(model, c, {.save_to = folder_ + "/many"});
  Train(model, c, {.last = kSteps / 2, .save_to = folder_ + "/half"});
  const Curve same = Train(model, c, {.first = kSteps / 2, .resume_from = folder_ + "/half"});
  for (int step = kSteps / 2; step < kSteps; ++step) {
    EXPECT_EQ(same.losses[step - kSteps / 2], whole.losses[step]) << "of the same layout";
  }
  for (const spec::Layout& layout : {spec::Layout{.dp = 4}, spec::Layout{}}) {
    Case other = c;
    other.layout = layout;
    const bool shares = layout.dp > 1 && c.optimizer != OptimizerKind::kAdafactor;
    other.zero = shares ? std::max<int64_t>(c.zero, 1) : 0;
    const Curve rest = Train(
        model, other,
        {.first = kSteps / 2, .resume_from = folder_ + "/half", .save_to = folder_ + "/many"});
    ExpectAlike(rest, wanted, kSteps / 2, ToleranceOf(c));
    if (!IsExact(c)) continue;
    const auto trained =
        Difference(folder_ + "/one/trained.safetensors", folder_ + "/many/trained.safetensors");
    EXPECT_LE(trained.first, 1e-6) << trained.second;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, LayoutChangeTest,
    ::testing::Values(Case{"llama", {.tp = 2, .pp = 2}, TuningKind::kAllWeights},
                      Case{"llama", {.dp = 2}, TuningKind::kAllWeights, 3},
                      Case{.family = "llama",
                           .layout = {.dp = 2},
                           .tuning = TuningKind::kAllWeights,
                           .zero = 1,
                           .optimizer = OptimizerKind::kAdamW8bit},
                      Case{.family = "llama",
                           .layout = {.pp = 2, .dp = 2},
                           .tuning = TuningKind::kAllWeights,
                           .optimizer = OptimizerKind::kAdafactor},
                      Case{"gemma3_text", {.tp = 2, .pp = 2}, TuningKind::kLora}),
    [](const auto& info) { return info.param.Name(); });

// A rank whose memory is not what it was.
TEST(CorruptionTest, ACopyThatComesApartEndsTheRunByName) {
  const Case c = {"llama", {.dp = 3}, TuningKind::kAllWeights};
  const Model model = RandomModel(c);
  parallel::RunWorlds(c.layout, 2, [&](parallel::World& world) {
    RankRun run(model, c, world);
    GRAFT_CHECK_OK(run.Step(0).status());
    // As a corrupted gradient leaves it behind its update.
    if (world.rank() == 1) run.decoder().store().values()[77] += 1e-3f;
    EXPECT_THAT(run.Step(1).status(),
                StatusIs(absl::StatusCode::kDataLoss,
                         ::testing::AllOf(::testing::HasSubstr("rank 1 has come apart"),
                                          ::testing::HasSubstr("step summary"))));
  });
}

TEST(CorruptionTest, AGradientThatIsNotFiniteIsHeldBackAndItsRankNamed) {
  const Case c = {"llama", {.dp = 3}};
  const Model model = RandomModel(c);
  parallel::RunWorlds(c.layout, 2, [&](parallel::World& world) {
    RankRun run(model, c, world);
    GRAFT_CHECK_OK(run.Step(0).status());
    const at::Tensor before = run.decoder().store().values().clone();
    // In a frozen weight, so that nothing but this rank's gradients shows it.
    if (world.rank() == 2) run.decoder().layers()[0]->qkv.weight.fill_(std::nanf(""));
    const auto result = run.Step(1);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->skipped);
    EXPECT_THAT(result->skip_reason, ::testing::HasSubstr("rank 2 are not finite"));
    EXPECT_TRUE(run.decoder().store().values().equal(before));
  });
}

}  // namespace
}  // namespace graft::trainer
