// Several ranks as processes: what they leave behind is what one rank does, and a rank that dies,
// stops or comes apart ends the attempt within half a minute, by name, with a checkpoint to go on
// from.
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tier.h"
#include "worker/spec/byte_source.h"
#include "worker/spec/safetensors.h"
#include "worker/spec/test_models.h"
#include "worker/trainer/control_words.h"
#include "worker/trainer/test_run.h"

namespace graft::trainer {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr absl::Duration kPromised = absl::Seconds(30);

class RanksTest : public TinyRunTest {
 protected:
  void SetUp() override {
    TinyRunTest::SetUp();
    config_.dataset.validation = {folder_ + "/train.jsonl"};
    config_.schedule.epochs = 2;
    config_.batch.global = 4;
    config_.checkpoint.interval = 4;
  }

  // Rank 0 gets a socket that listens already, as from its agent.
  int Listen() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    GRAFT_CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0);
    GRAFT_CHECK(listen(fd, SOMAXCONN) == 0);
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
    config_.parallelism.rendezvous = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    return fd;
  }

  // Where `apart_`: with folders that no other rank has.
  RunConfig OnItsNode(RunConfig config) const {
    if (!apart_) return config;
    const std::string node = "/node-" + std::to_string(config.parallelism.rank);
    config.output.folder += node;
    config.checkpoint.folder += node;
    if (!config.resume_from.empty()) config.resume_from += node;
    return config;
  }

  void Start() {
    ParallelismConfig& p = config_.parallelism;
    p.world = p.tp * p.pp * p.cp * p.dp;
    const int fd = p.world > 1 ? Listen() : -1;
    ranks_.clear();
    for (p.rank = 0; p.rank < p.world; ++p.rank) {
      const std::string run = folder_ + "/run-" + std::to_string(p.rank) + ".json";
      WriteTestFile(run, FormatRunConfig(OnItsNode(config_)));
      ranks_.push_back(std::make_unique<TrainerProcess>(run, p.rank == 0 ? fd : -1));
    }
    p.rank = 0;
    if (fd >= 0) close(fd);
  }

  // The events of every rank, once all have ended.
  std::vector<std::vector<Event>> Finish() {
    std::vector<std::vector<Event>> events(ranks_.size());
    std::vector<std::thread> readers;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      readers.emplace_back([this, r, &events] { events[r] = ranks_[r]->ReadToEnd(); });
    }
    for (std::thread& reader : readers) reader.join();
    for (const auto& rank : ranks_) rank->Wait();
    return events;
  }

  std::vector<std::vector<Event>> RunAll() {
    Start();
    return Finish();
  }

  // The numbers of an adapter, of the tensors whose names end so.
  std::vector<float> Numbers(const std::string& name, const std::string& end = "") {
    const std::string path = folder_ + "/out-" + name + "/adapter_model.safetensors";
    auto source = spec::OpenFile(path);
    GRAFT_CHECK(source.ok()) << source.status();
    auto index = spec::ReadSafetensorsHeader(**source, path);
    GRAFT_CHECK(index.ok()) << index.status();
    std::vector<float> all;
    for (const auto& [tensor, info] : *index) {
      if (!absl::EndsWith(tensor, end)) continue;
      std::vector<float> values(static_cast<size_t>(info.elements()));
      GRAFT_CHECK_OK(
          (*source)->ReadAt(info.offset, info.bytes, reinterpret_cast<char*>(values.data())));
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

  // The largest difference of two adapters.
  double Difference(const std::string& a, const std::string& b) {
    const std::vector<float> x = Numbers(a), y = Numbers(b);
    EXPECT_EQ(x.size(), y.size());
    double most = 0;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      most = std::max(most, std::abs(static_cast<double>(x[i]) - y[i]));
    }
    return most;
  }

  // From step 8 of the checkpoint that the configuration names, to the end, into "rest".
  void GoOnAsTwoReplicas() {
    config_.parallelism = {.dp = 2, .zero = 1};
    Into("rest");
    const auto rest = RunAll();
    ASSERT_FALSE(rest[0].empty());
    ASSERT_TRUE(std::holds_alternative<DoneEvent>(rest[0].back()))
        << FormatEvent(rest[0].back(), 0);
    EXPECT_EQ(std::get<RunEvent>(rest[0].front()).first_step, 8);
  }

  bool apart_ = false;
  std::vector<std::unique_ptr<TrainerProcess>> ranks_;
};

