#include "worker/device/nvml.h"

#include <dlfcn.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/device/locality.h"
#include "worker/device/machine.h"

namespace graft::device {
namespace {

constexpr int kP2pNvlink = 2;                // NVML_P2P_CAPS_INDEX_NVLINK
constexpr int kEccUncorrected = 1;           // NVML_MEMORY_ERROR_TYPE_UNCORRECTED
constexpr int kEccVolatile = 0;              // NVML_VOLATILE_ECC: since the driver was loaded
constexpr unsigned long long kXidEvent = 8;  // nvmlEventTypeXidCriticalError
constexpr unsigned kMaxProcesses = 256;
constexpr int kMaxEventsARead = 1000;  // more than that is a driver that repeats itself
// XIDs that a program's own fault causes: out of range, page fault, stopped, preempted, its end.
constexpr unsigned long long kProgramXids[] = {13, 31, 43, 45, 68, 109};

template <typename Function>
void Bind(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
}

std::string UserOf(int64_t pid) {
  struct stat info;
  if (stat(absl::StrCat("/proc/", pid).c_str(), &info) != 0) return "";
  passwd entry;
  passwd* found = nullptr;
  char buffer[4096];
  if (getpwuid_r(info.st_uid, &entry, buffer, sizeof(buffer), &found) != 0 || found == nullptr) {
    return absl::StrCat(info.st_uid);
  }
  return found->pw_name;
}

// A process is ours when it is a descendant of this one.
bool IsOurs(int64_t pid) {
  const int64_t self = getpid();
  for (int depth = 0; depth < 64 && pid > 1; ++depth) {
    if (pid == self) return true;
    const absl::StatusOr<std::string> stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"), 8192);
    if (!stat.ok()) return false;
    // "pid (name) state parent": the name may hold anything, so count from its closing bracket.
    const size_t close = stat->rfind(')');
    if (close == std::string::npos || close + 4 >= stat->size()) return false;
    pid = std::strtoll(stat->c_str() + close + 4, nullptr, 10);
  }
  return false;
}

class Source final : public DeviceSource {
 public:
  explicit Source(const NvmlApi& api) : api_(api) {}

  absl::StatusOr<Inventory> Read() override {
    Inventory inventory = ReadMachine();
    unsigned count = 0;
    GRAFT_RETURN_IF_ERROR(Check(api_.device_count(&count), "counting the GPUs"));
    std::vector<NvmlHandle> handles;
    for (unsigned i = 0; i < count; ++i) {
      NvmlHandle handle = nullptr;
      GRAFT_RETURN_IF_ERROR(
          Check(api_.handle_by_index(i, &handle), absl::StrCat("opening GPU ", i)));
      Listen(handle);
      NoteEvents();
      GRAFT_RETURN_IF_ERROR(AddDevice(handle, handles, inventory));
    }
    FindNvlinkDomains(handles, inventory);
    return inventory;
  }

 private:
  absl::Status Check(int code, absl::string_view what) const {
    if (code == 0) return absl::OkStatus();
    const char* text = api_.error_string == nullptr ? nullptr : api_.error_string(code);
    return absl::InternalError(
        absl::StrCat("NVML: ", what, ": ", text == nullptr ? "error" : text, " (", code, ")"));
  }

  // Critical errors are told once, as they happen: a device that had one stays out of use until
  // the driver, and with it this process, is started anew.
  void Listen(NvmlHandle handle) {
    if (api_.event_set == nullptr || api_.register_events == nullptr ||
        api_.event_wait == nullptr || heard_.contains(handle)) {
      return;
    }
    heard_[handle] = "";
    if (events_ == nullptr && api_.event_set(&events_) != 0) events_ = nullptr;
    if (events_ != nullptr) (void)api_.register_events(handle, kXidEvent, events_);
  }

  void NoteEvents() {
    NvmlEvent event = {};
    for (int i = 0; events_ != nullptr && i < kMaxEventsARead; ++i) {
      if (api_.event_wait(events_, &event, 0) != 0) return;  // none waits
      const bool program = std::find(std::begin(kProgramXids), std::end(kProgramXids),
                                     event.data) != std::end(kProgramXids);
      if (event.type == kXidEvent && !program) {
        heard_[event.device] = absl::StrCat("XID ", event.data, " (see dmesg)");
      }
    }
  }

