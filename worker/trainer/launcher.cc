// graft-trainer: becomes graft-trainer-rank, which stands beside it, with the settings that
// libraries read before a program's main. A person's own settings stand.
#include <libgen.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

constexpr int kExitCannotRun = 127;

// libgomp's threads spin for milliseconds at a barrier, which on a machine with other work costs
// several times what it saves (measured: 4 times slower steps beside a compiler).
void SpinBriefly() {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) setenv("GOMP_SPINCOUNT", "2000", 0);
}

}  // namespace

int main(int, char** argv) {
  SpinBriefly();
  char self[PATH_MAX] = {};
  if (readlink("/proc/self/exe", self, sizeof(self) - 1) > 0) {
    const std::string rank = std::string(dirname(self)) + "/graft-trainer-rank";
    execv(rank.c_str(), argv);
    std::perror(rank.c_str());
  }
  return kExitCannotRun;
}
