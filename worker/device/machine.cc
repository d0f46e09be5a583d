#include "worker/device/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"

namespace graft::device {
namespace {

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) {
    return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  }
  return std::max(1, CPU_COUNT(&set));
}

// The value in kB of a line "Name:   123 kB" of /proc/meminfo, in bytes; 0 where it is absent.
int64_t MemInfo(absl::string_view name) {
  const absl::StatusOr<std::string> text = ReadFile("/proc/meminfo");
  if (!text.ok()) return 0;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (!absl::ConsumePrefix(&line, name) || !absl::ConsumePrefix(&line, ":")) continue;
    absl::ConsumeSuffix(&line, "kB");
    int64_t kilobytes = 0;
    if (absl::SimpleAtoi(absl::StripAsciiWhitespace(line), &kilobytes)) return kilobytes * 1024;
  }
  return 0;
}

// The limit of this process' cgroup, or 0 where there is none.
int64_t CgroupLimit() {
  const absl::StatusOr<std::string> text = ReadFile("/sys/fs/cgroup/memory.max");
  int64_t bytes = 0;
  if (!text.ok() || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &bytes)) return 0;
  return bytes;
}

}  // namespace

Inventory ReadMachine() {
  Inventory inventory;
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) == 0) inventory.hostname = name;
  inventory.cpus = UsableCores();
  inventory.memory_bytes = MemInfo("MemTotal");
  const int64_t limit = CgroupLimit();
  if (limit > 0 && limit < inventory.memory_bytes) inventory.memory_bytes = limit;
  return inventory;
}

int64_t AvailableMemoryBytes() { return MemInfo("MemAvailable"); }

}  // namespace graft::device