double LossOf(const std::vector<Event>& events, int64_t step) {
  for (const Event& event : events) {
    const auto* s = std::get_if<StepEvent>(&event);
    if (s != nullptr && s->step == step) return s->loss;
  }
  return std::nan("");
}

TEST_F(RanksTest, ProcessesLeaveBehindWhatOneRankDoes) {
  Into("one");
  const auto one = RunAll();
  ASSERT_TRUE(std::holds_alternative<DoneEvent>(one[0].back())) << FormatEvent(one[0].back(), 0);
  Into("many");
  config_.parallelism.tp = config_.parallelism.pp = 2;
  const auto many = RunAll();
  for (const auto& events : many) {
    ASSERT_FALSE(events.empty());
    ASSERT_TRUE(std::holds_alternative<DoneEvent>(events.back())) << FormatEvent(events.back(), 0);
  }
  for (int64_t step = 1; step <= 12; ++step) {
    EXPECT_NEAR(LossOf(many[0], step), LossOf(one[0], step), 1e-5);
    EXPECT_EQ(LossOf(many[3], step), LossOf(many[0], step)) << "ranks tell of different losses";
  }
  EXPECT_LE(Difference("one", "many"), 1e-6);
  EXPECT_NEAR(*std::get<DoneEvent>(many[0].back()).validation_loss,
              *std::get<DoneEvent>(one[0].back()).validation_loss, 1e-5);
}

std::vector<SampleEvent> SamplesOf(const std::vector<Event>& events) {
  std::vector<SampleEvent> samples;
  for (const Event& event : events) {
    if (const auto* sample = std::get_if<SampleEvent>(&event)) samples.push_back(*sample);
  }
  return samples;
}

class SamplesTest : public RanksTest {
 protected:
  using Layouts = std::vector<std::pair<const char*, ParallelismConfig>>;

  void SetUp() override {
    RanksTest::SetUp();
    config_.evaluation.sample_prompts = {"say 5 "};
    config_.evaluation.sample_rows = 2;
    config_.evaluation.sample_tokens = 12;
    setenv("TORCH_CPP_LOG_LEVEL", "WARNING", 1);
  }
  void TearDown() override {
    unsetenv("TORCH_CPP_LOG_LEVEL");
    RanksTest::TearDown();
  }

  // Another architecture, of so many layers.
  void Become(const std::string& family, int64_t layers) {
    auto text = ReadFile(TestEnv("GRAFT_SOURCE_DIR") + "/tests/parity/trainer/goldens/" + family +
                         "/config.json");
    GRAFT_CHECK(text.ok()) << text.status();
    Json config = *Json::Parse(*text);
    config.Set("num_hidden_layers", layers);
    auto described = spec::DescribeConfig(config);
    GRAFT_CHECK(described.ok()) << described.status();
    WriteTestFile(folder_ + "/model/config.json", config.Dump());
    WriteTestFile(folder_ + "/model/model.safetensors", spec::RandomSafetensors(*described, 7));
  }

