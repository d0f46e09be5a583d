// Figures of the scheduler's benchmarks: a JSON line each, and a table at the end.
#pragma once

#include <time.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/json.h"

namespace graft::scheduler {

// Of this thread.
inline double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

struct Figure {
  std::string metric;
  double value;
  std::string unit;
  double peer;  // below 0: none
  double bar;   // below 0: none
  bool least;   // the bar is a least value
};

// JSON lines as they come, the table at the end.
class Report {
 public:
  explicit Report(std::string title) : title_(std::move(title)) {}
  ~Report() {
    std::fprintf(stderr, "%-46s %12s %-6s %10s %10s\n", title_.c_str(), "value", "unit",
                 "prototype", "bar");
    for (const Figure& figure : figures_) {
      std::fprintf(stderr, "%-46s %12.4g %-6s %10s %10s %s\n", figure.metric.c_str(), figure.value,
                   figure.unit.c_str(), Or(figure.peer).c_str(), Or(figure.bar).c_str(),
                   Ok(figure) ? "" : "MISSED");
    }
  }
  void Add(Figure figure) {
    Json line = Json::MakeObject();
    line.Set("bench", "scheduler").Set("metric", figure.metric).Set("value", figure.value);
    line.Set("unit", figure.unit);
    const bool peer = figure.peer >= 0;
    line.Set("peer", peer ? Json("placement prototype") : Json());
    line.Set("peer_value", peer ? Json(figure.peer) : Json());
    line.Set("ratio", peer ? Json(figure.value / figure.peer) : Json());
    line.Set("bar", figure.bar >= 0 ? Json(figure.bar) : Json()).Set("ok", Ok(figure));
    std::printf("%s\n", line.Dump().c_str());
    std::fflush(stdout);
    missed_ |= !Ok(figure);
    figures_.push_back(std::move(figure));
  }
  bool missed() const { return missed_; }

 private:
  static bool Ok(const Figure& figure) {
    if (figure.bar < 0) return true;
    return figure.least ? figure.value >= figure.bar : figure.value <= figure.bar;
  }
  static std::string Or(double value) { return value < 0 ? "-" : absl::StrFormat("%.4g", value); }

  const std::string title_;
  std::vector<Figure> figures_;
  bool missed_ = false;
};

}  // namespace graft::scheduler
