#include "scheduler/placement/topology.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/check.h"

namespace graft::scheduler {
namespace {

// Labels with more values than this tell nodes apart rather than kinds of nodes.
constexpr size_t kMostLabelValues = 32;
// Each search looks at each pool once, so there may not be many.
constexpr size_t kMostPools = 128;
// Groups of nodes that have gone are forgotten when they are more than this and half of all.
constexpr int kMostDead = 64;
constexpr int kFirstStride = 9;  // domains of up to 8 devices

std::string PostingKey(absl::string_view label, absl::string_view value) {
  return absl::StrCat(label, absl::string_view("\0", 1), value);
}

int Bits(uint64_t bits) { return __builtin_popcountll(bits); }

}  // namespace

Topology::Topology() : shape_(std::make_shared<Shape>()) {
  shape_->switches.push_back({.name = "", .tier = kCore});
}

Topology::Shape& Topology::Own() {
  if (shape_.use_count() > 1) shape_ = std::make_shared<Shape>(*shape_);
  return *shape_;
}

int Topology::FindMember(absl::string_view node) const {
  const auto it = shape_->member_ids.find(node);
  return it == shape_->member_ids.end() || !shape_->members[it->second].live ? -1 : it->second;
}

std::vector<int> Topology::MembersWith(absl::string_view label, absl::string_view value) const {
  std::vector<int> found;
  const auto it = shape_->postings.find(PostingKey(label, value));
  if (it == shape_->postings.end()) return found;
  for (int member : it->second) {
    if (shape_->members[member].live) found.push_back(member);
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

bool Topology::MemberMatches(int member, const absl::btree_map<std::string, std::string>& labels,
                             const std::vector<std::string>& tolerations) const {
  const Traits& traits = shape_->traits[member];
  for (const std::string& taint : traits.taints) {
    if (std::find(tolerations.begin(), tolerations.end(), taint) == tolerations.end()) return false;
  }
  for (const auto& [label, value] : labels) {
    if (!Indexed(label)) continue;  // MembersWith tells
    const auto it = traits.labels.find(label);
    if (it == traits.labels.end() || it->second != value) return false;
  }
  return true;
}

bool Topology::wants_rebuild() const {
  return shape_->rekey || (shape_->dead_members > kMostDead && shape_->dead_members > members());
}

void Topology::Inherit(const Topology& old) {
  Own().unindexed = old.shape_->unindexed;
  growth_ = old.growth_ + 1;
}

void Topology::NoteLabel(Shape& shape, const std::string& label, const std::string& value,
                         int member) {
  shape.postings[PostingKey(label, value)].push_back(member);
  if (shape.unindexed.contains(label)) return;
  absl::btree_set<std::string>& values = shape.label_values[label];
  values.insert(value);
  if (values.size() > kMostLabelValues) {
    shape.unindexed.insert(label);
    shape.rekey = true;
  }
}

int Topology::PoolFor(Shape& shape, const Device& device, const Traits& traits) {
  std::vector<std::string> taints = traits.taints;
  std::sort(taints.begin(), taints.end());
  const std::string key =
      absl::StrCat(device.kind, "\n", device.memory_bytes, "\n", device.card >= 0, "\n",
                   absl::StrJoin(traits.labels, "\x01", absl::PairFormatter("\x02")), "\n",
                   absl::StrJoin(taints, "\x01"), "\n", absl::FormatTime(traits.available_until));
  const auto [it, added] = shape.pool_ids.try_emplace(key, static_cast<int>(shape.pools.size()));
  if (!added) return it->second;
  shape.pools.push_back({.kind = device.kind,
                         .memory_bytes = device.memory_bytes,
                         .slices = device.card >= 0,
                         .traits = traits,
                         .stride = kFirstStride});
  if (shape.pools.size() > kMostPools) {
    // The label with the most values goes; without labels there is nothing to win.
    const std::string* most = nullptr;
    size_t values = 1;
    for (const auto& [label, seen] : shape.label_values) {
      if (shape.unindexed.contains(label) || seen.size() <= values) continue;
      most = &label;
      values = seen.size();
    }
    if (most != nullptr) {
      shape.unindexed.insert(*most);
      shape.rekey = true;
    }
  }
  return it->second;
}

int Topology::SwitchFor(Shape& shape, int tier, int parent, const std::string& key,
                        const std::string& name) {
  const auto [it, added] = shape.switch_ids.try_emplace(absl::StrCat(tier, "\n", key),
                                                        static_cast<int>(shape.switches.size()));
  if (!added) return it->second;
  const int id = it->second;
  shape.switches.push_back({.name = name, .tier = tier, .parent = parent});
  std::vector<int>& siblings = shape.switches[parent].children;
  siblings.insert(std::upper_bound(siblings.begin(), siblings.end(), id,
                                   [&](int a, int b) {
                                     return shape.switches[a].name < shape.switches[b].name;
                                   }),
                  id);
  return id;
}

int Topology::CountsFor(Shape& shape, int at, int pool) {
  for (const auto& [known, where] : shape.switches[at].counts) {
    if (known == pool) return where;
  }
  const int where = static_cast<int>(counts_.size());
  shape.switches[at].counts.push_back({pool, where});
  counts_.resize(counts_.size() + static_cast<size_t>(shape.pools[pool].stride), 0);
  return where;
}

int Topology::DomainFor(Shape& shape, int pool, const std::string& name, const std::string& chassis,
                        const Path& path) {
  const auto [it, added] = shape.domain_ids.try_emplace(absl::StrCat(pool, "\n", name),
                                                        static_cast<int>(shape.domains.size()));
  if (!added) return it->second;
  const int id = it->second;
  const Pool& own = shape.pools[pool];
  const auto [first, only] =
      shape.pool_of_domain.try_emplace(absl::StrCat(own.kind, "\n", own.slices, "\n", name), pool);
  if (!only && first->second != pool) ++shape.mixed_domains;

  Domain domain{.name = name, .pool = pool};
  const std::string leaf_key = absl::StrCat(path.spine, "\n", path.leaf);
  const std::string rack_key = absl::StrCat(leaf_key, "\n", path.rack);
  const int spine = SwitchFor(shape, kSpine, kRoot, path.spine, path.spine);
  const int leaf = SwitchFor(shape, kLeaf, spine, leaf_key, path.leaf);
  const int rack = SwitchFor(shape, kRack, leaf, rack_key, path.rack);
  domain.chassis = SwitchFor(shape, kChassis, rack, absl::StrCat(rack_key, "\n", chassis), chassis);
  std::vector<int>& siblings = shape.switches[domain.chassis].children;
  shape.domains.push_back(std::move(domain));
  domain_free_.push_back(0);
  siblings.insert(
      std::upper_bound(siblings.begin(), siblings.end(), id,
                       [&](int a, int b) { return shape.domains[a].name < shape.domains[b].name; }),
      id);
  shape.split_chassis += siblings.size() == 2;
  int above = rack;
  for (int tier = kRack; tier < kTiers; ++tier, above = shape.switches[above].parent) {
    const int where = CountsFor(shape, above, pool);
    shape.domains[id].counts_at[tier] = where;
    ++counts_[where];  // one more domain with nothing free
  }
  return id;
}

// Counts of a pool for larger domains move to new places; the old ones are left unused.
void Topology::GrowStride(Shape& shape, int pool, int total) {
  const int old_stride = shape.pools[pool].stride;
  while (shape.pools[pool].stride <= total) shape.pools[pool].stride *= 2;
  const int stride = shape.pools[pool].stride;
  absl::flat_hash_map<int, int> moved;
  for (Switch& at : shape.switches) {
    for (auto& [known, where] : at.counts) {
      if (known != pool) continue;
      const int to = static_cast<int>(counts_.size());
      counts_.resize(counts_.size() + static_cast<size_t>(stride), 0);
      std::copy_n(counts_.begin() + where, old_stride, counts_.begin() + to);
      moved[where] = to;
      where = to;
    }
  }
  for (Domain& domain : shape.domains) {
    if (domain.pool != pool) continue;
    for (int tier = kRack; tier < kTiers; ++tier) {
      domain.counts_at[tier] = moved.at(domain.counts_at[tier]);
    }
  }
}

void Topology::AddGroup(Shape& shape, int member, int domain,
                        const std::vector<const Device*>& devices) {
  Group group{.node = member, .domain = domain, .base = devices.front()->index};
  uint64_t free = 0;
  for (const Device* device : devices) {
    const uint64_t bit = uint64_t{1} << (device->index - group.base);
    if (device->card >= 0) {
      const auto it = std::find_if(group.cards.begin(), group.cards.end(),
                                   [&](const auto& card) { return card.first == device->card; });
      if (it == group.cards.end()) {
        group.cards.push_back({device->card, bit});
      } else {
        it->second |= bit;
      }
    }
    if (!device->healthy) continue;
    group.usable |= bit;
    if (device->holder.empty()) free |= bit;
  }
  shape.domains[domain].total += Bits(group.usable);
  shape.pools[shape.domains[domain].pool].total += Bits(group.usable);
  const int id = static_cast<int>(shape.groups.size());
  // Of the domain's groups in the order of their nodes' names.
  std::vector<int>& siblings = shape.domains[domain].groups;
  siblings.insert(std::upper_bound(siblings.begin(), siblings.end(), id,
                                   [&](int a, int b) {
                                     const int left = a == id ? member : shape.groups[a].node;
                                     const int right = b == id ? member : shape.groups[b].node;
                                     return shape.members[left].name < shape.members[right].name;
                                   }),
                  id);
  shape.members[member].groups.push_back(id);
  const int pool = shape.domains[domain].pool;
  shape.groups.push_back(std::move(group));
  free_.push_back(0);
  if (shape.domains[domain].total >= shape.pools[pool].stride) {
    GrowStride(shape, pool, shape.domains[domain].total);
  }
  SetFree(id, free);
}

void Topology::SetDomainFree(int domain, int free) {
  const Domain& own = shape_->domains[domain];
  const int before = domain_free_[domain];
  if (before == free) return;
  for (int tier = kRack; tier < kTiers; ++tier) {
    --counts_[own.counts_at[tier] + before];
    ++counts_[own.counts_at[tier] + free];
  }
  domain_free_[domain] = free;
}

void Topology::SetFree(int group, uint64_t bits) {
  const Group& own = shape_->groups[group];
  if (up_[own.node]) {
    SetDomainFree(own.domain, domain_free_[own.domain] + Bits(bits) - Bits(free_[group]));
  }
  free_[group] = bits;
}

void Topology::Put(const Node& node) {
  Remove(node.name);
  ++growth_;
  Shape& shape = Own();
  const auto [known, added] =
      shape.member_ids.try_emplace(node.name, static_cast<int>(shape.members.size()));
  const int member = known->second;
  if (added) {
    shape.members.push_back({.name = node.name});
    shape.ends.push_back(node.available_until);
    shape.traits.push_back({});
    up_.push_back(0);
  }
  shape.members[member].live = true;
  shape.ends[member] = node.available_until;
  up_[member] = node.schedulable;

  Traits traits{.taints = node.taints};
  for (const auto& [label, value] : node.labels) {
    NoteLabel(shape, label, value, member);
    if (!shape.unindexed.contains(label)) traits.labels[label] = value;
  }
  NoteLabel(shape, std::string(kEndLabel), absl::FormatTime(node.available_until), member);
  if (EndsIndexed()) traits.available_until = node.available_until;
  shape.ends_seen |= node.available_until != absl::InfiniteFuture();

  shape.traits[member] = traits;

  const bool has_leaf = !node.rail_group.empty();
  const Path path{node.spine, has_leaf ? node.rail_group : node.rack, node.rack};
  absl::btree_map<std::pair<int, std::string>, std::vector<const Device*>> by_domain;
  for (const Device& device : node.devices) {
    const std::string& domain = device.nvlink_domain.empty() ? node.name : device.nvlink_domain;
    by_domain[{PoolFor(shape, device, traits), domain}].push_back(&device);
  }
  for (const auto& [key, devices] : by_domain) {
    const int domain = DomainFor(shape, key.first, key.second, node.name, path);
    std::vector<const Device*> part;
    for (const Device* device : devices) {
      if (!part.empty() && device->index - part.front()->index >= 64) {
        AddGroup(shape, member, domain, part);
        part.clear();
      }
      part.push_back(device);
    }
    AddGroup(shape, member, domain, part);
  }
}

void Topology::Remove(absl::string_view node) {
  const int id = FindMember(node);
  if (id < 0) return;
  ++growth_;
  Shape& shape = Own();
  Member& member = shape.members[id];
  for (int group : member.groups) {
    SetFree(group, 0);
    Domain& domain = shape.domains[shape.groups[group].domain];
    domain.total -= Bits(shape.groups[group].usable);
    shape.pools[domain.pool].total -= Bits(shape.groups[group].usable);
    shape.groups[group].usable = 0;
    domain.groups.erase(std::find(domain.groups.begin(), domain.groups.end(), group));
  }
  member.groups.clear();
  member.live = false;
  ++shape.dead_members;
}

void Topology::SetUp(absl::string_view node, bool up) {
  const int id = FindMember(node);
  if (id < 0 || (up_[id] != 0) == up) return;
  ++growth_;
  for (int group : shape_->members[id].groups) {
    const int domain = shape_->groups[group].domain;
    const int share = Bits(free_[group]);
    SetDomainFree(domain, domain_free_[domain] + (up ? share : -share));
  }
  up_[id] = up;
}

void Topology::FreeEverything(absl::string_view node) {
  const int id = FindMember(node);
  if (id < 0) return;
  SetUp(node, true);
  ++growth_;
  for (int group : shape_->members[id].groups) SetFree(group, shape_->groups[group].usable);
}

std::vector<Topology::Slot> Topology::Resolve(const std::vector<DeviceRef>& devices) const {
  std::vector<Slot> slots;
  int member = -1;
  for (const DeviceRef& ref : devices) {
    if (member < 0 || shape_->members[member].name != ref.node) member = FindMember(ref.node);
    if (member < 0) continue;
    for (int group : shape_->members[member].groups) {
      const int offset = ref.device - shape_->groups[group].base;
      if (offset < 0 || offset >= 64) continue;
      const uint64_t bit = uint64_t{1} << offset;
      if ((shape_->groups[group].usable & bit) == 0) continue;
      if (slots.empty() || slots.back().group != group) slots.push_back({group, 0});
      slots.back().bits |= bit;
      break;
    }
  }
  return slots;
}

void Topology::Change(const std::vector<DeviceRef>& devices, bool to_free) {
  growth_ += to_free;
  for (const Slot& slot : Resolve(devices)) {
    SetFree(slot.group, to_free ? free_[slot.group] | slot.bits : free_[slot.group] & ~slot.bits);
  }
}

Topology Topology::Subset(const std::vector<int>& members) const {
  Topology part;
  Shape& shape = *part.shape_;
  for (int id : members) {
    const Member& member = shape_->members[id];
    if (!member.live) continue;
    const int to = static_cast<int>(shape.members.size());
    shape.members.push_back({.name = member.name, .live = true});
    shape.member_ids[member.name] = to;
    shape.ends.push_back(absl::InfiniteFuture());
    shape.traits.push_back({});
    part.up_.push_back(up_[id]);
    for (int from : member.groups) {
      const Group& old = shape_->groups[from];
      const Domain& domain = shape_->domains[old.domain];
      const Pool& pool = shape_->pools[domain.pool];
      const Device alike{
          .kind = pool.kind, .memory_bytes = pool.memory_bytes, .card = pool.slices ? 0 : -1};
      const Switch& chassis = shape_->switches[domain.chassis];
      const Switch& rack = shape_->switches[chassis.parent];
      const Switch& leaf = shape_->switches[rack.parent];
      const Path path{shape_->switches[leaf.parent].name, leaf.name, rack.name};
      const int into =
          part.DomainFor(shape, part.PoolFor(shape, alike, {}), domain.name, chassis.name, path);
      const int copy = static_cast<int>(shape.groups.size());
      shape.groups.push_back(old);
      shape.groups.back().node = to;
      shape.groups.back().domain = into;
      part.free_.push_back(0);
      shape.members[to].groups.push_back(copy);
      shape.domains[into].groups.push_back(copy);
      shape.domains[into].total += Bits(old.usable);
      const int own_pool = shape.domains[into].pool;
      shape.pools[own_pool].total += Bits(old.usable);
      if (shape.domains[into].total >= shape.pools[own_pool].stride) {
        part.GrowStride(shape, own_pool, shape.domains[into].total);
      }
      part.SetFree(copy, free_[from]);
    }
  }
  return part;
}

}  // namespace graft::scheduler
