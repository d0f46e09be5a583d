// One rank's place in a run of several: its groups, made once in a fixed order on every rank, the
// store behind them, and what it is doing.
//
//   GRAFT_ASSIGN_OR_RETURN(auto world, World::Create({.layout = layout, .rank = 3}, store));
//   world->tensor().Gather(...);
//
// Life cycle: made before the model; must outlive every engine and module that uses its groups. One
// thread drives it; the Activity may be read by others.
#pragma once

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/division.h"
#include "worker/model/parameter_store.h"
#include "worker/parallel/gloo_backend.h"
#include "worker/parallel/group.h"
#include "worker/parallel/rendezvous.h"
#include "worker/parallel/shared_memory.h"
#include "worker/parallel/topology.h"

namespace graft::parallel {

struct WorldOptions {
  spec::Layout layout;
  int64_t rank = 0;
  std::string address = "127.0.0.1";  // of the interface that this rank's traffic goes through
  int64_t kv_heads = 0;               // of the model: how many ranks share one
  // Ranks of one host exchange through its memory; false: over Gloo as others do.
  bool shared_memory = true;
  // Until a collective gives up by itself. The watchdog is what finds out earlier.
  std::chrono::milliseconds timeout = std::chrono::minutes(30);
  // Tensors on `device` go over backends that `connect` makes of `size` ranks that meet in `store`;
  // empty: over what the host has, as those in its memory do.
  using Connect = std::function<c10::intrusive_ptr<c10d::Backend>(
      const StorePtr& store, int64_t rank, int64_t size, std::chrono::milliseconds timeout)>;
  at::Device device = at::kCPU;
  Connect connect;
};

class World {
 public:
  // Connects all groups; every rank of the layout calls it. `store` is null for a world of one.
  static absl::StatusOr<std::unique_ptr<World>> Create(const WorldOptions& options, StorePtr store);
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  const spec::Layout& layout() const { return options_.layout; }
  int64_t rank() const { return options_.rank; }
  int64_t size() const { return options_.layout.world(); }
  const Place& place() const { return place_; }
  bool first_stage() const { return place_.pp == 0; }
  bool last_stage() const { return place_.pp == options_.layout.pp - 1; }
  const StorePtr& store() const { return store_; }
  Activity& activity() { return activity_; }
  // "shared memory", "gloo", or both where some groups span hosts; of tensors on a device
  // "collectives of cuda:0"; for a person.
  std::string TransportText() const;

  Group& all() { return *all_; }
  Group& tensor() { return *tensor_; }
  Group& context() { return *context_; }
  Group& pipeline() { return *pipeline_; }
  Group& experts() { return *experts_; }
  Group& expert_holders() { return *expert_holders_; }
  // The ranks with the same numbers of a tensor that `copies` neighbouring tensor-parallel ranks
  // hold (topology.h).
  Group& holders(int64_t copies, bool both_ends);
  // Of a piece of `trained`.
  Group& HoldersOf(const model::Trained& trained, const model::Trained::Piece& piece);
  // The groups that HoldersOf may name: a place for each kind, the same on every member. nullptr
  // where this rank is in no group of that kind, or in that of an earlier place.
  static constexpr size_t kHolderKinds = 5;
  std::array<Group*, kHolderKinds> HolderKinds();
  // A group for files that these ranks, this one among them, write together; all of them call it,
  // which connects it the first time. It goes over Gloo and counts as nobody's wait: another thread
  // than the one that trains may use it, one at a time.
  Group& ForFiles(const Ranks& ranks);
  // A collective of any group failed, which is others' doing.
  bool broken() const { return activity_.Now().broken || file_activity_.Now().broken; }
  // What the model's modules call; nullptr where the layout does not divide them so.
  model::Exchange* tensor_exchange() { return tensor_exchange_.get(); }
  model::Exchange* context_exchange() { return context_exchange_.get(); }
  model::ExpertExchange* expert_exchange() { return expert_exchange_.get(); }

  // Every rank's text, by rank, through the store; every rank calls it with the same `key`.
  absl::StatusOr<std::vector<std::string>> Share(const std::string& key, const std::string& own);

 private:
  World(const WorldOptions& options, StorePtr store);
  void Connect();
  std::unique_ptr<Transport> Connected(const std::string& name, const Ranks& ranks);
  // `backends` are made when they are first needed.
  // Null where the device has no collectives of its own.
  std::unique_ptr<DeviceCollectives> OnDevice(const std::string& name, const Ranks& ranks) const;
  std::unique_ptr<Transport> OverGloo(std::unique_ptr<GlooBackends>& backends,
                                      const std::string& name, const Ranks& ranks);
  Group* Make(const std::string& name, const Ranks& ranks,
              WaitKind kind = WaitKind::kCommunication);
  // How many neighbouring tensor-parallel ranks hold the same rows of k and v.
  int64_t kv_copies() const;

  const WorldOptions options_;
  const Place place_;
  StorePtr store_;
  Activity activity_;
  std::unique_ptr<SharedMemory> shared_;    // outlives the groups
  std::unique_ptr<GlooBackends> backends_;  // once a group needs it
  int32_t channels_ = 0;                    // of Make's calls, which are alike on every member
  bool over_memory_ = false;
  std::map<std::pair<Ranks, WaitKind>, std::unique_ptr<Group>> groups_;
  Activity file_activity_;
  std::unique_ptr<GlooBackends> file_backends_;
  std::map<Ranks, std::unique_ptr<Group>> file_groups_;
  Group* all_ = nullptr;
  Group* tensor_ = nullptr;
  Group* context_ = nullptr;
  Group* pipeline_ = nullptr;
  Group* experts_ = nullptr;
  Group* expert_holders_ = nullptr;
  std::unique_ptr<TensorExchange> tensor_exchange_;
  std::unique_ptr<TensorExchange> context_exchange_;
  std::unique_ptr<ExpertGroup> expert_exchange_;
};

}  // namespace graft::parallel
