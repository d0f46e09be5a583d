// What a chart is drawn on: lines and short texts, as SVG or as pixels.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft::cli {

// Red, green, blue.
using Colour = std::array<uint8_t, 3>;
enum class Anchor { kStart, kMiddle, kEnd };

// Coordinates are pixels from the upper left corner; a text stands on `y`.
class Canvas {
 public:
  virtual ~Canvas() = default;
  virtual void Line(double x1, double y1, double x2, double y2, Colour colour, double width) = 0;
  virtual void Text(double x, double y, Anchor anchor, Colour colour, absl::string_view text) = 0;
  // The whole file.
  virtual std::string Finish() = 0;
};

class SvgCanvas final : public Canvas {
 public:
  SvgCanvas(int width, int height);
  void Line(double x1, double y1, double x2, double y2, Colour colour, double width) override;
  void Text(double x, double y, Anchor anchor, Colour colour, absl::string_view text) override;
  std::string Finish() override;

 private:
  std::string body_;
};

// Texts are set in a small face of capitals, digits and a few signs; what it lacks is a blank.
class PngCanvas final : public Canvas {
 public:
  PngCanvas(int width, int height);
  void Line(double x1, double y1, double x2, double y2, Colour colour, double width) override;
  void Text(double x, double y, Anchor anchor, Colour colour, absl::string_view text) override;
  std::string Finish() override;

 private:
  void Blend(int x, int y, Colour colour, double share);

  const int width_;
  const int height_;
  std::vector<uint8_t> pixels_;  // three bytes each, by rows
};

}  // namespace graft::cli
