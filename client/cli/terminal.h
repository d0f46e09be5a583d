// What the CLI draws with: colour, width, tables, progress lines and a curve.
//
// Data goes to standard output, words and progress to standard error. Colour and redrawing happen
// on a terminal alone; NO_COLOR and TERM=dumb are obeyed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace graft::cli {

enum class Style { kPlain, kBold, kDim, kRed, kGreen, kYellow, kBlue, kCyan };

// How a stream may be drawn upon.
struct Terminal {
  bool is_terminal = false;
  bool colour = false;
  int width = 80;

  static Terminal Of(int fd);
  // `text` in a style, or as it is without colour.
  std::string Paint(Style style, absl::string_view text) const;
};

// Columns that text takes on a terminal: escape sequences take none, wide characters two.
int DisplayWidth(absl::string_view text);
// `text` cut to at most `width` columns, ending in "…" where something was cut.
std::string CutToWidth(absl::string_view text, int width);
// `text` in lines of at most `width` columns, cut between words where there are any; the last of
// `most` lines ends in "…" where something is left over. None for an empty text.
std::vector<std::string> WrapToWidth(absl::string_view text, int width, int most);
// What came from elsewhere, safe to print: control characters become "?" (no escape of a file name
// or a model's answer reaches the terminal); new lines stay where `keep_newlines`.
std::string Sanitize(absl::string_view text, bool keep_newlines = false);

// Rows in columns as wide as their widest cell; the header in bold. Numbers (columns named in
// `right_aligned`) stand to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  void AlignRight(size_t column) { right_aligned_.push_back(column); }
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.empty(); }
  std::string Render(const Terminal& terminal) const;

 private:
  std::vector<std::string> header_;
  std::vector<size_t> right_aligned_;
  std::vector<std::vector<std::string>> rows_;
};

std::string FormatBytes(int64_t bytes);     // "93.4 MB"
std::string FormatCount(int64_t count);     // "134.5M"
std::string HumanDuration(absl::Duration);  // "1m 05s"
std::string HumanAge(absl::Duration);       // "3m", "2h", "5d"
std::string FormatNumber(double value);     // four significant digits

// One line: "uploading  ███████░░░  61 %  57.1 MB of 93.4 MB  21 MB/s  2s left".
struct Progress {
  std::string label;
  double done = 0;
  double total = 0;    // 0: unknown
  std::string detail;  // printed behind the bar
};
std::string RenderProgress(const Terminal& terminal, const Progress& progress);

// A curve of (x, y) points in braille dots with its axis labels, `rows` lines high.
struct Point {
  double x = 0;
  double y = 0;
};
std::string RenderCurve(const Terminal& terminal, const std::vector<Point>& points, int rows);

}  // namespace graft::cli
