#include "worker/data/unicode/utf8.h"

#include <cstring>

namespace graft::data {
namespace {

// The range of the second byte after each lead byte; a lead byte not listed begins nothing.
bool SecondByteFits(uint8_t lead, uint8_t second) {
  switch (lead) {
    case 0xe0:
      return second >= 0xa0 && second <= 0xbf;
    case 0xed:
      return second >= 0x80 && second <= 0x9f;
    case 0xf0:
      return second >= 0x90 && second <= 0xbf;
    case 0xf4:
      return second >= 0x80 && second <= 0x8f;
    default:
      return second >= 0x80 && second <= 0xbf;
  }
}

}  // namespace

void AppendCodePoint(uint32_t code_point, std::string& out) {
  if (code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out.push_back(static_cast<char>(0xc0 | code_point >> 6));
    out.push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
  } else if (code_point < 0x10000) {
    out.push_back(static_cast<char>(0xe0 | code_point >> 12));
    out.push_back(static_cast<char>(0x80 | (code_point >> 6 & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
  } else {
    out.push_back(static_cast<char>(0xf0 | code_point >> 18));
    out.push_back(static_cast<char>(0x80 | (code_point >> 12 & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (code_point >> 6 & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
  }
}

bool ReadUtf8Unit(absl::string_view text, size_t& length) {
  const auto* p = reinterpret_cast<const uint8_t*>(text.data());
  length = 1;
  if (p[0] < 0x80) return true;
  if (p[0] < 0xc2 || p[0] > 0xf4) return false;
  const size_t want = Utf8Length(text[0]);
  if (text.size() < 2 || !SecondByteFits(p[0], p[1])) return false;
  for (length = 2; length < want; ++length) {
    if (length == text.size() || !IsUtf8Continuation(text[length])) return false;
  }
  return true;
}

size_t ValidUtf8Prefix(absl::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight;
    if (at + sizeof(eight) <= text.size()) {
      std::memcpy(&eight, text.data() + at, sizeof(eight));
      if ((eight & 0x8080808080808080u) == 0) {
        at += sizeof(eight);
        continue;
      }
    }
    size_t length = 0;
    if (!ReadUtf8Unit(text.substr(at), length)) return at;
    at += length;
  }
  return at;
}

std::string ToValidUtf8(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t good = ValidUtf8Prefix(text);
    out.append(text.data(), good);
    text.remove_prefix(good);
    if (text.empty()) break;
    size_t length = 0;
    ReadUtf8Unit(text, length);
    AppendCodePoint(kReplacementCharacter, out);
    text.remove_prefix(length);
  }
  return out;
}

size_t CountCodePoints(absl::string_view text) {
  size_t count = 0;
  for (const char c : text) count += !IsUtf8Continuation(c);
  return count;
}

}  // namespace graft::data
