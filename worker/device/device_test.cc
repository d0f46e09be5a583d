#include <cstring>
#include <string>
#include <vector>

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "worker/device/inventory.h"
#include "worker/device/nvml.h"

namespace graft::device {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(CpuDevicesTest, ShareTheMachine) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const Inventory inventory, CpuDevices(2)->Read());
  ASSERT_EQ(inventory.devices.size(), 2u);
  EXPECT_GT(inventory.cpus, 0);
  EXPECT_EQ(inventory.devices[0].memory_bytes, inventory.memory_bytes / 2);
  EXPECT_EQ(inventory.devices[0].nvlink_domain, inventory.devices[1].nvlink_domain);
  EXPECT_NE(inventory.devices[0].uuid, inventory.devices[1].uuid);
}

TEST(DeclaredDevicesTest, AreAsDeclared) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto source, DeclaredDevices(R"({"hostname":"n1","devices":[
          {"count":4,"product":"H100","memory_gb":80,"nvlink_domain":0},
          {"count":4,"product":"H100","memory_gb":80,"nvlink_domain":1}]})"));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Inventory inventory, source->Read());
  EXPECT_EQ(inventory.hostname, "n1");
  ASSERT_EQ(inventory.devices.size(), 8u);
  EXPECT_EQ(inventory.devices[3].nvlink_domain, 0);
  EXPECT_EQ(inventory.devices[4].nvlink_domain, 1);
  EXPECT_EQ(inventory.devices[7].memory_bytes, 80'000'000'000);
}

TEST(DeclaredDevicesTest, AWrongKeyIsNamed) {
  EXPECT_THAT(DeclaredDevices(R"({"devices":[{"cuont":4}]})"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("devices[0] has an unknown key \"cuont\"")));
  EXPECT_THAT(DeclaredDevices("{}"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(DeclaredDevices(R"({"devices":[{"count":0}]})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("devices[0].count")));
}

TEST(ParseSelectionTest, NamesWhatThereIs) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::vector<int> picked, ParseSelection("0,2", 3));
  EXPECT_THAT(picked, ElementsAre(0, 2));
  EXPECT_THAT(ParseSelection("3", 3),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 to 2")));
  EXPECT_THAT(ParseSelection("1,1", 3),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));
  EXPECT_THAT(ParseSelection("x", 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("none")));
}

TEST(SelectDevicesTest, KeepsTheChosenWithTheirIndices) {
  GRAFT_ASSERT_OK_AND_ASSIGN(auto all, DeclaredDevices(R"({"devices":[{"count":4}]})"));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Inventory inventory,
                             SelectDevices(std::move(all), {0, 2})->Read());
  ASSERT_EQ(inventory.devices.size(), 2u);
  EXPECT_EQ(inventory.devices[0].index, 0);
  EXPECT_EQ(inventory.devices[1].index, 2);
}

// Four GPUs in two NVLink pairs; the last one has an ECC error and a foreign process (pid 1).
NvmlApi FakeNvml() {
  NvmlApi api;
  api.device_count = [](unsigned* count) { return *count = 4, 0; };
  api.handle_by_index = [](unsigned i, NvmlHandle* handle) {
    *handle = reinterpret_cast<NvmlHandle>(static_cast<uintptr_t>(i + 1));
    return 0;
  };
  api.name = [](NvmlHandle, char* text, unsigned) { return std::strcpy(text, "NVIDIA H200"), 0; };
  api.uuid = [](NvmlHandle handle, char* text, unsigned size) {
    snprintf(text, size, "GPU-%d", static_cast<int>(reinterpret_cast<uintptr_t>(handle)));
    return 0;
  };
  api.memory = [](NvmlHandle, NvmlMemory* memory) {
    *memory = {.total = 150, .free = 100, .used = 50};
    return 0;
  };
  api.p2p_status = [](NvmlHandle a, NvmlHandle b, int, int* status) {
    const auto pair = [](NvmlHandle handle) {
      return (reinterpret_cast<uintptr_t>(handle) - 1) / 2;
    };
    *status = pair(a) == pair(b) ? 0 : 1;
    return 0;
  };
  api.ecc_errors = [](NvmlHandle handle, int, int, unsigned long long* errors) {
    *errors = reinterpret_cast<uintptr_t>(handle) == 4 ? 3 : 0;
    return 0;
  };
  api.processes = [](NvmlHandle handle, unsigned* count, NvmlProcess* processes) {
    *count = reinterpret_cast<uintptr_t>(handle) == 4 ? 1 : 0;
    processes[0].pid = 1;
    return 0;
  };
  return api;
}

TEST(NvmlTest, ReadsLinksHealthAndForeignProcesses) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const Inventory inventory, NvmlSource(FakeNvml())->Read());
  ASSERT_EQ(inventory.devices.size(), 4u);
  EXPECT_EQ(inventory.devices[0].nvlink_domain, inventory.devices[1].nvlink_domain);
  EXPECT_EQ(inventory.devices[2].nvlink_domain, inventory.devices[3].nvlink_domain);
  EXPECT_NE(inventory.devices[0].nvlink_domain, inventory.devices[2].nvlink_domain);
  EXPECT_TRUE(inventory.devices[0].healthy);
  EXPECT_FALSE(inventory.devices[3].healthy);
  EXPECT_THAT(inventory.devices[3].health_reason, HasSubstr("3 uncorrected ECC"));
  ASSERT_EQ(inventory.devices[3].foreign.size(), 1u);
  EXPECT_EQ(inventory.devices[3].foreign[0].pid, 1);
}

