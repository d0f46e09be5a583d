#include "worker/device/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

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

std::optional<double> CpuMeter::Read() {
  const absl::StatusOr<std::string> text = ReadFile("/proc/stat");
  if (!text.ok()) return std::nullopt;
  const absl::string_view first = absl::string_view(*text).substr(0, text->find('\n'));
  const std::vector<absl::string_view> words = absl::StrSplit(first, ' ', absl::SkipEmpty());
  // cpu user nice system idle iowait irq softirq steal; what guests use is in user already.
  constexpr size_t kIdle = 4, kWaits = 5, kEnd = 9;
  int64_t all = 0, idle = 0;
  for (size_t i = 1; i < std::min(words.size(), kEnd); ++i) {
    int64_t ticks = 0;
    if (!absl::SimpleAtoi(words[i], &ticks)) return std::nullopt;
    all += ticks;
    if (i == kIdle || i == kWaits) idle += ticks;
  }
  // Two reads close together say nothing new.
  constexpr int64_t kLeastTicks = 10;
  if (all - all_ < kLeastTicks) return share_;
  const int64_t busy_before = std::exchange(busy_, all - idle);
  const int64_t all_before = std::exchange(all_, all);
  if (all_before > 0) {
    share_ = static_cast<double>(busy_ - busy_before) / static_cast<double>(all_ - all_before);
  }
  return share_;
}

}  // namespace graft::device
