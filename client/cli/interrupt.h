// Ctrl-C while a live view is shown: it ends the view, not the program.
#pragma once

#include <signal.h>

#include <atomic>

namespace graft::cli {

// Holds SIGINT for as long as it lives; one at a time.
class InterruptGuard {
 public:
  InterruptGuard() {
    interrupted_ = false;
    struct sigaction action = {};
    action.sa_handler = [](int) { interrupted_ = true; };
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static bool interrupted() { return interrupted_; }

 private:
  static inline std::atomic<bool> interrupted_{false};
  struct sigaction before_ = {};
};

}  // namespace graft::cli
