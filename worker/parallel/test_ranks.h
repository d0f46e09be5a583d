// Ranks as threads of one process, for tests: each has a store, groups and a World of its own over
// one HashStore.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <vector>

#include "base/check.h"
#include "worker/parallel/world.h"

namespace graft::parallel {

// Runs body(rank, store) on a thread for each rank, and returns when all have ended.
inline void RunRanks(int64_t world, const std::function<void(int64_t, const StorePtr&)>& body) {
  const StorePtr shared = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      const auto store = Prove(shared, {.rank = rank, .world = world, .attempt = "test"});
      GRAFT_CHECK(store.ok()) << store.status();
      body(rank, *store);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The same with a World each, whose options `adjust` may change.
using Adjust = std::function<void(WorldOptions&)>;
inline void RunWorlds(
    const spec::Layout& layout, int64_t kv_heads, const std::function<void(World&)>& body,
    const Adjust& adjust = [](WorldOptions&) {}) {
  RunRanks(layout.world(), [&](int64_t rank, const StorePtr& store) {
    WorldOptions options = {
        .layout = layout, .rank = rank, .kv_heads = kv_heads, .timeout = std::chrono::seconds(60)};
    adjust(options);
    auto world = World::Create(options, store);
    GRAFT_CHECK(world.ok()) << world.status();
    body(**world);
  });
}

// As if tensors lay on a device, whose maker's collectives are Gloo's here.
inline void OverDeviceCollectives(WorldOptions& options) {
  const auto backends = std::make_shared<GlooBackends>(options.address, options.timeout);
  options.connect = [backends](const StorePtr& store, int64_t rank, int64_t size,
                               std::chrono::milliseconds) {
    return backends->Make(store, rank, size);
  };
}

}  // namespace graft::parallel
