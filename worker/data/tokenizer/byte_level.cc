#include "worker/data/tokenizer/byte_level.h"

#include <array>

#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr bool IsPrintable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Maps {
  std::array<uint16_t, 256> chars{};
  std::array<int16_t, 512> bytes{};
  constexpr Maps() {
    for (auto& byte : bytes) byte = -1;
    uint16_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      chars[byte] = IsPrintable(byte) ? static_cast<uint16_t>(byte) : next++;
      bytes[chars[byte]] = static_cast<int16_t>(byte);
    }
  }
};
constexpr Maps kMaps;

}  // namespace

uint32_t CharOfByte(uint8_t byte) { return kMaps.chars[byte]; }

int ByteOfChar(uint32_t code_point) {
  return code_point < kMaps.bytes.size() ? kMaps.bytes[code_point] : -1;
}

bool BytesOfToken(absl::string_view token, std::string& bytes) {
  bytes.clear();
  for (size_t at = 0; at < token.size();) {
    const int byte = ByteOfChar(NextCodePoint(token, at));
    if (byte < 0) return false;
    bytes.push_back(static_cast<char>(byte));
  }
  return true;
}

void AppendPrintable(absl::string_view bytes, std::string& out) {
  for (const char byte : bytes) AppendCodePoint(CharOfByte(static_cast<uint8_t>(byte)), out);
}

}  // namespace graft::data
