// The program as a whole on a tiny model: what it leaves behind, and that a run that was killed at
// any moment ends with the bytes of the one that was not.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tier.h"
#include "worker/trainer/events.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {
namespace {

std::string Env(const char* name) {
  const char* value = std::getenv(name);
  GRAFT_CHECK(value != nullptr) << name << " is not set; run it through ctest";
  return value;
}

// Letters, a space and three special tokens: as many as the tiny model's embedding has rows for.
std::string TinyTokenizer() {
  Json vocab = Json::MakeObject();
  int64_t id = 0;
  for (const char* special : {"<pad>", "<s>", "</s>"}) vocab.Set(special, id++);
  vocab.Set("\u0120", id++);  // a space, as byte-level BPE spells it
  for (char c = 'a'; c <= 'z'; ++c) vocab.Set(std::string(1, c), id++);
  for (char c = '0'; c <= '9'; ++c) vocab.Set(std::string(1, c), id++);
  Json model = Json::MakeObject();
  model.Set("type", "BPE");
  model.Set("vocab", std::move(vocab));
  model.Set("merges", Json::MakeArray());
  Json level = Json::MakeObject();
  level.Set("type", "ByteLevel");
  level.Set("add_prefix_space", false);
  level.Set("trim_offsets", true);
  level.Set("use_regex", true);
  Json tokenizer = Json::MakeObject();
  tokenizer.Set("version", "1.0");
  tokenizer.Set("truncation", Json());
  tokenizer.Set("padding", Json());
  tokenizer.Set("added_tokens", Json::MakeArray());
  tokenizer.Set("normalizer", Json());
  tokenizer.Set("pre_tokenizer", level);
  tokenizer.Set("post_processor", Json());
  tokenizer.Set("decoder", level);
  tokenizer.Set("model", std::move(model));
  return tokenizer.Dump();
}

class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/graft_run_test_XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    const std::string golden = Env("GRAFT_SOURCE_DIR") + "/tests/parity/trainer/goldens/llama/";
    for (const char* file : {"config.json", "model.safetensors"}) {
      GRAFT_ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadFile(golden + file));
      Write("model/" + std::string(file), bytes);
    }
    Write("model/tokenizer.json", TinyTokenizer());
    std::string rows;
    for (int i = 0; i < 24; ++i) {
      rows += "{\"prompt\":\"say " + std::to_string(i) + " \",\"completion\":\"it is " +
              std::to_string(i * 7 % 10) + "\"}\n";
    }
    Write("train.jsonl", rows);
    config_.model.path = folder_ + "/model";
    config_.dataset.training = {folder_ + "/train.jsonl"};
    config_.dataset.max_seq_length = 64;
    config_.tuning.rank = 4;
    config_.tuning.dropout = 0.1;
    config_.schedule.epochs = 4;
    config_.batch.global = 2;
    config_.checkpoint.interval = 3;
    config_.threads = 1;
    config_.seed = 11;
  }
  void TearDown() override { RemoveTree(folder_).IgnoreError(); }

  void Write(const std::string& name, const std::string& bytes) {
    const std::string path = folder_ + "/" + name;
    GRAFT_CHECK_OK(MakeDirectories(path.substr(0, path.rfind('/'))));
    GRAFT_CHECK_OK(WriteFileAtomically(path, bytes, {.sync = false}));
  }

  // Runs the program; SIGKILLs it after its `kill_after`-th event where that is given. Returns the
  // events that came.
  std::vector<Event> RunTrainer(std::optional<uint64_t> kill_after = std::nullopt) {
    Write("run.json", FormatRunConfig(config_));
    int out[2];
    GRAFT_CHECK(pipe(out) == 0);
    const std::string program = Env("GRAFT_BINARY_DIR") + "/bin/graft-trainer";
    const std::string run = folder_ + "/run.json";
    const pid_t child = fork();
    if (child == 0) {
      dup2(out[1], STDOUT_FILENO);
      close(out[0]);
      execl(program.c_str(), program.c_str(), "--run", run.c_str(), nullptr);
      _exit(127);
    }
    close(out[1]);
    std::vector<Event> events;
    std::string line;
    char c;
    while (read(out[0], &c, 1) == 1) {
      if (c != '\n') {
        line.push_back(c);
        continue;
      }
      auto event = ParseEvent(line);
      if (event.ok()) events.push_back(*std::move(event));
      line.clear();
      if (kill_after.has_value() && events.size() == *kill_after) kill(child, SIGKILL);
    }
    close(out[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return events;
  }

  std::string Adapter(const std::string& folder) {
    auto bytes = ReadFile(folder_ + "/" + folder + "/adapter_model.safetensors");
    return bytes.ok() ? *bytes : bytes.status().ToString();
  }
  void Into(const std::string& name) {
    config_.output.folder = folder_ + "/out-" + name;
    config_.checkpoint.folder = folder_ + "/checkpoints-" + name;
  }

  std::string folder_;
  RunConfig config_;
};

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

TEST_F(RunTest, SeveralRanksAreRefusedByName) {
  config_.parallelism.dp = config_.parallelism.world = 2;
  const std::vector<Event> events = RunTrainer();
  ASSERT_FALSE(events.empty());
  ASSERT_TRUE(std::holds_alternative<ErrorEvent>(events.back()));
  EXPECT_EQ(std::get<ErrorEvent>(events.back()).code, ErrorCode::kUnimplemented);
}

}  // namespace
}  // namespace graft::trainer
