#include "worker/data/tokenizer/token_table.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace graft::data {
namespace {

constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15u;

uint64_t Mix(uint64_t a, uint64_t b) {
  const __uint128_t product = static_cast<__uint128_t>(a ^ kMultiplier) * (b ^ 0xd6e8feb86659fd93u);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t Load(const char* p, size_t bytes) {
  uint64_t value = 0;
  std::memcpy(&value, p, bytes);
  return value;
}

}  // namespace

uint64_t HashBytes(absl::string_view bytes) {
  const char* p = bytes.data();
  size_t left = bytes.size();
  uint64_t hash = left * kMultiplier;
  for (; left > 16; left -= 16, p += 16) hash = Mix(hash ^ Load(p, 8), Load(p + 8, 8));
  if (left >= 8) return Mix(hash ^ Load(p, 8), Load(p + left - 8, 8));
  if (left >= 4) return Mix(hash ^ Load(p, 4), Load(p + left - 4, 4));
  if (left == 0) return Mix(hash, 0);
  const auto byte = [p](size_t i) { return static_cast<uint64_t>(static_cast<uint8_t>(p[i])); };
  return Mix(hash, byte(0) | byte(left / 2) << 8 | byte(left - 1) << 16);
}

void TokenTable::Reserve(size_t count, size_t bytes) {
  arena_.reserve(bytes);
  entries_.reserve(count);
  by_id_.reserve(count);
  size_t slots = 16;
  while (slots < count * 2) slots *= 2;
  if (slots > slots_.size()) Grow(slots);
}

size_t TokenTable::SlotOf(absl::string_view token, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  const uint32_t upper = static_cast<uint32_t>(hash >> 32);
  size_t at = hash & mask;
  while (slots_[at].entry != kNone) {
    if (slots_[at].hash == upper && EntryText(entries_[slots_[at].entry]) == token) break;
    at = (at + 1) & mask;
  }
  return at;
}

int32_t TokenTable::FindHashed(absl::string_view token, uint64_t hash) const {
  const Slot& slot = slots_[SlotOf(token, hash)];
  return slot.entry == kNone ? kNone : entries_[slot.entry].id;
}

void TokenTable::Grow(size_t slots) {
  slots_.assign(slots, {0, kNone});
  for (size_t i = 0; i < entries_.size(); ++i) {
    const uint64_t hash = HashBytes(EntryText(entries_[i]));
    slots_[SlotOf(EntryText(entries_[i]), hash)] = {static_cast<uint32_t>(hash >> 32),
                                                    static_cast<int32_t>(i)};
  }
}

absl::Status TokenTable::Add(absl::string_view token, int64_t id) {
  if (id < 0 || id > kMaxId) {
    return absl::InvalidArgumentError(
        absl::StrCat("the id ", id, " of the token '", token, "' is not in 0..", kMaxId));
  }
  if ((entries_.size() + 1) * 2 > slots_.size()) Grow(std::max<size_t>(16, slots_.size() * 2));
  const uint64_t hash = HashBytes(token);
  Slot& slot = slots_[SlotOf(token, hash)];
  if (static_cast<size_t>(id) >= by_id_.size()) by_id_.resize(static_cast<size_t>(id) + 1, kNone);
  if (slot.entry != kNone) {
    Entry& entry = entries_[slot.entry];
    if (by_id_[entry.id] == slot.entry) by_id_[entry.id] = kNone;
    entry.id = static_cast<int32_t>(id);
    by_id_[id] = slot.entry;
    return absl::OkStatus();
  }
  slot = {static_cast<uint32_t>(hash >> 32), static_cast<int32_t>(entries_.size())};
  by_id_[id] = slot.entry;
  entries_.push_back(
      {arena_.size(), static_cast<uint32_t>(token.size()), static_cast<int32_t>(id)});
  arena_.append(token.data(), token.size());
  longest_ = std::max(longest_, token.size());
  return absl::OkStatus();
}

}  // namespace graft::data
