#include "worker/data/tokenizer/token_table.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::data {
namespace {

constexpr size_t kBlock = 64;  // strings whose slots are fetched at the same time
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
  by_id_.reserve(count);
  size_t slots = 16;
  while (slots < count * 2) slots *= 2;
  if (slots > slots_.size()) Grow(slots);
}

size_t TokenTable::SlotOf(absl::string_view token, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  const auto upper = static_cast<uint32_t>(hash >> 32);
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    const Slot& slot = slots_[at];
    if (slot.id == kNone) return at;
    if (slot.hash != upper || slot.length != token.size()) continue;
    if (std::memcmp(arena_.data() + slot.start, token.data(), token.size()) == 0) return at;
  }
}

void TokenTable::Grow(size_t slots) {
  std::vector<Slot> old(slots);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.id == kNone) continue;
    const auto text = absl::string_view(arena_).substr(slot.start, slot.length);
    slots_[SlotOf(text, HashBytes(text))] = slot;
  }
}

absl::Status TokenTable::AddAll(absl::Span<const Entry> entries) {
  size_t bytes = arena_.size();
  for (const Entry& entry : entries) bytes += entry.token.size();
  Reserve(size_ + entries.size(), bytes);
  uint64_t hashes[kBlock];
  for (size_t start = 0; start < entries.size(); start += kBlock) {
    const auto block = entries.subspan(start, kBlock);
    for (size_t i = 0; i < block.size(); ++i) {
      hashes[i] = HashBytes(block[i].token);
      PrefetchSlot(hashes[i]);
    }
    for (size_t i = 0; i < block.size(); ++i) {
      GRAFT_RETURN_IF_ERROR(AddHashed(block[i].token, hashes[i], block[i].id));
    }
  }
  return absl::OkStatus();
}

absl::Status TokenTable::Add(absl::string_view token, int64_t id) {
  return AddHashed(token, HashBytes(token), id);
}

absl::Status TokenTable::AddHashed(absl::string_view token, uint64_t hash, int64_t id) {
  if (id < 0 || id > kMaxId) {
    return absl::InvalidArgumentError(
        absl::StrCat("the id ", id, " of the token '", token, "' is not in 0..", kMaxId));
  }
  if (arena_.size() + token.size() >= kNoText) {
    return absl::InvalidArgumentError(
        "the tokens of the vocabulary are longer than 4 GiB together");
  }
  if ((size_ + 1) * 2 > slots_.size()) Grow(std::max<size_t>(16, slots_.size() * 2));
  Slot& slot = slots_[SlotOf(token, hash)];
  const auto new_id = static_cast<int32_t>(id);
  if (static_cast<size_t>(id) >= by_id_.size()) by_id_.resize(static_cast<size_t>(id) + 1);
  if (slot.id == kNone) {
    slot = {static_cast<uint32_t>(hash >> 32), new_id, static_cast<uint32_t>(arena_.size()),
            static_cast<uint32_t>(token.size())};
    arena_.append(token.data(), token.size());
    longest_ = std::max(longest_, token.size());
    ++size_;
  } else {
    if (by_id_[slot.id].start == slot.start) by_id_[slot.id] = Place();
    slot.id = new_id;
  }
  by_id_[new_id] = {slot.start, slot.length};
  return absl::OkStatus();
}

Json TokenTable::ToJson() const {
  Json::Object members;
  members.reserve(size_);
  for (int32_t id = 0; id < id_limit(); ++id) {
    if (Has(id)) members.emplace_back(std::string(Text(id)), Json(id));
  }
  return Json(std::move(members));
}

}  // namespace graft::data
