#include "worker/device/locality.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::device {
namespace {

// Two sockets. On each a bridge with a GPU (bus 1 and 81) and an InfiniBand card; an Ethernet card
// hangs on the first socket beside its bridge.
constexpr char kTwoSockets[] = R"(<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
 <object type="Machine" os_index="0" cpuset="0x3" complete_cpuset="0x3" allowed_cpuset="0x3"
   nodeset="0x3" complete_nodeset="0x3" allowed_nodeset="0x3" gp_index="1">
  <object type="Package" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1"
    complete_nodeset="0x1" gp_index="2">
   <object type="NUMANode" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1"
     complete_nodeset="0x1" gp_index="3" local_memory="1073741824"/>
   <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1"
     complete_nodeset="0x1" gp_index="4"/>
   <object type="Bridge" gp_index="5" bridge_type="0-1" depth="0" bridge_pci="0000:[00-1f]">
    <object type="Bridge" gp_index="6" bridge_type="1-1" depth="1" bridge_pci="0000:[01-02]"
      pci_busid="0000:00:01.0" pci_type="0604 [8086:1901] [0000:0000] 00" pci_link_speed="0">
     <object type="PCIDev" gp_index="7" pci_busid="0000:01:00.0"
       pci_type="0302 [10de:2330] [10de:0000] a1" pci_link_speed="63"/>
     <object type="PCIDev" gp_index="8" pci_busid="0000:02:00.0"
       pci_type="0207 [15b3:1021] [15b3:0000] 00" pci_link_speed="63">
      <object type="OSDev" gp_index="9" name="mlx5_0" osdev_type="3"/>
     </object>
    </object>
    <object type="PCIDev" gp_index="10" pci_busid="0000:03:00.0"
      pci_type="0200 [8086:1521] [8086:0000] 00" pci_link_speed="0">
     <object type="OSDev" gp_index="11" name="eth0" osdev_type="2"/>
    </object>
   </object>
  </object>
  <object type="Package" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2"
    complete_nodeset="0x2" gp_index="12">
   <object type="NUMANode" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2"
     complete_nodeset="0x2" gp_index="13" local_memory="1073741824"/>
   <object type="PU" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x2"
     complete_nodeset="0x2" gp_index="14"/>
   <object type="Bridge" gp_index="15" bridge_type="0-1" depth="0" bridge_pci="0000:[80-9f]">
    <object type="Bridge" gp_index="16" bridge_type="1-1" depth="1" bridge_pci="0000:[81-82]"
      pci_busid="0000:80:01.0" pci_type="0604 [8086:1901] [0000:0000] 00" pci_link_speed="0">
     <object type="PCIDev" gp_index="17" pci_busid="0000:81:00.0"
       pci_type="0302 [10de:2330] [10de:0000] a1" pci_link_speed="63"/>
     <object type="PCIDev" gp_index="18" pci_busid="0000:82:00.0"
       pci_type="0207 [15b3:1021] [15b3:0000] 00" pci_link_speed="63">
      <object type="OSDev" gp_index="19" name="mlx5_1" osdev_type="3"/>
     </object>
    </object>
   </object>
  </object>
 </object>
</topology>)";

TEST(LocalityTest, EachGpuHasItsSocketAndTheCardBesideIt) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto machine, LocalityFromXml(kTwoSockets));
  EXPECT_EQ(machine->Of({.bus = 0x01}).numa_node, 0);
  EXPECT_EQ(machine->Of({.bus = 0x01}).nic, "mlx5_0");
  EXPECT_EQ(machine->Of({.bus = 0x81}).numa_node, 1);
  EXPECT_EQ(machine->Of({.bus = 0x81}).nic, "mlx5_1");
}

TEST(LocalityTest, AnUnknownDeviceStandsNowhere) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto machine, LocalityFromXml(kTwoSockets));
  EXPECT_EQ(machine->Of({.bus = 0x33}).numa_node, -1);
  EXPECT_EQ(machine->Of({.bus = 0x33}).nic, "");
}

TEST(LocalityTest, ThisMachineCanBeRead) {
  EXPECT_THAT(LocalityOfThisMachine().status(), IsOk());
  EXPECT_FALSE(LocalityFromXml("<topology").ok());
}

}  // namespace
}  // namespace graft::device
