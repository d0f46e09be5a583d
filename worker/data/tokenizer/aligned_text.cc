#include "worker/data/tokenizer/aligned_text.h"

#include "worker/data/tokenizer/byte_level.h"

namespace graft::data {

Origin AlignedText::OriginOf(uint32_t at) const {
  if (!identity_) return origins_[at];
  uint32_t begin = at;
  while (begin > 0 && IsUtf8Continuation(view_[begin])) --begin;
  return {begin, begin + Utf8Length(view_[begin])};
}

EditableText::EditableText(const AlignedText& source, const Piece& piece)
    : text_(source.Slice(piece)),
      base_(piece.begin < piece.end ? source.OriginBegin(piece.begin) : 0) {
  origins_.reserve(text_.size());
  if (!source.identity()) {
    for (uint32_t at = piece.begin; at < piece.end; ++at) origins_.push_back(source.OriginOf(at));
    return;
  }
  for (uint32_t at = piece.begin; at < piece.end;) {
    const uint32_t length = Utf8Length(source.text()[at]);
    origins_.insert(origins_.end(), length, Origin{at, at + length});
    at += length;
  }
}

void EditableText::Transform(const std::vector<CharChange>& changes, size_t removed) {
  std::string text;
  std::vector<Origin> origins;
  text.reserve(text_.size());
  origins.reserve(text_.size());
  size_t at = 0;  // the next character of the old text
  const auto skip = [&](size_t count) {
    for (; count > 0 && at < text_.size(); --count) at += Utf8Length(text_[at]);
  };
  skip(removed);
  for (const CharChange& change : changes) {
    Origin origin = OriginBefore(at);
    if (change.change <= 0) {
      if (at < text_.size()) origin = origins_[at];
      skip(1 + static_cast<size_t>(-change.change));
    }
    const size_t before = text.size();
    AppendCodePoint(change.code_point, text);
    origins.insert(origins.end(), text.size() - before, origin);
  }
  text_ = std::move(text);
  origins_ = std::move(origins);
}

void EditableText::FilterInto(const std::vector<std::pair<uint32_t, bool>>& kept) {
  std::vector<CharChange> changes;
  size_t removed_first = 0;
  bool all = true;
  for (const auto& [code_point, keep] : kept) {
    if (keep) {
      changes.push_back({code_point, 0});
    } else {
      all = false;
      if (changes.empty()) {
        ++removed_first;
      } else {
        --changes.back().change;
      }
    }
  }
  if (!all) Transform(changes, removed_first);
}

void EditableText::Prepend(absl::string_view prefix) {
  if (text_.empty()) return;
  text_.insert(0, prefix.data(), prefix.size());
  origins_.insert(origins_.begin(), prefix.size(), origins_[0]);
}

void EditableText::Replace(const std::vector<Match>& matches, absl::string_view content) {
  if (matches.empty()) return;
  std::string text;
  std::vector<Origin> origins;
  text.reserve(text_.size());
  origins.reserve(text_.size());
  size_t at = 0;
  const auto keep_to = [&](size_t end) {
    text.append(text_, at, end - at);
    origins.insert(origins.end(), origins_.begin() + static_cast<ptrdiff_t>(at),
                   origins_.begin() + static_cast<ptrdiff_t>(end));
  };
  for (const Match& match : matches) {
    keep_to(match.begin);
    at = match.end;
    text.append(content.data(), content.size());
    origins.insert(origins.end(), content.size(), OriginBefore(at));
  }
  keep_to(text_.size());
  text_ = std::move(text);
  origins_ = std::move(origins);
}

void EditableText::Strip(bool left, bool right) {
  size_t begin = 0, end = text_.size();
  for (size_t next = begin; left && begin < end; begin = next) {
    if (!IsWhiteSpace(NextCodePoint(text_, next))) break;
  }
  while (right && end > begin && IsWhiteSpace(CodePointBefore(text_, end))) {
    do {
      --end;
    } while (IsUtf8Continuation(text_[end]));
  }
  if (begin == 0 && end == text_.size()) return;
  text_ = text_.substr(begin, end - begin);
  origins_ = std::vector<Origin>(origins_.begin() + static_cast<ptrdiff_t>(begin),
                                 origins_.begin() + static_cast<ptrdiff_t>(end));
}

void EditableText::ToPrintableBytes() {
  std::string text;
  std::vector<Origin> origins;
  for (size_t at = 0; at < text_.size(); ++at) {
    const size_t before = text.size();
    AppendPrintable(absl::string_view(text_).substr(at, 1), text);
    origins.insert(origins.end(), text.size() - before, origins_[at]);
  }
  text_ = std::move(text);
  origins_ = std::move(origins);
}

void EditableText::AppendTo(std::string& text, std::vector<Origin>& origins) const {
  text.append(text_);
  origins.insert(origins.end(), origins_.begin(), origins_.end());
}

}  // namespace graft::data
