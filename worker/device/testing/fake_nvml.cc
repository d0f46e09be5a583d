// A libnvidia-ml.so.1 of two GPUs for tests, which load it by its name as they would the driver's.
// GRAFT_FAKE_NVML says what ails the second: "xid 79", "ecc 3" or "pid 1", a process on it.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

struct Memory {
  unsigned long long total, free, used;
};
struct Process {
  unsigned pid;
  unsigned long long used_memory;
  unsigned gpu_instance, compute_instance;
};
struct Event {
  void* device;
  unsigned long long type, data;
  unsigned gpu_instance, compute_instance;
};

void* const kSecond = reinterpret_cast<void*>(2);
constexpr int kTimeout = 10;

// The number behind `word` in GRAFT_FAKE_NVML, for the second GPU; else 0.
unsigned Ails(const void* device, const char* word) {
  const char* text = std::getenv("GRAFT_FAKE_NVML");
  char found[16] = {};
  unsigned number = 0;
  if (device != kSecond || text == nullptr || std::sscanf(text, "%15s %u", found, &number) != 2) {
    return 0;
  }
  return std::strcmp(found, word) == 0 ? number : 0;
}

bool event_told = false;

}  // namespace

extern "C" {

int nvmlInit_v2() { return 0; }
const char* nvmlErrorString(int) { return "fake"; }
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = 2, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** handle) {
  return *handle = reinterpret_cast<void*>(static_cast<uintptr_t>(index + 1)), 0;
}
int nvmlDeviceGetName(void*, char* text, unsigned size) {
  return std::snprintf(text, size, "Fake GPU"), 0;
}
int nvmlDeviceGetUUID(void* device, char* text, unsigned size) {
  return std::snprintf(text, size, "GPU-fake-%d", device == kSecond ? 1 : 0), 0;
}
int nvmlDeviceGetMemoryInfo(void*, Memory* memory) {
  *memory = {80'000'000'000ull, 79'000'000'000ull, 1'000'000'000ull};
  return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void* device, unsigned* count, Process* processes) {
  const unsigned pid = Ails(device, "pid");
  *count = pid == 0 ? 0 : 1;
  processes[0] = {pid, 0, 0, 0};
  return 0;
}
int nvmlDeviceGetTotalEccErrors(void* device, int, int, unsigned long long* errors) {
  return *errors = Ails(device, "ecc"), 0;
}
int nvmlEventSetCreate(void** set) { return *set = &event_told, 0; }
int nvmlDeviceRegisterEvents(void*, unsigned long long, void*) { return 0; }
int nvmlEventSetWait_v2(void*, Event* event, unsigned) {
  const unsigned xid = Ails(kSecond, "xid");
  if (xid == 0 || event_told) return kTimeout;
  event_told = true;
  *event = {kSecond, 8, xid, 0, 0};
  return 0;
}

}  // extern "C"
