// Which pieces of a version somebody has, and which to fetch next. Pure; used by workers that fetch
// from one another, by the tracker that brings them together, and by its simulation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/random.h"

namespace graft::fileservice {

class PieceSet {
 public:
  explicit PieceSet(uint32_t size = 0) : size_(size), words_((size + 63) / 64) {}

  uint32_t size() const { return size_; }
  uint32_t count() const { return count_; }
  bool full() const { return count_ == size_; }
  bool Has(uint32_t piece) const { return (words_[piece / 64] >> (piece % 64) & 1) != 0; }
  // False when it was there.
  bool Add(uint32_t piece);
  void Remove(uint32_t piece);

  // One bit a piece, lowest bit first.
  std::string Bytes() const;
  // Bits beyond `size` and missing bytes count for nothing.
  static PieceSet FromBytes(absl::string_view bytes, uint32_t size);

  // A piece of this set that is not in `taken`: of a few drawn at random the one that the fewest
  // have. `copies` has an entry a piece. Nothing: there is none.
  std::optional<uint32_t> Choose(const PieceSet& taken, const std::vector<uint32_t>& copies,
                                 Random& random) const;

 private:
  // The first piece from `from` on, around the end, that is here and not in `taken`.
  std::optional<uint32_t> NextFrom(uint32_t from, const PieceSet& taken) const;

  uint32_t size_;
  uint32_t count_ = 0;
  std::vector<uint64_t> words_;
};

}  // namespace graft::fileservice