  // A whole GPU, or its MIG slices where it is cut into such.
  absl::Status AddDevice(NvmlHandle handle, std::vector<NvmlHandle>& handles,
                         Inventory& inventory) {
    unsigned mode = 0, pending = 0, slices = 0;
    const bool mig = api_.mig_mode != nullptr && api_.mig_mode(handle, &mode, &pending) == 0 &&
                     mode == 1 && api_.max_mig_devices != nullptr &&
                     api_.max_mig_devices(handle, &slices) == 0;
    const size_t first = inventory.devices.size();
    if (!mig) GRAFT_RETURN_IF_ERROR(AddOne(handle, false, handles, inventory));
    for (unsigned i = 0; mig && i < slices; ++i) {
      NvmlHandle slice = nullptr;
      if (api_.mig_handle(handle, i, &slice) != 0) continue;  // That place is not in use.
      GRAFT_RETURN_IF_ERROR(AddOne(slice, true, handles, inventory));
    }
    const Place place = PlaceOf(handle);
    for (size_t i = first; i < inventory.devices.size(); ++i) {
      Device& device = inventory.devices[i];
      if (device.numa_node < 0) device.numa_node = place.numa_node;
      device.nic = place.nic;
    }
    const auto sick = heard_.find(handle);
    if (sick == heard_.end() || sick->second.empty()) return absl::OkStatus();
    for (size_t i = first; i < inventory.devices.size(); ++i) {
      inventory.devices[i].healthy = false;
      inventory.devices[i].health_reason = sick->second;
    }
    return absl::OkStatus();
  }

  Place PlaceOf(NvmlHandle handle) {
    NvmlPci pci = {};
    if (api_.pci == nullptr || api_.pci(handle, &pci) != 0) return {};
    if (locality_ == nullptr) {
      auto machine = LocalityOfThisMachine();
      if (!machine.ok()) {
        LOG_WARNING("NUMA nodes and network cards are not known",
                    {{"reason", machine.status().message()}});
        return {};
      }
      locality_ = *std::move(machine);
    }
    return locality_->Of({pci.domain, pci.bus, pci.device});
  }

  absl::Status AddOne(NvmlHandle handle, bool slice, std::vector<NvmlHandle>& handles,
                      Inventory& inventory) {
    Device device;
    device.index = static_cast<int>(inventory.devices.size());
    device.kind = DeviceKind::kCuda;
    char text[128] = {};
    GRAFT_RETURN_IF_ERROR(Check(api_.name(handle, text, sizeof(text)), "reading a name"));
    device.product = text;
    if (slice) {
      // "NVIDIA H100 80GB HBM3 MIG 1g.10gb": the profile is the last word.
      device.mig_profile = device.product.substr(device.product.rfind(' ') + 1);
    }
    GRAFT_RETURN_IF_ERROR(Check(api_.uuid(handle, text, sizeof(text)), "reading a UUID"));
    device.uuid = text;
    NvmlMemory memory = {};
    GRAFT_RETURN_IF_ERROR(Check(api_.memory(handle, &memory), "reading the memory"));
    device.memory_bytes = static_cast<int64_t>(memory.total);
    device.memory_free_bytes = static_cast<int64_t>(memory.free);
    unsigned numa = 0;
    if (api_.numa_node != nullptr && api_.numa_node(handle, &numa) == 0) {
      device.numa_node = static_cast<int>(numa);
    }
    NvmlUtilization utilization = {};
    if (api_.utilization != nullptr && api_.utilization(handle, &utilization) == 0) {
      device.utilisation = utilization.gpu / 100.0;
    }
    ReadHealth(handle, device);
    ReadProcesses(handle, device);
    handles.push_back(handle);
    inventory.devices.push_back(std::move(device));
    return absl::OkStatus();
  }

  void ReadHealth(NvmlHandle handle, Device& device) const {
    unsigned long long errors = 0;
    if (api_.ecc_errors == nullptr ||
        api_.ecc_errors(handle, kEccUncorrected, kEccVolatile, &errors) != 0 || errors == 0) {
      return;
    }
    device.healthy = false;
    device.health_reason = absl::StrCat(errors, " uncorrected ECC errors");
  }