  // However the model is divided, and where every rank has all of it.
  void ExpectAnswersOfOneRank(const Layouts& layouts) {
    Into("one");
    const std::vector<SampleEvent> one = SamplesOf(RunAll()[0]);
    // After steps 6, 10 and 12 of 12, an epoch being 6.
    ASSERT_EQ(one.size(), 9);
    EXPECT_EQ(one[0].step, 6);
    EXPECT_EQ(one[3].step, 10);
    EXPECT_EQ(one[6].step, 12);
    EXPECT_GT(one[0].row, 0);
    EXPECT_FALSE(one[0].wanted.empty());
    EXPECT_EQ(one[2].prompt, config_.evaluation.sample_prompts[0]);
    EXPECT_FALSE(one[2].text.empty());
    for (const auto& [name, layout] : layouts) {
      SCOPED_TRACE(name);
      config_.parallelism = layout;
      Into(name);
      const auto events = RunAll();
      ASSERT_FALSE(events[0].empty());
      ASSERT_TRUE(std::holds_alternative<DoneEvent>(events[0].back()))
          << FormatEvent(events[0].back(), 0);
      const std::vector<SampleEvent> many = SamplesOf(events[0]);
      ASSERT_EQ(many.size(), one.size());
      for (size_t i = 0; i < one.size(); ++i) EXPECT_EQ(many[i].text, one[i].text) << i;
      for (size_t r = 1; r < events.size(); ++r) EXPECT_THAT(SamplesOf(events[r]), IsEmpty());
      // The store outlives those who ask it.
      for (const auto& rank : ranks_) EXPECT_THAT(rank->Complaints(), Not(HasSubstr("c10d")));
    }
  }
};

TEST_F(SamplesTest, AnswersWhileItTrainsAreThoseOfOneRank) {
  ExpectAnswersOfOneRank({{"dp", {.dp = 2}},
                          {"tp-pp", {.tp = 2, .pp = 2}},
                          {"pp-dp", {.pp = 2, .dp = 2}},
                          {"tp-cp", {.tp = 2, .cp = 2}}});
}

TEST_F(SamplesTest, AlsoThroughSeveralPartsOfAStage) {
  Become("llama", 4);
  ExpectAnswersOfOneRank({{"chunks", {.pp = 2, .chunks = 2}}});
}

TEST_F(SamplesTest, AlsoFromExpertsOnSeveralRanks) {
  Become("qwen3_moe", 2);
  ExpectAnswersOfOneRank({{"dp-ep", {.ep = 2, .dp = 2}}, {"cp-ep", {.cp = 2, .ep = 2}}});
}

TEST_F(SamplesTest, AlsoWhereWeightsComeAndGo) {
  config_.tuning.kind = TuningKind::kAllWeights;
  ExpectAnswersOfOneRank({{"zero-3", {.dp = 2, .zero = 3}}});
}

TEST_F(RanksTest, AQuestionThatIsTooLongIsLeftOutByName) {
  std::string prompt;
  for (int i = 0; i < 20000; ++i) prompt += "say ";
  config_.evaluation.sample_prompts = {prompt, "say 5 "};
  config_.evaluation.sample_tokens = 4;
  Into("one");
  const auto events = RunAll();
  int warnings = 0;
  for (const Event& event : events[0]) {
    const auto* warning = std::get_if<WarningEvent>(&event);
    if (warning == nullptr || warning->code != "SAMPLE_LEFT_OUT") continue;
    ++warnings;
    EXPECT_THAT(warning->message, HasSubstr("the context holds"));
  }
  EXPECT_EQ(warnings, 1);
  EXPECT_EQ(SamplesOf(events[0]).size(), 3);
  EXPECT_TRUE(std::holds_alternative<DoneEvent>(events[0].back()));
}

TEST_F(RanksTest, AdaptersOfBothEndsAndWholeModulesAreThoseOfOneRank) {
  config_.tuning.target_modules = {"q_proj", "embed_tokens", "lm_head"};
  config_.tuning.modules_to_save = {"norm"};
  Into("one");
  RunAll();
  Into("many");
  config_.parallelism.tp = config_.parallelism.pp = 2;
  const auto many = RunAll();
  ASSERT_FALSE(many[0].empty());
  ASSERT_TRUE(std::holds_alternative<DoneEvent>(many[0].back())) << FormatEvent(many[0].back(), 0);
  EXPECT_LE(Difference("one", "many"), 1e-5);
}

TEST_F(RanksTest, AdaptersMayStartNormalAndAlikeUnderEveryLayout) {
  config_.tuning.init = LoraInit::kGaussian;
  config_.schedule.max_steps = 1;
  config_.schedule.learning_rate = 1e-300;
  Into("one");
  RunAll();
  const std::vector<float> a = Numbers("one", "lora_A.weight");
  double squares = 0;
  for (const float number : a) squares += static_cast<double>(number) * number;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(a.size())), 1.0 / 4, 0.02);
  Into("many");
  config_.parallelism.tp = config_.parallelism.pp = 2;
  RunAll();
  EXPECT_EQ(Difference("one", "many"), 0);
}

