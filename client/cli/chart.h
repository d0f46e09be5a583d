// Curves as a picture for people who were not there: panels below one another, each with its axes
// and a legend, as SVG or PNG, or their numbers as CSV.
//
//   const Chart chart{.title = "tickets-v1", .panels = {{"loss", {{"tickets-v1 train_loss",
//   points}}}}}; WriteFile("loss.svg", RenderSvg(chart));
//
// The same chart gives the same bytes, so that pictures can be compared.
#pragma once

#include <string>
#include <vector>

#include "client/cli/terminal.h"

namespace graft::cli {

struct Curve {
  std::string name;
  std::vector<Point> points;  // by x; what is not finite is left out
};

struct Panel {
  std::string title;
  std::vector<Curve> curves;
};

struct Chart {
  std::string title;
  std::vector<Panel> panels;
};

std::string RenderSvg(const Chart& chart);
std::string RenderPng(const Chart& chart);
// "panel,curve,step,value", a line a point.
std::string RenderCsv(const Chart& chart);

// Round numbers between `low` and `high`, about `wanted` of them.
std::vector<double> Ticks(double low, double high, int wanted);

}  // namespace graft::cli
