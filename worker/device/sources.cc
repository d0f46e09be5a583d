#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/device/inventory.h"
#include "worker/device/machine.h"

namespace graft::device {
namespace {

constexpr int kMaxDeclaredDevices = 1024;

class CpuSource final : public DeviceSource {
 public:
  explicit CpuSource(int count) : count_(std::max(1, count)) {}

  absl::StatusOr<Inventory> Read() override {
    Inventory inventory = ReadMachine();
    const std::optional<double> busy = meter_.Read();
    for (int i = 0; i < count_; ++i) {
      Device device;
      device.index = i;
      device.kind = DeviceKind::kCpu;
      device.uuid = absl::StrCat("cpu-", inventory.hostname, "-", i);
      device.product = "cpu";
      device.memory_bytes = inventory.memory_bytes / count_;
      device.memory_free_bytes = AvailableMemoryBytes() / count_;
      // Ranks of one machine talk through its memory: they count as linked.
      device.nvlink_domain = 0;
      device.utilisation = busy;  // of all of them together
      inventory.devices.push_back(std::move(device));
    }
    return inventory;
  }

 private:
  const int count_;
  CpuMeter meter_;
};

class DeclaredSource final : public DeviceSource {
 public:
  explicit DeclaredSource(Inventory inventory) : inventory_(std::move(inventory)) {}
  absl::StatusOr<Inventory> Read() override { return inventory_; }

 private:
  const Inventory inventory_;
};

class SelectedSource final : public DeviceSource {
 public:
  SelectedSource(std::unique_ptr<DeviceSource> source, std::vector<int> indices)
      : source_(std::move(source)), indices_(std::move(indices)) {}

  absl::StatusOr<Inventory> Read() override {
    GRAFT_ASSIGN_OR_RETURN(Inventory inventory, source_->Read());
    std::erase_if(inventory.devices, [this](const Device& device) {
      return std::find(indices_.begin(), indices_.end(), device.index) == indices_.end();
    });
    return inventory;
  }

 private:
  const std::unique_ptr<DeviceSource> source_;
  const std::vector<int> indices_;
};

absl::Status CheckKeys(const Json& object, std::initializer_list<absl::string_view> known,
                       absl::string_view where) {
  if (!object.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " is a ", object.type_name(), ", not an object"));
  }
  for (const auto& [key, value] : object.as_object()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return absl::InvalidArgumentError(absl::StrCat(where, " has an unknown key \"", key, "\""));
    }
  }
  return absl::OkStatus();
}

absl::Status AddDeclared(const Json& entry, const std::string& where, Inventory& inventory) {
  GRAFT_RETURN_IF_ERROR(CheckKeys(
      entry, {"count", "product", "memory_gb", "nvlink_domain", "numa_node", "mig_profile"},
      where));
  const int64_t count = entry.GetInt("count", 1);
  if (count < 1 || count + static_cast<int64_t>(inventory.devices.size()) > kMaxDeclaredDevices) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ".count is ", count, "; a node has 1 to ", kMaxDeclaredDevices));
  }
  const double memory_gb = entry.GetDouble("memory_gb", 80);
  if (!(memory_gb > 0 && memory_gb < 1e6)) {
    return absl::InvalidArgumentError(absl::StrCat(where, ".memory_gb must be above 0"));
  }
  for (int64_t i = 0; i < count; ++i) {
    Device device;
    device.index = static_cast<int>(inventory.devices.size());
    device.kind = DeviceKind::kDeclared;
    device.uuid = absl::StrCat("declared-", inventory.hostname, "-", device.index);
    device.product = entry.GetString("product", "declared");
    device.memory_bytes = static_cast<int64_t>(memory_gb * 1e9);
    device.memory_free_bytes = device.memory_bytes;
    device.nvlink_domain = static_cast<int>(entry.GetInt("nvlink_domain", -1));
    device.numa_node = static_cast<int>(entry.GetInt("numa_node", -1));
    device.mig_profile = entry.GetString("mig_profile");
    inventory.devices.push_back(std::move(device));
  }
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<DeviceSource> CpuDevices(int count) { return std::make_unique<CpuSource>(count); }

absl::StatusOr<std::unique_ptr<DeviceSource>> DeclaredDevices(absl::string_view json) {
  GRAFT_ASSIGN_OR_RETURN(const Json root, Json::Parse(json));
  GRAFT_RETURN_IF_ERROR(CheckKeys(root, {"hostname", "devices"}, "the declared topology"));
  Inventory inventory = ReadMachine();
  inventory.hostname = root.GetString("hostname", inventory.hostname);
  const Json* devices = root.Find("devices");
  if (devices == nullptr || !devices->is_array() || devices->as_array().empty()) {
    return absl::InvalidArgumentError("the declared topology needs a list \"devices\"");
  }
  for (size_t i = 0; i < devices->as_array().size(); ++i) {
    GRAFT_RETURN_IF_ERROR(
        AddDeclared(devices->as_array()[i], absl::StrCat("devices[", i, "]"), inventory));
  }
  return std::make_unique<DeclaredSource>(std::move(inventory));
}

std::unique_ptr<DeviceSource> DetectDevices() {
  absl::StatusOr<std::unique_ptr<DeviceSource>> nvml = NvmlDevices();
  if (nvml.ok()) {
    const absl::StatusOr<Inventory> inventory = (*nvml)->Read();
    if (inventory.ok() && !inventory->devices.empty()) return *std::move(nvml);
  } else if (!absl::IsNotFound(nvml.status())) {
    LOG_WARNING("the NVIDIA driver is there but cannot be used; falling back to the CPU",
                {{"reason", nvml.status().message()}});
  }
  return CpuDevices(1);
}

std::unique_ptr<DeviceSource> SelectDevices(std::unique_ptr<DeviceSource> source,
                                            std::vector<int> indices) {
  return std::make_unique<SelectedSource>(std::move(source), std::move(indices));
}

absl::StatusOr<std::vector<int>> ParseSelection(absl::string_view selection, int device_count) {
  std::vector<int> indices;
  for (const absl::string_view word : absl::StrSplit(selection, ',')) {
    int index = 0;
    if (!absl::SimpleAtoi(word, &index) || index < 0 || index >= device_count) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no device \"", word, "\"; this machine has ",
                       device_count == 0   ? std::string("none")
                       : device_count == 1 ? std::string("device 0 alone")
                                           : absl::StrCat("0 to ", device_count - 1)));
    }
    if (std::find(indices.begin(), indices.end(), index) != indices.end()) {
      return absl::InvalidArgumentError(absl::StrCat("device ", index, " is named twice"));
    }
    indices.push_back(index);
  }
  return indices;
}

}  // namespace graft::device