  void ReadProcesses(NvmlHandle handle, Device& device) const {
    if (api_.processes == nullptr) return;
    NvmlProcess processes[kMaxProcesses];
    unsigned count = kMaxProcesses;
    if (api_.processes(handle, &count, processes) != 0) return;
    for (unsigned i = 0; i < count; ++i) {
      const int64_t pid = processes[i].pid;
      if (!IsOurs(pid)) device.foreign.push_back({pid, UserOf(pid)});
    }
  }

  // Domains are the connected groups of the "reaches over NVLink" relation.
  void FindNvlinkDomains(const std::vector<NvmlHandle>& handles, Inventory& inventory) const {
    if (api_.p2p_status == nullptr) return;
    int next = 0;
    for (size_t i = 0; i < handles.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        int status = -1;
        if (api_.p2p_status(handles[i], handles[j], kP2pNvlink, &status) != 0 || status != 0)
          continue;
        Device& a = inventory.devices[i];
        Device& b = inventory.devices[j];
        if (b.nvlink_domain < 0) b.nvlink_domain = next++;
        if (a.nvlink_domain < 0) a.nvlink_domain = b.nvlink_domain;
        if (a.nvlink_domain == b.nvlink_domain) continue;
        const int joined = b.nvlink_domain;
        for (Device& device : inventory.devices) {
          if (device.nvlink_domain == joined) device.nvlink_domain = a.nvlink_domain;
        }
      }
    }
  }

  const NvmlApi api_;
  std::unique_ptr<Locality> locality_;       // read when it is first asked for
  void* events_ = nullptr;                   // the driver's; as long as this process
  std::map<NvmlHandle, std::string> heard_;  // what makes a device sick, empty: nothing
};

}  // namespace

absl::StatusOr<NvmlApi> LoadNvml() {
  // Never closed: the driver's threads outlive any one reader.
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return absl::NotFoundError("no NVIDIA driver (libnvidia-ml.so.1)");
  NvmlApi api;
  Bind(library, "nvmlInit_v2", api.init);
  Bind(library, "nvmlErrorString", api.error_string);
  Bind(library, "nvmlDeviceGetCount_v2", api.device_count);
  Bind(library, "nvmlDeviceGetHandleByIndex_v2", api.handle_by_index);
  Bind(library, "nvmlDeviceGetName", api.name);
  Bind(library, "nvmlDeviceGetUUID", api.uuid);
  Bind(library, "nvmlDeviceGetMemoryInfo", api.memory);
  Bind(library, "nvmlDeviceGetPciInfo_v3", api.pci);
  Bind(library, "nvmlDeviceGetNumaNodeId", api.numa_node);
  Bind(library, "nvmlDeviceGetP2PStatus", api.p2p_status);
  Bind(library, "nvmlDeviceGetComputeRunningProcesses_v3", api.processes);
  Bind(library, "nvmlDeviceGetUtilizationRates", api.utilization);
  Bind(library, "nvmlDeviceGetTotalEccErrors", api.ecc_errors);
  Bind(library, "nvmlEventSetCreate", api.event_set);
  Bind(library, "nvmlDeviceRegisterEvents", api.register_events);
  Bind(library, "nvmlEventSetWait_v2", api.event_wait);
  Bind(library, "nvmlDeviceGetMigMode", api.mig_mode);
  Bind(library, "nvmlDeviceGetMaxMigDeviceCount", api.max_mig_devices);
  Bind(library, "nvmlDeviceGetMigDeviceHandleByIndex", api.mig_handle);
  if (api.init == nullptr || api.device_count == nullptr || api.handle_by_index == nullptr ||
      api.name == nullptr || api.uuid == nullptr || api.memory == nullptr) {
    return absl::FailedPreconditionError("the NVIDIA driver's NVML is too old; update the driver");
  }
  if (const int code = api.init(); code != 0) {
    const char* text = api.error_string == nullptr ? nullptr : api.error_string(code);
    return absl::FailedPreconditionError(
        absl::StrCat("NVML does not start: ", text == nullptr ? "error" : text, " (", code, ")"));
  }
  return api;
}

std::unique_ptr<DeviceSource> NvmlSource(const NvmlApi& api) {
  return std::make_unique<Source>(api);
}

absl::StatusOr<std::unique_ptr<DeviceSource>> NvmlDevices() {
  GRAFT_ASSIGN_OR_RETURN(const NvmlApi api, LoadNvml());
  return NvmlSource(api);
}

}  // namespace graft::device
