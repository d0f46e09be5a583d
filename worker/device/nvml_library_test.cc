// The reading of GPUs through a library that is found and bound as the driver's is.
#include <cstdlib>

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "worker/device/inventory.h"

namespace graft::device {
namespace {

using ::testing::HasSubstr;

// The inventory while the second GPU ails.
Inventory With(const char* ailment) {
  setenv("GRAFT_FAKE_NVML", ailment, 1);
  auto devices = NvmlDevices();
  if (!devices.ok()) {
    ADD_FAILURE() << devices.status();
    return {};
  }
  const absl::StatusOr<Inventory> inventory = (*devices)->Read();
  EXPECT_THAT(inventory, IsOk());
  return inventory.ok() ? *inventory : Inventory();
}

TEST(NvmlLibraryTest, IsFoundByItsName) {
  const Inventory inventory = With("");
  ASSERT_EQ(inventory.devices.size(), 2u);
  EXPECT_EQ(inventory.devices[1].product, "Fake GPU");
  EXPECT_EQ(inventory.devices[1].uuid, "GPU-fake-1");
  EXPECT_TRUE(inventory.devices[1].healthy);
}

TEST(NvmlLibraryTest, UncorrectedErrorsMakeItSick) {
  const Inventory inventory = With("ecc 3");
  EXPECT_TRUE(inventory.devices.at(0).healthy);
  EXPECT_FALSE(inventory.devices.at(1).healthy);
}

TEST(NvmlLibraryTest, ACriticalErrorMakesItSickForGood) {
  setenv("GRAFT_FAKE_NVML", "xid 79", 1);
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto devices, NvmlDevices());
  for (int read = 0; read < 2; ++read) {  // the driver tells of it once
    GRAFT_ASSERT_OK_AND_ASSIGN(const Inventory inventory, devices->Read());
    EXPECT_TRUE(inventory.devices.at(0).healthy);
    EXPECT_FALSE(inventory.devices.at(1).healthy);
    EXPECT_THAT(inventory.devices.at(1).health_reason, HasSubstr("XID 79"));
  }
}

TEST(NvmlLibraryTest, AForeignProcessIsNamed) {
  const Inventory inventory = With("pid 1");
  ASSERT_EQ(inventory.devices.at(1).foreign.size(), 1u);
  EXPECT_EQ(inventory.devices.at(1).foreign[0].pid, 1);
  EXPECT_EQ(inventory.devices.at(1).foreign[0].user, "root");
}

}  // namespace
}  // namespace graft::device
