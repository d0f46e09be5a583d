#include "worker/data/tokenizer/char_seams.h"

#include <string>

#include "worker/data/tokenizer/byte_level.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

bool IsLead(char byte) { return (static_cast<uint8_t>(byte) & 0xf0) == 0xe0; }  // of three bytes

// The character of three bytes that begins at `at`.
uint32_t CharAt(absl::string_view text, size_t at) {
  const auto low = [&](size_t i) { return static_cast<uint32_t>(text[at + i]) & 0x3f; };
  return (static_cast<uint32_t>(text[at]) & 0x0f) << 12 | low(1) << 6 | low(2);
}

size_t BrokenIndex(char last, char first) {
  return static_cast<size_t>(static_cast<uint8_t>(last)) << 8 | static_cast<uint8_t>(first);
}

}  // namespace

CharSeams::CharSeams(const TokenTable& vocab) {
  std::string bytes;
  for (int32_t id = 0; id < vocab.id_limit(); ++id) {
    const absl::string_view text = vocab.Text(id);
    // Bytes 0xe0 to 0xef are printed as U+00E0 to U+00EF, whose own first byte is 0xc3.
    if (text.find('\xc3', 1) == absl::string_view::npos) continue;
    if (BytesOfToken(text, bytes)) AddToken(bytes);
  }
}

void CharSeams::AddToken(absl::string_view bytes) {
  for (size_t at = 1; at < bytes.size(); ++at) {
    if (!IsLead(bytes[at]) || !IsUtf8Continuation(bytes[at - 1])) continue;
    size_t begin = at - 1;  // of the character before, or of the token
    while (begin > 0 && at - begin < 3 && IsUtf8Continuation(bytes[begin])) --begin;
    const bool whole_left = at - begin == 3 && IsLead(bytes[begin]);
    const bool part_left = begin == 0 && at - begin < 3 && IsUtf8Continuation(bytes[0]);
    if (!whole_left && !part_left) continue;  // it joins no two characters of three bytes
    if (whole_left && at + 3 <= bytes.size()) {
      pairs_.set(HashOf(CharAt(bytes, begin), CharAt(bytes, at)));
    } else {
      broken_.set(BrokenIndex(bytes[at - 1], bytes[at]));
    }
  }
}

size_t CharSeams::Next(absl::string_view text, size_t from) const {
  const size_t size = text.size();
  size_t at = from;
  bool before = false;  // the character behind `at` has three bytes
  uint32_t left = 0;
  while (at < size) {
    if (!IsLead(text[at])) {
      before = false;
      ++at;
      continue;
    }
    const uint32_t right = CharAt(text, at);
    if (before && !broken_.test(BrokenIndex(text[at - 1], text[at])) &&
        !pairs_.test(HashOf(left, right))) {
      return at;
    }
    before = true;
    left = right;
    at += 3;
  }
  return size;
}

}  // namespace graft::data
