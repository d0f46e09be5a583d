#include "worker/device/locality.h"

#include <hwloc.h>

#include <utility>

#include "base/status_macros.h"

namespace graft::device {
namespace {

struct Destroy {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, Destroy>;

// Steps from `from` up to the first object that is above both; -1: there is none.
int StepsToCommon(hwloc_obj_t from, hwloc_obj_t to) {
  int steps = 0;
  for (hwloc_obj_t above = from; above != nullptr; above = above->parent, ++steps) {
    for (hwloc_obj_t other = to; other != nullptr; other = other->parent) {
      if (other == above) return steps;
    }
  }
  return -1;
}

class HwlocLocality final : public Locality {
 public:
  explicit HwlocLocality(Topology topology) : topology_(std::move(topology)) {}

  Place Of(const PciAddress& address) const override {
    Place place;
    const hwloc_obj_t device =
        hwloc_get_pcidev_by_busid(topology_.get(), address.domain, address.bus, address.device, 0);
    if (device == nullptr) return place;
    const hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(topology_.get(), device);
    if (near != nullptr && near->nodeset != nullptr && hwloc_bitmap_weight(near->nodeset) == 1) {
      place.numa_node = hwloc_bitmap_first(near->nodeset);
    }
    place.nic = NearestNic(device);
    return place;
  }

 private:
  std::string NearestNic(hwloc_obj_t device) const {
    std::string nearest;
    std::pair<int, int> least;  // steps, and 1 for Ethernet
    for (hwloc_obj_t card = hwloc_get_next_osdev(topology_.get(), nullptr); card != nullptr;
         card = hwloc_get_next_osdev(topology_.get(), card)) {
      const auto type = card->attr->osdev.type;
      const bool infiniband = type == HWLOC_OBJ_OSDEV_OPENFABRICS;
      if (!infiniband && type != HWLOC_OBJ_OSDEV_NETWORK) continue;
      if (card->parent == nullptr || card->parent->type != HWLOC_OBJ_PCI_DEVICE) continue;
      const std::pair<int, int> far{StepsToCommon(device, card), infiniband ? 0 : 1};
      if (far.first < 0 || (!nearest.empty() && far >= least)) continue;
      nearest = card->name;
      least = far;
    }
    return nearest;
  }

  const Topology topology_;
};

absl::StatusOr<std::unique_ptr<Locality>> Load(const std::string* xml) {
  hwloc_topology_t made = nullptr;
  if (hwloc_topology_init(&made) != 0) return absl::InternalError("hwloc does not start");
  Topology topology(made);
  hwloc_topology_set_io_types_filter(topology.get(), HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
  if (xml != nullptr && hwloc_topology_set_xmlbuffer(topology.get(), xml->c_str(),
                                                     static_cast<int>(xml->size() + 1)) != 0) {
    return absl::InvalidArgumentError("this is no machine that hwloc has described");
  }
  if (hwloc_topology_load(topology.get()) != 0) {
    return absl::InternalError("hwloc cannot read the machine");
  }
  return std::make_unique<HwlocLocality>(std::move(topology));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Locality>> LocalityOfThisMachine() { return Load(nullptr); }
absl::StatusOr<std::unique_ptr<Locality>> LocalityFromXml(const std::string& xml) {
  return Load(&xml);
}

}  // namespace graft::device
