#include "rpc/termination.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace graft::rpc {
namespace {

// In a process of its own, which the second signal ends.
TEST(TerminationTest, TheFirstSignalIsReturnedAndTheSecondEndsTheProcess) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    TerminationSignal termination;
    kill(getpid(), SIGTERM);
    if (termination.Wait() != SIGTERM) _exit(1);
    kill(getpid(), SIGINT);
    _exit(2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << "left with " << WEXITSTATUS(status);
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

}  // namespace
}  // namespace graft::rpc
