#include "worker/trainer/compute_device.h"

#include <dlfcn.h>
#include <libgen.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/model/device_self_test.h"
#include "worker/model/torch_boundary.h"

namespace graft::trainer {
namespace {

// Dense bf16 or fp16 with fp32 sums, as the makers state it.
constexpr std::pair<absl::string_view, double> kPeaks[] = {
    {"H200", 989e12},  {"H100 PCIe", 756e12}, {"H100", 989e12},    {"H800", 989e12},
    {"A100", 312e12},  {"A800", 312e12},      {"L40S", 362e12},    {"L40", 181e12},
    {"L4", 121e12},    {"A10G", 70e12},       {"A10", 125e12},     {"A40", 150e12},
    {"A6000", 155e12}, {"RTX 4090", 165e12},  {"RTX 3090", 71e12}, {"V100", 125e12},
    {"T4", 65e12}};

double MeasuredFlops() {
  constexpr int64_t kRows = 512, kInner = 576, kColumns = 1536;
  constexpr int kTimes = 4;
  const at::Tensor a = at::ones({kRows, kInner}), b = at::ones({kInner, kColumns});
  at::Tensor c = at::mm(a, b);  // the first one allocates
  double best = 0;
  for (int i = 0; i < kTimes; ++i) {
    const auto start = std::chrono::steady_clock::now();
    at::mm_out(c, a, b);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2.0 * kRows * kInner * kColumns / took.count());
  }
  return best;
}

// Whether the driver sees a device, asked without torch.
bool DriverHasDevice() {
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver == nullptr) return false;
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  int devices = 0;
  return init != nullptr && count != nullptr && init(0) == 0 && count(&devices) == 0 && devices > 0;
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& wanted, int64_t rank,
                                          const model::Accelerator* accelerator) {
  const DeviceChoice cpu = {at::kCPU, TypesOfCpu(), "cpu"};
  const int count = accelerator == nullptr ? 0 : accelerator->count();
  if (wanted == "cpu" || (wanted == "auto" && count == 0)) return cpu;
  absl::string_view rest = wanted;
  // Ranks of one machine take a GPU each; an agent shows each rank its own alone.
  int index = count == 0 ? 0 : static_cast<int>(rank % count);
  const bool numbered = absl::ConsumePrefix(&rest, "cuda:") && absl::SimpleAtoi(rest, &index);
  if (wanted != "auto" && wanted != "cuda" && !numbered) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is \"", wanted, "\"; known are auto, cpu, cuda, cuda:N"));
  }
  if (index < 0 || index >= count) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", wanted, ": this machine has ", count, " GPUs that can be used"));
  }
  const model::AcceleratorFacts facts = accelerator->Describe(index);
  return DeviceChoice{at::Device(accelerator->type(), static_cast<c10::DeviceIndex>(index)),
                      {.gpu = true, .bf16 = facts.bf16},
                      facts.name};
}

absl::Status TakeKernels(const DeviceChoice& choice, const model::Accelerator& accelerator) {
  absl::Status right;
  GRAFT_RETURN_IF_ERROR(model::TorchCall("trying the kernels", [&] {
    right = model::CheckKernels(accelerator.kernels(), choice.device);
  }));
  GRAFT_RETURN_IF_ERROR(right);
  model::SetDeviceKernels(accelerator.type(), &accelerator.kernels());
  return absl::OkStatus();
}

double PeakFlopsOf(const DeviceChoice& choice) {
  if (!choice.types.gpu) return MeasuredFlops();
  for (const auto& [name, flops] : kPeaks) {
    if (absl::StrContains(choice.name, name)) return flops;
  }
  return 0;
}

model::Accelerator* LoadAccelerator(std::string folder) {
  if (!DriverHasDevice()) return nullptr;
  if (folder.empty()) {
    char self[PATH_MAX] = {};
    if (readlink("/proc/self/exe", self, sizeof(self) - 1) <= 0) return nullptr;
    folder = dirname(self);
  }
  const std::string path = folder + "/libgraft_cuda.so";
  if (access(path.c_str(), F_OK) != 0) return nullptr;
  // Global, so that torch finds what its CUDA library registers.
  void* plugin = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  const auto make =
      plugin == nullptr
          ? nullptr
          : reinterpret_cast<model::Accelerator* (*)()>(dlsym(plugin, "GraftAccelerator"));
  if (make == nullptr) LOG_WARNING("the GPU is not used", {{"why", dlerror()}});
  return make == nullptr ? nullptr : make();
}

}  // namespace graft::trainer
