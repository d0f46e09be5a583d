// Strings and their ids, both ways: a vocabulary. Ids may have gaps and need not be in order.
// Built once by Add, then only read, by any number of threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/json.h"

namespace graft::data {

uint64_t HashBytes(absl::string_view bytes);

class TokenTable {
 public:
  static constexpr int32_t kNone = -1;
  static constexpr int64_t kMaxId = (int64_t{1} << 22) - 1;  // bounds the table of a hostile file

  // Room for `count` strings of `bytes` in all.
  void Reserve(size_t count, size_t bytes);
  // Of a string added twice the last id holds. INVALID_ARGUMENT unless 0 <= id <= kMaxId and all
  // strings together are shorter than 4 GiB.
  absl::Status Add(absl::string_view token, int64_t id);
  struct Entry {
    absl::string_view token;
    int64_t id;
  };
  // Add() of each in order; quicker, as memory is waited for in blocks.
  absl::Status AddAll(absl::Span<const Entry> entries);

  int32_t Find(absl::string_view token) const { return FindHashed(token, HashBytes(token)); }
  // The same in steps, for looking many strings up at once, each step for all of them before the
  // next: memory is waited for once instead of once for each.
  void PrefetchSlot(uint64_t hash) const {
    if (!slots_.empty()) __builtin_prefetch(&slots_[hash & (slots_.size() - 1)]);
  }
  void PrefetchText(uint64_t hash) const {
    if (slots_.empty()) return;
    __builtin_prefetch(arena_.data() + slots_[hash & (slots_.size() - 1)].start);
  }
  int32_t FindHashed(absl::string_view token, uint64_t hash) const {
    return slots_.empty() ? kNone : slots_[SlotOf(token, hash)].id;
  }
  bool Has(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < by_id_.size() && by_id_[id].start != kNoText;
  }
  // The string of an id; empty where there is none.
  absl::string_view Text(int32_t id) const {
    if (!Has(id)) return absl::string_view();
    return absl::string_view(arena_).substr(by_id_[id].start, by_id_[id].length);
  }
  // {"token": id, ...} in the order of the ids.
  Json ToJson() const;
  size_t size() const { return size_; }
  // One past the largest id.
  int32_t id_limit() const { return static_cast<int32_t>(by_id_.size()); }
  size_t longest() const { return longest_; }

 private:
  static constexpr uint32_t kNoText = 0xffffffff;
  struct Slot {
    uint32_t hash = 0;  // the upper half
    int32_t id = kNone;
    uint32_t start = 0;
    uint32_t length = 0;
  };
  struct Place {
    uint32_t start = kNoText;
    uint32_t length = 0;
  };
  size_t SlotOf(absl::string_view token, uint64_t hash) const;
  absl::Status AddHashed(absl::string_view token, uint64_t hash, int64_t id);
  void Grow(size_t slots);

  std::string arena_;
  std::vector<Slot> slots_;  // a power of two of them, at most half in use
  std::vector<Place> by_id_;
  size_t size_ = 0;
  size_t longest_ = 0;
};

}  // namespace graft::data