// Learns nothing more, so that what comes out is what it began with.
TEST_F(RanksTest, ManyRanksStartFromWhatOneRankLeft) {
  config_.tuning.target_modules = {"q_proj", "down_proj", "embed_tokens", "lm_head"};
  config_.tuning.modules_to_save = {"norm"};
  config_.schedule.max_steps = 4;
  Into("first");
  RunAll();
  const std::string checkpoint = config_.checkpoint.folder;
  config_.schedule.max_steps = 1;
  config_.schedule.learning_rate = 1e-300;
  config_.parallelism.tp = config_.parallelism.pp = 2;
  for (const std::string& source : {checkpoint, config_.output.folder}) {
    config_.start_from = source;
    Into("again");
    const auto again = RunAll();
    ASSERT_NE(GoodEnd(again[0]), nullptr);
    EXPECT_EQ(Difference("first", "again"), 0);
  }
}

TEST_F(RanksTest, SharesOfAllWeightsStartFromACheckpoint) {
  config_.tuning.kind = TuningKind::kAllWeights;
  config_.schedule.max_steps = 4;
  config_.schedule.learning_rate = 1e-2;
  Into("first");
  RunAll();
  const std::string first = config_.output.folder + "/model.safetensors";
  config_.start_from = config_.checkpoint.folder;
  config_.schedule.max_steps = 1;
  config_.schedule.learning_rate = 1e-300;
  for (const int64_t zero : {1, 3}) {
    config_.parallelism = {.dp = 2, .zero = zero};
    Into("again");
    const auto again = RunAll();
    ASSERT_NE(GoodEnd(again[0]), nullptr);
    EXPECT_EQ(*ReadFile(config_.output.folder + "/model.safetensors"), *ReadFile(first));
  }
}

TEST_F(RanksTest, ACheckpointOfOneLayoutGoesOnUnderAnother) {
  Into("whole");
  RunAll();
  Into("half");
  config_.parallelism.tp = config_.parallelism.pp = 2;
  config_.schedule.max_steps = 0;
  Start();
  // Ends by itself; the checkpoint of step 4 is what the rest goes on from.
  Finish();
  config_.resume_from = folder_ + "/checkpoints-half/step-000008";
  GoOnAsTwoReplicas();
  EXPECT_LE(Difference("whole", "rest"), 1e-6);
}

// The agents of several nodes do not tell their ranks at the same moment.
TEST_F(RanksTest, AWordToOneRankIsOneToAll) {
  config_.parallelism.tp = config_.parallelism.pp = 2;
  config_.schedule.epochs = 4000;  // it would last for long
  for (const absl::string_view word : {kPauseWord, kFinishWord, kFinishWithBestWord}) {
    SCOPED_TRACE(word);
    Into(std::string(word));
    Start();
    ranks_[0]->ReadEvents([](const Event& event) {
      const auto* step = std::get_if<StepEvent>(&event);
      return step == nullptr || step->step < 5;
    });
    ranks_[3]->Tell(word);
    const auto events = Finish();
    const bool pause = word == kPauseWord;
    for (const auto& of_rank : events) {
      const DoneEvent* done = GoodEnd(of_rank);
      ASSERT_NE(done, nullptr);
      EXPECT_EQ(done->reason, pause ? DoneReason::kPaused : DoneReason::kCompleted);
      EXPECT_EQ(done->step, std::get<DoneEvent>(events[0].back()).step);
    }
    EXPECT_EQ(FileExists(config_.output.folder + "/adapter_model.safetensors"), !pause);
  }
}

