// A tiny model and rows on disk, and graft-trainer as a child process. For tests alone.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "gtest/gtest.h"
#include "worker/trainer/events.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

inline std::string TestEnv(const char* name) {
  const char* value = std::getenv(name);
  GRAFT_CHECK(value != nullptr) << name << " is not set; run it through ctest";
  return value;
}

inline void WriteTestFile(const std::string& path, const std::string& bytes) {
  GRAFT_CHECK_OK(MakeDirectories(path.substr(0, path.rfind('/'))));
  GRAFT_CHECK_OK(WriteFileAtomically(path, bytes, {.sync = false}));
}

// Letters, digits, a space and three special tokens: fewer than the tiny model's embedding has
// rows.
inline std::string TinyTokenizer() {
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

// folder/model and folder/train.jsonl with 24 rows.
inline void WriteTinyRun(const std::string& folder) {
  const std::string golden = TestEnv("GRAFT_SOURCE_DIR") + "/tests/parity/trainer/goldens/llama/";
  for (const char* file : {"config.json", "model.safetensors"}) {
    auto bytes = ReadFile(golden + file);
    GRAFT_CHECK(bytes.ok()) << bytes.status();
    WriteTestFile(folder + "/model/" + file, *bytes);
  }
  WriteTestFile(folder + "/model/tokenizer.json", TinyTokenizer());
  std::string rows;
  for (int i = 0; i < 24; ++i) {
    rows += "{\"prompt\":\"say " + std::to_string(i) + " \",\"completion\":\"it is " +
            std::to_string(i * 7 % 10) + "\"}\n";
  }
  WriteTestFile(folder + "/train.jsonl", rows);
}

// What a run ended well with. Null, and a failure that shows its last event, where it did not.
inline const DoneEvent* GoodEnd(const std::vector<Event>& events) {
  const auto* done = events.empty() ? nullptr : std::get_if<DoneEvent>(&events.back());
  if (done == nullptr) {
    ADD_FAILURE() << (events.empty() ? "no events" : FormatEvent(events.back(), 0));
  }
  return done;
}

// A folder with a tiny run of 24 rows, LoRA of rank 4 on one thread, and its configuration.
class TinyRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/graft_trainer_test_XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    WriteTinyRun(folder_);
    config_.model.path = folder_ + "/model";
    config_.dataset.training = {folder_ + "/train.jsonl"};
    config_.dataset.max_seq_length = 64;
    config_.tuning.rank = 4;
    config_.threads = 1;
    config_.precision = Precision::kFp32;  // one whatever the machine
    config_.seed = 11;
  }
  void TearDown() override { RemoveTree(folder_).IgnoreError(); }

  void Into(const std::string& name) {
    config_.output.folder = folder_ + "/out-" + name;
    config_.checkpoint.folder = folder_ + "/checkpoints-" + name;
  }

  std::string folder_;
  RunConfig config_;
};

// graft-trainer --run, with its events. Closed descriptors and the child are the owner's to end.
class TrainerProcess {
 public:
  // `inherited_fd` becomes the child's GRAFT_RENDEZVOUS_FD; -1: none. What it complains of goes to
  // run_file.err.
  TrainerProcess(const std::string& run_file, int inherited_fd = -1)
      : complaints_(run_file + ".err") {
    int out[2], in[2];
    GRAFT_CHECK(pipe(out) == 0 && pipe2(in, O_CLOEXEC) == 0);
    const std::string program = TestEnv("GRAFT_BINARY_DIR") + "/bin/graft-trainer";
    const std::string fd_text = std::to_string(inherited_fd);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], STDIN_FILENO);
      dup2(out[1], STDOUT_FILENO);
      dup2(open(complaints_.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600), STDERR_FILENO);
      close(out[0]);
      close(out[1]);
      if (inherited_fd >= 0) setenv("GRAFT_RENDEZVOUS_FD", fd_text.c_str(), 1);
      execl(program.c_str(), program.c_str(), "--run", run_file.c_str(), nullptr);
      _exit(127);
    }
    close(out[1]);
    close(in[0]);
    out_ = out[0];
    in_ = in[1];
  }
  TrainerProcess(const TrainerProcess&) = delete;
  TrainerProcess& operator=(const TrainerProcess&) = delete;
  ~TrainerProcess() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(out_);
    close(in_);
    if (::testing::Test::HasFailure()) std::fputs(Complaints().c_str(), stderr);
  }

  // What it has written to its standard error.
  std::string Complaints() const { return ReadFile(complaints_).value_or(""); }
  // A line on its standard input.
  void Tell(absl::string_view word) {
    const std::string line = absl::StrCat(word, "\n");
    GRAFT_CHECK(write(in_, line.data(), line.size()) == static_cast<ssize_t>(line.size()));
  }
  pid_t pid() const { return pid_; }
  // Reads events, calling `each`, until the pipe ends or `each` returns false.
  std::vector<Event> ReadEvents(const std::function<bool(const Event&)>& each) {
    std::vector<Event> events;
    char c;
    while (read(out_, &c, 1) == 1) {
      if (c != '\n') {
        line_.push_back(c);
        continue;
      }
      auto event = ParseEvent(line_);
      line_.clear();
      if (!event.ok()) continue;
      events.push_back(*std::move(event));
      if (!each(events.back())) break;
    }
    return events;
  }
  std::vector<Event> ReadToEnd() {
    return ReadEvents([](const Event&) { return true; });
  }
  // Waits for the end.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

 private:
  const std::string complaints_;
  pid_t pid_ = -1;
  int out_ = -1;
  int in_ = -1;
  std::string line_;
};

}  // namespace graft::trainer
