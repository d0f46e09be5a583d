// The cluster as counts: a tree of switches over NVLink domains, each switch knowing how many of
// its domains have exactly k free devices. Placement searches it, and what-if questions copy it.
//
//   Topology later = cluster.topology();      // tens of microseconds at 10,000 nodes
//   later.Release(victim.ranks);
//   bool fits = Place(later, request).ok();
//
// Levels, widest first: cluster, spine, rail group, rack, chassis, NVLink domain, group. A chassis
// is a node, or an NVLink domain that spans nodes; a group is the devices of one kind of one node
// in one domain. A node without a rail group hangs on its rack as the leaf. Domains that are alike
// in everything a request can ask for (kind, memory, labels, taints, end) form a pool, and counts
// are kept by pool, so that a request reads only those that match it. A label with very many values
// (a host name) makes no pools: a request that names one is answered from a Subset of its nodes.
//
// Changing one group costs O(levels). Copies share the shape (which nodes there are) and own the
// counts. Children are kept in the order of their names, so that equal states give equal answers
// whatever their history (but for a domain that spans nodes: its chassis has the name of the node
// that came first, which decides between domains that are equal in all else). Not thread-safe; no
// clock, no IO.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "scheduler/placement/node.h"

namespace graft::scheduler {

// The tiers of switches, narrowest first; the leaf is what the NICs hang on.
enum Tier : int { kChassis = 0, kRack = 1, kLeaf = 2, kSpine = 3, kCore = 4 };
inline constexpr int kTiers = 5;

// What a request can ask of a node.
struct Traits {
  absl::btree_map<std::string, std::string> labels;
  std::vector<std::string> taints;
  absl::Time available_until = absl::InfiniteFuture();
};

class Topology {
 public:
  struct Pool {
    std::string kind;
    int64_t memory_bytes = 0;
    bool slices = false;  // of cards; no NVLink between them
    Traits traits;        // labels: the indexed ones
    int stride = 0;       // counts per switch: free devices 0 .. stride-1
    int total = 0;        // usable devices, held or not, on nodes up or not
  };
  // At most 64 devices; bit i is the device with index base + i.
  struct Group {
    int node = -1;
    int domain = -1;
    int base = 0;
    uint64_t usable = 0;                          // healthy
    std::vector<std::pair<int, uint64_t>> cards;  // of slices: card -> its bits
  };
  struct Domain {
    std::string name;
    int pool = -1;
    int chassis = -1;
    int total = 0;  // usable devices
    std::vector<int> groups;
    std::array<int, kTiers> counts_at{};  // where its switches' counts begin; [kChassis] unused
  };
  struct Switch {
    std::string name;
    int tier = kCore;
    int parent = -1;
    std::vector<int> children;                // switches; of a chassis: domains
    std::vector<std::pair<int, int>> counts;  // pool -> where its counts begin
  };
  struct Member {
    std::string name;
    std::vector<int> groups;
    bool live = false;
  };

  Topology();

  void Put(const Node& node);
  void Remove(absl::string_view node);
  void SetUp(absl::string_view node, bool up);
  void Take(const std::vector<DeviceRef>& devices) { Change(devices, false); }
  void Release(const std::vector<DeviceRef>& devices) { Change(devices, true); }
  // Devices of one group; the quick form of DeviceRefs, valid while no node comes or goes.
  struct Slot {
    int group = 0;
    uint64_t bits = 0;
  };
  std::vector<Slot> Resolve(const std::vector<DeviceRef>& devices) const;
  void Take(const Slot& slot) { SetFree(slot.group, free_[slot.group] & ~slot.bits); }
  void Release(const Slot& slot) {
    ++growth_;
    SetFree(slot.group, free_[slot.group] | slot.bits);
  }
  int groups() const { return static_cast<int>(shape_->groups.size()); }
  // As if nothing of the node were held, and it took jobs.
  void FreeEverything(absl::string_view node);
  // The nodes in `members` alone, their traits forgotten.
  Topology Subset(const std::vector<int>& members) const;

