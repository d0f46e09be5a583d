#include "client/cli/canvas.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"

namespace graft::cli {
namespace {

std::string Hex(Colour colour) {
  return absl::StrFormat("#%02x%02x%02x", colour[0], colour[1], colour[2]);
}

// A face of 3 x 5 dots: five rows from the top, an octal digit each, the left dot its highest bit.
struct Glyph {
  char letter;
  uint16_t rows;
};
constexpr Glyph kGlyphs[] = {
    {'0', 075557}, {'1', 026227}, {'2', 071747}, {'3', 071717}, {'4', 055711}, {'5', 074717},
    {'6', 074757}, {'7', 071122}, {'8', 075757}, {'9', 075717}, {'a', 025755}, {'b', 065656},
    {'c', 034443}, {'d', 065556}, {'e', 074647}, {'f', 074644}, {'g', 034553}, {'h', 055755},
    {'i', 072227}, {'j', 011152}, {'k', 055655}, {'l', 044447}, {'m', 057755}, {'n', 065555},
    {'o', 025552}, {'p', 065644}, {'q', 025563}, {'r', 065655}, {'s', 034216}, {'t', 072222},
    {'u', 055557}, {'v', 055522}, {'w', 055775}, {'x', 055255}, {'y', 055222}, {'z', 071247},
    {'.', 000002}, {',', 000024}, {'-', 000700}, {'_', 000007}, {'/', 011244}, {':', 002020},
    {'+', 002720}, {'=', 007070}, {'(', 012221}, {')', 042224}, {'%', 051245}};
constexpr int kGlyphWidth = 3, kGlyphHeight = 5, kGlyphScale = 2;
constexpr int kAdvance = (kGlyphWidth + 1) * kGlyphScale;

uint16_t RowsOf(char letter) {
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(letter));
  for (const Glyph& glyph : kGlyphs) {
    if (glyph.letter == lower) return glyph.rows;
  }
  return 0;
}

void AppendNumber(std::string& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

void AppendChunk(std::string& out, absl::string_view type, const std::string& data) {
  AppendNumber(out, static_cast<uint32_t>(data.size()));
  const std::string body = absl::StrCat(type, data);
  out.append(body);
  AppendNumber(out, static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(body.data()),
                                                static_cast<uInt>(body.size()))));
}

}  // namespace

SvgCanvas::SvgCanvas(int width, int height)
    : body_(absl::StrFormat("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                            "viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n"
                            "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n",
                            width, height, width, height, width, height)) {}

void SvgCanvas::Line(double x1, double y1, double x2, double y2, Colour colour, double width) {
  absl::StrAppendFormat(&body_,
                        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
                        "stroke-width=\"%.1f\" stroke-linecap=\"round\"/>\n",
                        x1, y1, x2, y2, Hex(colour), width);
}

void SvgCanvas::Text(double x, double y, Anchor anchor, Colour colour, absl::string_view text) {
  constexpr const char* kNames[] = {"start", "middle", "end"};
  absl::StrAppendFormat(&body_,
                        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x,
                        y, kNames[static_cast<int>(anchor)], Hex(colour),
                        absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}}));
}

std::string SvgCanvas::Finish() { return absl::StrCat(body_, "</svg>\n"); }

PngCanvas::PngCanvas(int width, int height)
    : width_(width),
      height_(height),
      pixels_(static_cast<size_t>(width) * static_cast<size_t>(height) * 3, 255) {}

void PngCanvas::Blend(int x, int y, Colour colour, double share) {
  if (x < 0 || y < 0 || x >= width_ || y >= height_ || share <= 0) return;
  const size_t at =
      (static_cast<size_t>(y) * static_cast<size_t>(width_) + static_cast<size_t>(x)) * 3;
  for (size_t i = 0; i < 3; ++i) {
    const double mixed = pixels_[at + i] + (colour[i] - pixels_[at + i]) * std::min(share, 1.0);
    pixels_[at + i] = static_cast<uint8_t>(std::lround(mixed));
  }
}

// Every pixel is covered by what its distance to the line leaves of the pen.
void PngCanvas::Line(double x1, double y1, double x2, double y2, Colour colour, double width) {
  const double reach = width / 2 + 1;
  const double dx = x2 - x1, dy = y2 - y1, length = dx * dx + dy * dy;
  const int top = static_cast<int>(std::floor(std::min(y1, y2) - reach));
  const int bottom = static_cast<int>(std::ceil(std::max(y1, y2) + reach));
  const int left = static_cast<int>(std::floor(std::min(x1, x2) - reach));
  const int right = static_cast<int>(std::ceil(std::max(x1, x2) + reach));
  for (int y = top; y <= bottom; ++y) {
    for (int x = left; x <= right; ++x) {
      const double px = x + 0.5 - x1, py = y + 0.5 - y1;
      const double along = length > 0 ? std::clamp((px * dx + py * dy) / length, 0.0, 1.0) : 0;
      const double distance = std::hypot(px - along * dx, py - along * dy);
      Blend(x, y, colour, width / 2 + 0.5 - distance);
    }
  }
}

void PngCanvas::Text(double x, double y, Anchor anchor, Colour colour, absl::string_view text) {
  const int length = static_cast<int>(text.size()) * kAdvance - kGlyphScale;
  int left = static_cast<int>(std::lround(x));
  if (anchor == Anchor::kMiddle) left -= length / 2;
  if (anchor == Anchor::kEnd) left -= length;
  const int top = static_cast<int>(std::lround(y)) - kGlyphHeight * kGlyphScale;
  for (const char letter : text) {
    const uint16_t rows = RowsOf(letter);
    for (int dot = 0; dot < kGlyphWidth * kGlyphHeight * kGlyphScale * kGlyphScale; ++dot) {
      const int column = dot % (kGlyphWidth * kGlyphScale), row = dot / (kGlyphWidth * kGlyphScale);
      const int bit = (kGlyphHeight - 1 - row / kGlyphScale) * kGlyphWidth +
                      (kGlyphWidth - 1 - column / kGlyphScale);
      if ((rows >> bit & 1) != 0) Blend(left + column, top + row, colour, 1);
    }
    left += kAdvance;
  }
}

std::string PngCanvas::Finish() {
  std::string header, raw;
  AppendNumber(header, static_cast<uint32_t>(width_));
  AppendNumber(header, static_cast<uint32_t>(height_));
  header.append(std::string("\x08\x02\x00\x00\x00", 5));  // 8 bits, RGB, no interlace
  const size_t stride = static_cast<size_t>(width_) * 3;
  for (int y = 0; y < height_; ++y) {
    raw.push_back('\0');  // no filter
    raw.append(reinterpret_cast<const char*>(pixels_.data()) + static_cast<size_t>(y) * stride,
               stride);
  }
  uLongf size = compressBound(static_cast<uLong>(raw.size()));
  std::string packed(size, '\0');
  const int code =
      compress2(reinterpret_cast<Bytef*>(packed.data()), &size,
                reinterpret_cast<const Bytef*>(raw.data()), static_cast<uLong>(raw.size()), 9);
  GRAFT_CHECK(code == Z_OK) << "zlib: " << code;
  packed.resize(size);
  std::string out("\x89PNG\r\n\x1a\n", 8);
  AppendChunk(out, "IHDR", header);
  AppendChunk(out, "IDAT", packed);
  AppendChunk(out, "IEND", "");
  return out;
}

}  // namespace graft::cli
