// How a daemon waits for its end: SIGTERM and SIGINT, taken from a thread that waits for them, so
// that no code runs in a signal handler.
//
//   rpc::TerminationSignal termination;   // first in main, before any thread starts
//   ... start the server ...
//   termination.Wait();
//   server->Shutdown(grace);
#pragma once

#include <csignal>

namespace graft::rpc {

class TerminationSignal {
 public:
  // Blocks both signals in this thread and in those it starts from now on; ignores SIGPIPE.
  TerminationSignal();
  // Returns the signal that came. A second one during the shutdown ends the process at once.
  int Wait();

 private:
  sigset_t signals_;
};

}  // namespace graft::rpc