  static constexpr int kRoot = 0;
  const std::vector<Pool>& pools() const { return shape_->pools; }
  const Group& group(int id) const { return shape_->groups[id]; }
  const Domain& domain(int id) const { return shape_->domains[id]; }
  const Switch& at(int id) const { return shape_->switches[id]; }
  const Member& member(int id) const { return shape_->members[id]; }
  int domains() const { return static_cast<int>(shape_->domains.size()); }
  int switches() const { return static_cast<int>(shape_->switches.size()); }
  int members() const { return static_cast<int>(shape_->members.size()); }
  int FindMember(absl::string_view node) const;  // negative: none
  bool Up(int member) const { return up_[member] != 0; }
  // The devices of a group that a gang may take now.
  uint64_t Free(int group) const { return up_[shape_->groups[group].node] ? free_[group] : 0; }
  int DomainFree(int domain) const { return domain_free_[domain]; }
  const int* Counts(int at) const { return counts_.data() + at; }
  // A domain whose nodes are in several pools: its counts tell less than is there.
  bool has_mixed_domains() const { return shape_->mixed_domains > 0; }
  // Some chassis has more than one domain.
  bool has_split_chassis() const { return shape_->split_chassis > 0; }
  // Whether pools know the label's values.
  bool Indexed(absl::string_view label) const { return !shape_->unindexed.contains(label); }
  bool EndsIndexed() const { return Indexed(kEndLabel); }
  // Some node has had an end.
  bool has_ends() const { return shape_->ends_seen; }
  // The nodes with that value, ascending.
  std::vector<int> MembersWith(absl::string_view label, absl::string_view value) const;
  // Whether the node has all of the labels and no taint but those.
  bool MemberMatches(int member, const absl::btree_map<std::string, std::string>& labels,
                     const std::vector<std::string>& tolerations) const;
  absl::Time MemberEnd(int member) const { return shape_->ends[member]; }
  // Grows whenever a device becomes free or a node changes: a search that failed fails again while
  // it stands still.
  uint64_t growth() const { return growth_; }
  // Too many dead or badly pooled entries: the owner should put every node into a new Topology,
  // having called Inherit on it.
  bool wants_rebuild() const;
  void Inherit(const Topology& old);

 private:
  static constexpr absl::string_view kEndLabel = "\x01until";
  struct Shape {
    std::vector<Pool> pools;
    std::vector<Group> groups;
    std::vector<Domain> domains;
    std::vector<Switch> switches;
    std::vector<Member> members;
    std::vector<absl::Time> ends;  // by member
    std::vector<Traits> traits;    // by member; labels: the indexed ones
    absl::flat_hash_map<std::string, int> member_ids;
    absl::flat_hash_map<std::string, int> pool_ids;
    absl::flat_hash_map<std::string, int> domain_ids;
    absl::flat_hash_map<std::string, int> switch_ids;
    absl::flat_hash_map<std::string, std::vector<int>> postings;  // "label\0value" -> members
    absl::btree_map<std::string, absl::btree_set<std::string>> label_values;
    absl::btree_set<std::string> unindexed;
    absl::flat_hash_map<std::string, int> pool_of_domain;  // the first pool seen of a name
    int mixed_domains = 0;
    int split_chassis = 0;
    int dead_members = 0;
    bool rekey = false;  // a label has become unindexed since pools were made
    bool ends_seen = false;
  };
  struct Path {
    std::string spine, leaf, rack;
  };

  Shape& Own();
  void NoteLabel(Shape& shape, const std::string& label, const std::string& value, int member);
  int PoolFor(Shape& shape, const Device& device, const Traits& traits);
  int DomainFor(Shape& shape, int pool, const std::string& name, const std::string& chassis,
                const Path& path);
  int SwitchFor(Shape& shape, int tier, int parent, const std::string& key,
                const std::string& name);
  int CountsFor(Shape& shape, int at, int pool);
  void AddGroup(Shape& shape, int member, int domain, const std::vector<const Device*>& devices);
  void GrowStride(Shape& shape, int pool, int total);
  void SetDomainFree(int domain, int free);
  void SetFree(int group, uint64_t bits);
  void Change(const std::vector<DeviceRef>& devices, bool to_free);

  // Shared among copies, and copied before it is changed: a what-if copy changes counts alone.
  std::shared_ptr<Shape> shape_;
  std::vector<uint64_t> free_;    // by group: usable and not held
  std::vector<uint8_t> up_;       // by member
  std::vector<int> domain_free_;  // by domain
  std::vector<int> counts_;
  uint64_t growth_ = 1;
};

}  // namespace graft::scheduler
