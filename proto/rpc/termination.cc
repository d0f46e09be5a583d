#include "rpc/termination.h"

#include <pthread.h>

#include "base/check.h"

namespace graft::rpc {

TerminationSignal::TerminationSignal() {
  sigemptyset(&signals_);
  sigaddset(&signals_, SIGTERM);
  sigaddset(&signals_, SIGINT);
  GRAFT_CHECK(pthread_sigmask(SIG_BLOCK, &signals_, nullptr) == 0) << "signals cannot be blocked";
  std::signal(SIGPIPE, SIG_IGN);
}

int TerminationSignal::Wait() {
  int signal = 0;
  GRAFT_CHECK(sigwait(&signals_, &signal) == 0) << "signals cannot be waited for";
  // Only this thread lets them through again; their default ends the process.
  pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr);
  return signal;
}

}  // namespace graft::rpc
