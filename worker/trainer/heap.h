// How a rank's process keeps the memory of its tensors on a CPU. They come and go by the megabyte
// in the same order every step; what matters is that the system clears their pages once.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace graft::trainer {

// For the whole process, before the model. By default freed blocks stay in the heap (measured: the
// system cleared 2.1 GB of pages for a first step whose peak is 1.3 GB). Where memory was asked for
// above time, because layers are made again or their weights come and go, freed blocks of megabytes
// go back at once: the heap keeps holes between such layers (measured: 0.6 GiB at 2,048 tokens, and
// as much of weights of 135 million parameters).
enum class Freed { kStays, kGoesBack };
void PlanHeap(Freed freed);

// While it lives, a thread of its own touches `bytes` of the heap, which are given back to the heap
// at the end for what comes then: a core that has nothing to do while the model loads clears the
// pages that the first step would wait for, at a barrier of all its threads (measured: a third of
// the first forward). Stops at once when it ends, however far it came. Behind PlanHeap.
class HeapWarmer {
 public:
  explicit HeapWarmer(int64_t bytes);
  ~HeapWarmer();
  HeapWarmer(const HeapWarmer&) = delete;
  HeapWarmer& operator=(const HeapWarmer&) = delete;

 private:
  void Touch();

  std::vector<char*> blocks_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace graft::trainer
