// Strings and their ids, both ways: a vocabulary. Ids may have gaps and need not be in order.
// Built once by Add, then only read, by any number of threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace graft::data {

uint64_t HashBytes(absl::string_view bytes);

class TokenTable {
 public:
  static constexpr int32_t kNone = -1;
  static constexpr int64_t kMaxId = (int64_t{1} << 22) - 1;  // bounds the table of a hostile file

  // Room for `count` strings of `bytes` in all.
  void Reserve(size_t count, size_t bytes);
  // Of a string added twice the last id holds. INVALID_ARGUMENT unless 0 <= id <= kMaxId.
  absl::Status Add(absl::string_view token, int64_t id);

  int32_t Find(absl::string_view token) const {
    return slots_.empty() ? kNone : FindHashed(token, HashBytes(token));
  }
  bool Has(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < by_id_.size() && by_id_[id] != kNone;
  }
  // The string of an id; empty where there is none.
  absl::string_view Text(int32_t id) const {
    return Has(id) ? EntryText(entries_[by_id_[id]]) : absl::string_view();
  }
  size_t size() const { return entries_.size(); }
  // One past the largest id.
  int32_t id_limit() const { return static_cast<int32_t>(by_id_.size()); }
  size_t longest() const { return longest_; }

 private:
  struct Entry {
    uint64_t start;
    uint32_t length;
    int32_t id;
  };
  struct Slot {
    uint32_t hash;  // the upper half
    int32_t entry;
  };
  absl::string_view EntryText(const Entry& entry) const {
    return absl::string_view(arena_).substr(entry.start, entry.length);
  }
  int32_t FindHashed(absl::string_view token, uint64_t hash) const;
  size_t SlotOf(absl::string_view token, uint64_t hash) const;
  void Grow(size_t slots);

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;
  std::vector<int32_t> by_id_;  // places in entries_
  size_t longest_ = 0;
};

}  // namespace graft::data
