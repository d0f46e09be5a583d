#include "worker/data/tokenizer/word_cache.h"

#include <cstring>

namespace graft::data {

bool WordCache::Find(absl::string_view word, uint64_t hash, std::vector<TokenSpan>& out) const {
  if (slots_.empty()) return false;
  for (size_t at = hash & (kSlots - 1);; at = (at + 1) & (kSlots - 1)) {
    const Slot& slot = slots_[at];
    if (slot.token_count == 0) return false;
    if (slot.hash != hash || slot.text_length != word.size() ||
        std::memcmp(arena_.data() + slot.text, word.data(), word.size()) != 0) {
      continue;
    }
    const TokenSpan* tokens = tokens_.data() + slot.tokens;
    out.insert(out.end(), tokens, tokens + slot.token_count);
    return true;
  }
}

void WordCache::Insert(absl::string_view word, uint64_t hash, absl::Span<const TokenSpan> tokens) {
  if (word.size() > kMaxWord || tokens.empty()) return;
  const bool full = used_ * 2 >= kSlots || arena_.size() + word.size() > kMaxArena;
  if (slots_.empty() || full) Clear();
  size_t at = hash & (kSlots - 1);
  while (slots_[at].token_count != 0) at = (at + 1) & (kSlots - 1);
  slots_[at] = {hash, static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(tokens_.size()),
                static_cast<uint32_t>(word.size()), static_cast<uint32_t>(tokens.size())};
  arena_.append(word.data(), word.size());
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  ++used_;
}

void WordCache::Clear() {
  slots_.assign(kSlots, Slot{});
  used_ = 0;
  arena_.clear();
  tokens_.clear();
}

}  // namespace graft::data
