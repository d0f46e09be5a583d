#include "client/cli/chart.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/cli/canvas.h"

namespace graft::cli {
namespace {

constexpr int kWidth = 960;
constexpr int kLeft = 70, kRight = 20;
constexpr int kTitle = 30, kPanelTitle = 24, kBelow = 26;
constexpr int kFirstPanel = 260, kOtherPanel = 130;  // the first is what one looks at
constexpr Colour kInk = {60, 60, 60}, kGrid = {225, 225, 225};
// Told apart by those who see no red or green as well.
constexpr Colour kColours[] = {{0, 114, 178},  {230, 159, 0}, {0, 158, 115},   {204, 121, 167},
                               {86, 180, 233}, {213, 94, 0},  {120, 120, 120}, {0, 0, 0}};

struct Range {
  double low = 0;
  double high = 1;
  double ShareOf(double value) const { return (value - low) / (high - low); }
};

Range RangeOf(const Panel& panel, double Point::*member) {
  Range range{INFINITY, -INFINITY};
  for (const Curve& curve : panel.curves) {
    for (const Point& point : curve.points) {
      if (!std::isfinite(point.x) || !std::isfinite(point.y)) continue;
      range.low = std::min(range.low, point.*member);
      range.high = std::max(range.high, point.*member);
    }
  }
  if (range.low > range.high) return {0, 1};
  if (range.high - range.low < 1e-12) return {range.low - 0.5, range.high + 0.5};
  return range;
}

int HeightOf(size_t panel) { return panel == 0 ? kFirstPanel : kOtherPanel; }

int HeightOf(const Chart& chart) {
  int height = kTitle;
  for (size_t i = 0; i < chart.panels.size(); ++i) height += HeightOf(i) + kPanelTitle + kBelow;
  return height;
}

void DrawPanel(Canvas& canvas, const Panel& panel, double top, double height) {
  const Range xs = RangeOf(panel, &Point::x);
  Range ys = RangeOf(panel, &Point::y);
  const double margin = (ys.high - ys.low) * 0.05;
  ys = {ys.low - margin, ys.high + margin};
  const double width = kWidth - kLeft - kRight;
  const auto across = [&](double x) { return kLeft + xs.ShareOf(x) * width; };
  const auto down = [&](double y) { return top + height - ys.ShareOf(y) * height; };
  canvas.Text(kLeft, top - 8, Anchor::kStart, kInk, panel.title);
  for (const double tick : Ticks(ys.low, ys.high, height > 200 ? 6 : 3)) {
    canvas.Line(kLeft, down(tick), kWidth - kRight, down(tick), kGrid, 1);
    canvas.Text(kLeft - 6, down(tick) + 4, Anchor::kEnd, kInk, absl::StrCat(tick));
  }
  for (const double tick : Ticks(xs.low, xs.high, 10)) {
    canvas.Line(across(tick), top + height, across(tick), top + height + 4, kInk, 1);
    canvas.Text(across(tick), top + height + 18, Anchor::kMiddle, kInk, absl::StrCat(tick));
  }
  canvas.Line(kLeft, top, kLeft, top + height, kInk, 1);
  canvas.Line(kLeft, top + height, kWidth - kRight, top + height, kInk, 1);
  for (size_t i = 0; i < panel.curves.size(); ++i) {
    const Colour colour = kColours[i % std::size(kColours)];
    const Point* last = nullptr;
    for (const Point& point : panel.curves[i].points) {
      if (!std::isfinite(point.x) || !std::isfinite(point.y)) continue;
      const Point& from = last == nullptr ? point : *last;
      canvas.Line(across(from.x), down(from.y), across(point.x), down(point.y), colour, 1.8);
      last = &point;
    }
    const double y = top + 14 + 16 * static_cast<double>(i);
    canvas.Line(kWidth - kRight - 28, y - 4, kWidth - kRight - 8, y - 4, colour, 3);
    canvas.Text(kWidth - kRight - 34, y, Anchor::kEnd, kInk, panel.curves[i].name);
  }
}

std::string Draw(Canvas& canvas, const Chart& chart) {
  canvas.Text(kLeft, 20, Anchor::kStart, kInk, chart.title);
  double top = kTitle;
  for (size_t i = 0; i < chart.panels.size(); ++i) {
    DrawPanel(canvas, chart.panels[i], top + kPanelTitle, HeightOf(i));
    top += HeightOf(i) + kPanelTitle + kBelow;
  }
  return canvas.Finish();
}

std::string CsvCell(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

}  // namespace

std::vector<double> Ticks(double low, double high, int wanted) {
  const double rough = (high - low) / std::max(1, wanted);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = power * 10;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (power * factor >= rough) {
      step = power * factor;
      break;
    }
  }
  std::vector<double> ticks;
  for (int64_t i = static_cast<int64_t>(std::ceil(low / step));
       static_cast<double>(i) * step <= high + step * 1e-9; ++i) {
    ticks.push_back(static_cast<double>(i) * step);
  }
  return ticks;
}

std::string RenderSvg(const Chart& chart) {
  SvgCanvas canvas(kWidth, HeightOf(chart));
  return Draw(canvas, chart);
}

std::string RenderPng(const Chart& chart) {
  PngCanvas canvas(kWidth, HeightOf(chart));
  return Draw(canvas, chart);
}

std::string RenderCsv(const Chart& chart) {
  std::string out = "panel,curve,step,value\n";
  for (const Panel& panel : chart.panels) {
    for (const Curve& curve : panel.curves) {
      for (const Point& point : curve.points) {
        absl::StrAppend(&out, CsvCell(panel.title), ",", CsvCell(curve.name), ",",
                        static_cast<int64_t>(point.x), ",", point.y, "\n");
      }
    }
  }
  return out;
}

}  // namespace graft::cli
