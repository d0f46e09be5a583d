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

// The same with a World each; `over_memory(rank)`: whether that rank offers shared memory.
inline void RunWorlds(
    const spec::Layout& layout, int64_t kv_heads, const std::function<void(World&)>& body,
    const std::function<bool(int64_t)>& over_memory = [](int64_t) { return true; }) {
  RunRanks(layout.world(), [&](int64_t rank, const StorePtr& store) {
    auto world = World::Create({.layout = layout,
                                .rank = rank,
                                .kv_heads = kv_heads,
                                .shared_memory = over_memory(rank),
                                .timeout = std::chrono::seconds(60)},
                               store);
    GRAFT_CHECK(world.ok()) << world.status();
    body(**world);
  });
}

}  // namespace graft::parallel
