// What a running trainer is told from outside: SIGTERM (checkpoint, then leave), and the lines of
// control_words.h on stdin. Asked between steps.
#pragma once

#include <atomic>
#include <thread>

namespace graft::trainer {

class Control {
 public:
  // Installs the handler of SIGTERM and SIGINT, ignores SIGPIPE, and reads `fd` (-1: nothing) from
  // a thread of its own. One at a time per process.
  explicit Control(int fd);
  ~Control();

  bool terminate() const;
  bool pause() const { return pause_.load(); }
  bool finish() const { return finish_.load(); }
  // With the best numbers rather than the newest.
  bool finish_with_best() const { return finish_with_best_.load(); }
  // True once for each time that a checkpoint was asked for.
  bool TakeCheckpointRequest() { return checkpoint_.exchange(false); }

 private:
  void Read();

  const int fd_;
  int stop_pipe_[2] = {-1, -1};
  std::atomic<bool> pause_ = false;
  std::atomic<bool> checkpoint_ = false;
  std::atomic<bool> finish_ = false;
  std::atomic<bool> finish_with_best_ = false;
  std::thread reader_;
};

}  // namespace graft::trainer
