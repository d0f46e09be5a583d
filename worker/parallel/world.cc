#include "worker/parallel/world.h"

#include <algorithm>
#include <set>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/model/torch_boundary.h"
#include "worker/parallel/gloo_backend.h"

namespace graft::parallel {

namespace {

constexpr std::chrono::hours kShareTimeout(24);

int64_t IndexIn(const Ranks& ranks, int64_t rank) {
  return std::find(ranks.begin(), ranks.end(), rank) - ranks.begin();
}

}  // namespace

World::World(const WorldOptions& options, StorePtr store)
    : options_(options), place_(PlaceOf(options.layout, options.rank)), store_(std::move(store)) {}

absl::StatusOr<std::unique_ptr<World>> World::Create(const WorldOptions& options, StorePtr store) {
  GRAFT_CHECK(options.rank >= 0 && options.rank < options.layout.world()) << options.rank;
  auto world = absl::WrapUnique(new World(options, std::move(store)));
  GRAFT_RETURN_IF_ERROR(model::TorchCall("connecting the ranks", [&world] { world->Connect(); }));
  return world;
}

// The same kinds of groups in the same order on every rank; the groups of one kind do not overlap,
// so no two ranks wait for each other.
void World::Connect() {
  const spec::Layout& l = options_.layout;
  const int64_t rank = options_.rank;
  if (size() > 1) {
    shared_ = SharedMemory::Join({.rank = rank,
                                  .world = size(),
                                  .offer = options_.shared_memory,
                                  .timeout = options_.timeout},
                                 store_);
  }
  all_ = Make("all", AllRanks(l));
  tensor_ = Make("tensor", TensorRanks(l, rank), WaitKind::kTensor);
  context_ = Make("context", ContextRanks(l, rank));
  pipeline_ = Make("pipeline", PipelineRanks(l, rank), WaitKind::kPipeline);
  experts_ = Make("experts", ExpertRanks(l, rank), WaitKind::kExperts);
  expert_holders_ = Make("expert holders", ExpertHolderRanks(l, rank));
  for (const int64_t c : std::set<int64_t>{1, kv_copies(), l.tp}) {
    Make("holders", HolderRanks(l, rank, c, false));
  }
  if (l.pp > 1 && (first_stage() || last_stage())) {
    Make("ends", HolderRanks(l, rank, 1, true));
  }
  if (l.tp > 1) tensor_exchange_ = std::make_unique<TensorExchange>(*tensor_);
  if (l.cp > 1) context_exchange_ = std::make_unique<TensorExchange>(*context_);
  if (l.ep > 1) expert_exchange_ = std::make_unique<ExpertGroup>(*experts_);
}

int64_t World::kv_copies() const {
  return options_.kv_heads > 0 ? std::max<int64_t>(1, layout().tp / options_.kv_heads) : 1;
}

std::unique_ptr<Transport> World::Connected(const std::string& name, const Ranks& ranks) {
  if (!shared_->Reaches(ranks)) return OverGloo(backends_, name, ranks);
  over_memory_ = true;
  return shared_->MakeTransport(ranks, IndexIn(ranks, options_.rank), channels_);
}

std::unique_ptr<DeviceCollectives> World::OnDevice(const std::string& name,
                                                   const Ranks& ranks) const {
  if (!options_.connect) return nullptr;
  const int64_t index = IndexIn(ranks, options_.rank);
  const auto members = static_cast<int64_t>(ranks.size());
  const std::string prefix = absl::StrCat("device/", name, "/", RanksText(ranks), "/");
  return std::make_unique<DeviceCollectives>(
      index, members, options_.device, [this, prefix, index, members](const std::string& part) {
        return options_.connect(c10::make_intrusive<c10d::PrefixStore>(prefix + part, store_),
                                index, members, options_.timeout);
      });
}

std::unique_ptr<Transport> World::OverGloo(std::unique_ptr<GlooBackends>& backends,
                                           const std::string& name, const Ranks& ranks) {
  const auto prefix = c10::make_intrusive<c10d::PrefixStore>(
      absl::StrCat("group/", name, "/", RanksText(ranks)), store_);
  if (backends == nullptr) {
    backends = std::make_unique<GlooBackends>(options_.address, options_.timeout);
  }
  const int64_t index = IndexIn(ranks, options_.rank);
  const auto members = static_cast<int64_t>(ranks.size());
  return std::make_unique<BackendTransport>(backends->Make(prefix, index, members), index, members);
}

Group& World::ForFiles(const Ranks& ranks) {
  std::unique_ptr<Group>& made = file_groups_[ranks];
  if (made == nullptr) {
    made = std::make_unique<Group>(ranks, options_.rank, OverGloo(file_backends_, "files", ranks),
                                   nullptr, file_activity_);
  }
  return *made;
}

Group* World::Make(const std::string& name, const Ranks& ranks, WaitKind kind) {
  ++channels_;
  // The same ranks may stand in groups of two kinds, whose waits count as different things.
  auto& made = groups_[{ranks, kind}];
  if (made != nullptr) return made.get();
  std::unique_ptr<Transport> transport;
  std::unique_ptr<DeviceCollectives> device;
  if (ranks.size() > 1) {
    transport = Connected(name, ranks);
    device = OnDevice(name, ranks);
    if (device != nullptr && kind == WaitKind::kPipeline) device->ConnectNeighbours();
  }
  made = std::make_unique<Group>(ranks, options_.rank, std::move(transport), std::move(device),
                                 activity_, kind);
  return made.get();
}

std::string World::TransportText() const {
  if (options_.connect) return absl::StrCat("collectives of ", options_.device.str());
  if (backends_ == nullptr) return over_memory_ ? "shared memory" : "";
  return over_memory_ ? "shared memory and gloo" : "gloo";
}

Group& World::holders(int64_t copies, bool both_ends) {
  const Ranks ranks = HolderRanks(options_.layout, options_.rank, copies, both_ends);
  const auto found = groups_.find({ranks, WaitKind::kCommunication});
  GRAFT_CHECK(found != groups_.end()) << RanksText(ranks);
  return *found->second;
}

Group& World::HoldersOf(const model::Trained& trained, const model::Trained::Piece& piece) {
  if (piece.experts) return *expert_holders_;
  return holders(piece.copies, trained.both_ends);
}

std::array<Group*, World::kHolderKinds> World::HolderKinds() {
  const bool at_an_end = layout().pp > 1 && (first_stage() || last_stage());
  std::array<Group*, kHolderKinds> groups = {at_an_end ? &holders(1, true) : nullptr,
                                             &holders(1, false), &holders(kv_copies(), false),
                                             &holders(layout().tp, false), expert_holders_};
  for (size_t i = 1; i < groups.size(); ++i) {
    const auto own = groups.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::find(groups.begin(), own, *own) != own) *own = nullptr;
  }
  return groups;
}

absl::StatusOr<std::vector<std::string>> World::Share(const std::string& key,
                                                      const std::string& own) {
  std::vector<std::string> texts;
  if (size() == 1) return std::vector<std::string>{own};
  GRAFT_RETURN_IF_ERROR(model::TorchCall("the ranks' store", [&] {
    store_->set(absl::StrCat(key, "/", rank()), std::vector<uint8_t>(own.begin(), own.end()));
    for (int64_t r = 0; r < size(); ++r) {
      const std::string from = absl::StrCat(key, "/", r);
      // As long as it takes, an output's writing for instance; the watchdog knows who is gone.
      store_->wait({from}, kShareTimeout);
      const auto bytes = store_->get(from);
      texts.emplace_back(bytes.begin(), bytes.end());
    }
  }));
  return texts;
}

}  // namespace graft::parallel
