#include "worker/trainer/heap.h"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>

namespace graft::trainer {
namespace {

constexpr int kReturnedBytes = 4 << 20;   // of blocks that go back at once
constexpr int kLargestKept = 32 << 20;    // what glibc allows
constexpr int64_t kWarmBlock = 16 << 20;  // below it, so that it is of the heap
constexpr int64_t kMostWarm = int64_t{2} << 30;
constexpr int64_t kPage = 4096;

}  // namespace

void PlanHeap(Freed freed) {
  if (freed == Freed::kGoesBack) {
    mallopt(M_MMAP_THRESHOLD, kReturnedBytes);
    return;
  }
  mallopt(M_MMAP_THRESHOLD, kLargestKept);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
}

HeapWarmer::HeapWarmer(int64_t bytes) {
  for (int64_t left = std::min(bytes, kMostWarm); left >= kWarmBlock; left -= kWarmBlock) {
    auto* block = static_cast<char*>(std::malloc(kWarmBlock));
    if (block == nullptr) break;
    blocks_.push_back(block);
  }
  if (!blocks_.empty()) thread_ = std::thread([this] { Touch(); });
}

HeapWarmer::~HeapWarmer() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
  for (char* block : blocks_) std::free(block);
}

void HeapWarmer::Touch() {
  for (char* block : blocks_) {
    for (int64_t at = 0; at < kWarmBlock && !stop_; at += kPage) {
      static_cast<volatile char*>(block)[at] = 0;
    }
  }
}

}  // namespace graft::trainer
