// Text on its way from the original to the model: every byte knows which characters of the original
// it came from. While nothing has been rewritten the text is a view of the original and no table of
// alignments is kept.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/data/tokenizer/regex.h"
#include "worker/data/unicode/normalize.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {

// [begin, end) in bytes of the original.
struct Origin {
  uint32_t begin;
  uint32_t end;
};

// A part of an AlignedText; `token` is the added token that it is, or kNone.
struct Piece {
  static constexpr int32_t kNone = -1;
  uint32_t begin;
  uint32_t end;
  int32_t token = kNone;
};

class AlignedText {
 public:
  // A view of the original, which must outlive it.
  explicit AlignedText(absl::string_view original) : view_(original), identity_(true) {}
  AlignedText(std::string text, std::vector<Origin> origins)
      : owned_(std::move(text)), origins_(std::move(origins)) {}

  absl::string_view text() const { return identity_ ? view_ : absl::string_view(owned_); }
  absl::string_view Slice(const Piece& piece) const {
    return text().substr(piece.begin, piece.end - piece.begin);
  }
  // The characters that byte `at` came from.
  Origin OriginOf(uint32_t at) const;
  uint32_t OriginBegin(uint32_t at) const { return OriginOf(at).begin; }
  bool identity() const { return identity_; }

 private:
  absl::string_view view_;
  std::string owned_;
  std::vector<Origin> origins_;
  bool identity_ = false;
};

// One piece taken out to be rewritten. Each edit keeps the alignments as the reference does: what
// is put in the place of a character has its origin, what is inserted that of the character before.
class EditableText {
 public:
  EditableText(const AlignedText& source, const Piece& piece);

  absl::string_view text() const { return text_; }
  bool empty() const { return text_.empty(); }
  uint32_t first_origin() const { return base_; }

  // Replaces the whole text. The first `removed` characters of the old text are dropped.
  void Transform(const std::vector<CharChange>& changes, size_t removed = 0);
  // Keeps the characters for which `keep` holds.
  template <typename Keep>
  void Filter(Keep keep);
  // Puts `prefix` before the first character; nothing where the text is empty.
  void Prepend(absl::string_view prefix);
  // Puts `content` in the place of every match.
  void Replace(const std::vector<Match>& matches, absl::string_view content);
  void Strip(bool left, bool right);
  // Every byte becomes its printable character.
  void ToPrintableBytes();

  // Appends the text to `text` and its origins to `origins`.
  void AppendTo(std::string& text, std::vector<Origin>& origins) const;

 private:
  Origin OriginBefore(size_t at) const { return at == 0 ? Origin{base_, base_} : origins_[at - 1]; }
  void FilterInto(const std::vector<std::pair<uint32_t, bool>>& kept);

  std::string text_;
  std::vector<Origin> origins_;
  uint32_t base_;
};

template <typename Keep>
void EditableText::Filter(Keep keep) {
  std::vector<std::pair<uint32_t, bool>> kept;
  for (size_t at = 0; at < text_.size();) {
    const uint32_t code_point = NextCodePoint(text_, at);
    kept.emplace_back(code_point, keep(code_point));
  }
  FilterInto(kept);
}

}  // namespace graft::data