TEST(NvmlTest, AProgramsOwnFaultIsNotTheDevices) {
  static int told;
  told = 0;
  NvmlApi api = FakeNvml();
  api.event_set = [](void** set) { return *set = &told, 0; };
  api.register_events = [](NvmlHandle, unsigned long long, void*) { return 0; };
  api.event_wait = [](void*, NvmlEvent* event, unsigned) {
    *event = {.device = reinterpret_cast<NvmlHandle>(1), .type = 8, .data = 31};  // a page fault
    return told++ == 0 ? 0 : 10;
  };
  GRAFT_ASSERT_OK_AND_ASSIGN(const Inventory inventory, NvmlSource(api)->Read());
  EXPECT_GT(told, 0);
  EXPECT_TRUE(inventory.devices[0].healthy);
}

TEST(NvmlTest, AFailingCallIsSaidWithItsNumber) {
  NvmlApi api = FakeNvml();
  api.memory = [](NvmlHandle, NvmlMemory*) { return 999; };
  EXPECT_THAT(NvmlSource(api)->Read(), StatusIs(absl::StatusCode::kInternal, HasSubstr("999")));
}

TEST(NvmlTest, AMigSliceIsADeviceWithItsProfile) {
  NvmlApi api = FakeNvml();
  api.device_count = [](unsigned* count) { return *count = 1, 0; };
  api.mig_mode = [](NvmlHandle, unsigned* mode, unsigned*) { return *mode = 1, 0; };
  api.max_mig_devices = [](NvmlHandle, unsigned* count) { return *count = 7, 0; };
  api.mig_handle = [](NvmlHandle, unsigned i, NvmlHandle* handle) {
    *handle = reinterpret_cast<NvmlHandle>(static_cast<uintptr_t>(100 + i));
    return i < 2 ? 0 : 6;
  };
  api.name = [](NvmlHandle, char* text, unsigned) {
    return std::strcpy(text, "NVIDIA H100 MIG 1g.10gb"), 0;
  };
  GRAFT_ASSERT_OK_AND_ASSIGN(const Inventory inventory, NvmlSource(api)->Read());
  ASSERT_EQ(inventory.devices.size(), 2u);
  EXPECT_EQ(inventory.devices[0].mig_profile, "1g.10gb");
}

}  // namespace
}  // namespace graft::device
