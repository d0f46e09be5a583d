#include "worker/trainer/control.h"

#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "absl/strings/ascii.h"
#include "base/check.h"
#include "base/log.h"
#include "worker/trainer/control_words.h"

namespace graft::trainer {
namespace {

constexpr size_t kMaxControlLineBytes = 4096;

// Written by a signal handler, which can know no object.
std::atomic<bool> g_terminate = false;
static_assert(std::atomic<bool>::is_always_lock_free);

void OnSignal(int) { g_terminate.store(true); }

}  // namespace

Control::Control(int fd) : fd_(fd) {
  g_terminate.store(false);
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  if (fd_ < 0) return;
  GRAFT_CHECK(pipe(stop_pipe_) == 0) << "pipe";
  reader_ = std::thread([this] { Read(); });
}

Control::~Control() {
  if (!reader_.joinable()) return;
  close(stop_pipe_[1]);
  reader_.join();
  close(stop_pipe_[0]);
}

bool Control::terminate() const { return g_terminate.load(); }

void Control::Read() {
  std::string line;
  char buffer[512];
  while (true) {
    pollfd waited[2] = {{fd_, POLLIN, 0}, {stop_pipe_[0], POLLIN, 0}};
    if (poll(waited, 2, -1) < 0) continue;
    if (waited[1].revents != 0) return;
    const ssize_t got = read(fd_, buffer, sizeof(buffer));
    if (got <= 0) return;  // whoever started it has gone; the run goes on
    for (ssize_t i = 0; i < got; ++i) {
      if (buffer[i] != '\n') {
        if (line.size() < kMaxControlLineBytes) line.push_back(buffer[i]);
        continue;
      }
      const absl::string_view word = absl::StripAsciiWhitespace(line);
      if (word == kCheckpointWord) {
        checkpoint_.store(true);
      } else if (word == kPauseWord) {
        pause_.store(true);
      } else if (word == kFinishWord || word == kFinishWithBestWord) {
        finish_with_best_.store(word == kFinishWithBestWord);
        finish_.store(true);
      } else if (!word.empty()) {
        LOG_WARNING("unknown control line", {{"line", word}});
      }
      line.clear();
    }
  }
}

}  // namespace graft::trainer
