// The printable form of bytes that byte-level tokenizers use: each byte has a character of its own,
// most of ASCII and Latin-1 itself, the others the characters from U+0100 on.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace graft::data {

// The character of a byte.
uint32_t CharOfByte(uint8_t byte);
// The byte of a character, or -1.
int ByteOfChar(uint32_t code_point);
// The bytes that `token` spells; false where a character of it stands for none.
bool BytesOfToken(absl::string_view token, std::string& bytes);
void AppendPrintable(absl::string_view bytes, std::string& out);

}  // namespace graft::data
