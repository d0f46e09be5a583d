// Where devices stand in the machine: their memory's NUMA node and the network card that is nearest
// to them, as hwloc sees the buses.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace graft::device {

struct PciAddress {
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned device = 0;
};

struct Place {
  int numa_node = -1;  // -1: of several, or not known
  std::string nic;     // "mlx5_0"; an InfiniBand card goes before an Ethernet one; empty: none
};

class Locality {
 public:
  virtual ~Locality() = default;
  // A device that the machine does not know stands nowhere.
  virtual Place Of(const PciAddress& address) const = 0;
};

absl::StatusOr<std::unique_ptr<Locality>> LocalityOfThisMachine();
// Of a machine that hwloc has described in XML.
absl::StatusOr<std::unique_ptr<Locality>> LocalityFromXml(const std::string& xml);

}  // namespace graft::device