// As over nodes, each with an agent's working folder of its own.
TEST_F(RanksTest, RanksThatShareNoFolderLeaveOneWholeCheckpointAndOutput) {
  Into("one");
  RunAll();
  Into("apart");
  apart_ = true;
  config_.parallelism.tp = config_.parallelism.pp = 2;
  const auto apart = RunAll();
  for (const auto& events : apart) {
    ASSERT_FALSE(events.empty());
    ASSERT_TRUE(std::holds_alternative<DoneEvent>(events.back())) << FormatEvent(events.back(), 0);
  }
  EXPECT_LE(Difference("one", "apart/node-0"), 1e-6);
  EXPECT_FALSE(FileExists(folder_ + "/out-apart/node-3"));
  const std::string saved = folder_ + "/checkpoints-apart/node-";
  EXPECT_THAT(*ListDirectory(saved + "3"), IsEmpty());

  // Resumed where each rank has a copy, under another layout.
  for (const char* rank : {"0", "1"}) {
    for (const std::string file :
         {"trained.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}) {
      auto bytes = ReadFile(saved + "0/step-000008/" + file);
      ASSERT_THAT(bytes.status(), IsOk());
      WriteTestFile(folder_ + "/staged/node-" + rank + "/" + file, *bytes);
    }
  }
  config_.resume_from = folder_ + "/staged";
  GoOnAsTwoReplicas();
  EXPECT_LE(Difference("one", "rest/node-0"), 1e-6);
}

class FaultTest : public RanksTest, public ::testing::WithParamInterface<std::pair<int, int>> {};

// {signal, rank that gets it}
TEST_P(FaultTest, EndsTheAttemptByNameAndTheRunGoesOn) {
  const auto [signal, victim] = GetParam();
  Into("fault");
  config_.parallelism.dp = 2;
  config_.schedule.epochs = 4000;  // it would last for long
  Start();
  const size_t other = victim == 0 ? 1 : 0;
  bool saved = false;
  ranks_[0]->ReadEvents([&](const Event& event) {
    saved = saved || std::holds_alternative<CheckpointEvent>(event);
    return !saved;
  });
  ASSERT_TRUE(saved);
  const absl::Time struck = absl::Now();
  kill(ranks_[static_cast<size_t>(victim)]->pid(), signal);
  const std::vector<Event> events = ranks_[other]->ReadToEnd();
  EXPECT_LT(absl::Now() - struck, kPromised);
  ASSERT_FALSE(events.empty());
  const auto* error = std::get_if<ErrorEvent>(&events.back());
  ASSERT_NE(error, nullptr) << FormatEvent(events.back(), 0);
  EXPECT_EQ(error->code, ErrorCode::kRankLost);
  EXPECT_THAT(error->message, HasSubstr("rank " + std::to_string(victim) + " is lost"));
  EXPECT_THAT(error->message, HasSubstr("at step "));
  EXPECT_THAT(error->message,
              AnyOf(HasSubstr("gradient sums"), HasSubstr("step summary"),
                    HasSubstr("orders from outside"), HasSubstr("evaluation loss")));
  EXPECT_THAT(ranks_[other]->Complaints(), Not(HasSubstr("frame #")));
  ranks_.clear();

  config_.resume_from = config_.checkpoint.folder;
  config_.schedule.epochs = 4000;
  Start();
  bool stepped = false;
  ranks_[0]->ReadEvents([&](const Event& event) {
    stepped = stepped || std::holds_alternative<StepEvent>(event);
    return !stepped && !std::holds_alternative<ErrorEvent>(event);
  });
  EXPECT_TRUE(stepped) << "it does not go on";
}

std::vector<std::pair<int, int>> Faults() {
  std::vector<std::pair<int, int>> faults = {{SIGKILL, 0}, {SIGSTOP, 1}};
  if (testing::CurrentTier() != testing::Tier::kDefault) {
    faults.insert(faults.end(), {{SIGKILL, 1}, {SIGSTOP, 0}});
  }
  return faults;
}

INSTANTIATE_TEST_SUITE_P(Signals, FaultTest, ::testing::ValuesIn(Faults()), [](const auto& info) {
  return std::string(info.param.first == SIGKILL ? "Kill" : "Stop") + "Rank" +
         std::to_string(info.param.second);
});

}  // namespace
}  // namespace graft::trainer
