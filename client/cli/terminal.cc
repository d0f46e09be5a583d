#include "client/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace graft::cli {
namespace {

constexpr const char* kEscapes[] = {"",         "\x1b[1m",  "\x1b[2m",  "\x1b[31m",
                                    "\x1b[32m", "\x1b[33m", "\x1b[34m", "\x1b[36m"};
constexpr int kMinWidth = 20;

struct CodePoint {
  uint32_t value;
  size_t bytes;
};

CodePoint Decode(absl::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  size_t length = lead < 0x80       ? 1
                  : lead >> 5 == 6  ? 2
                  : lead >> 4 == 14 ? 3
                  : lead >> 3 == 30 ? 4
                                    : 0;
  if (length == 0 || text.size() < length) return {0xfffd, 1};
  uint32_t value = length == 1 ? lead : lead & (0x7f >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {0xfffd, 1};
    value = value << 6 | (byte(i) & 0x3f);
  }
  return {value, length};
}

// The East Asian wide blocks and emoji; combining marks take no column.
int WidthOf(uint32_t c) {
  if (c < 0x20 || c == 0x7f) return 0;
  if ((c >= 0x300 && c <= 0x36f) || (c >= 0x200b && c <= 0x200f) || (c >= 0xfe00 && c <= 0xfe0f)) {
    return 0;
  }
  const bool wide = (c >= 0x1100 && c <= 0x115f) || (c >= 0x2e80 && c <= 0xa4cf) ||
                    (c >= 0xac00 && c <= 0xd7a3) || (c >= 0xf900 && c <= 0xfaff) ||
                    (c >= 0xfe30 && c <= 0xfe6f) || (c >= 0xff00 && c <= 0xff60) ||
                    (c >= 0xffe0 && c <= 0xffe6) || (c >= 0x1f300 && c <= 0x1faff) ||
                    (c >= 0x20000 && c <= 0x3fffd);
  return wide ? 2 : 1;
}

// The length of the escape sequence at the start of `text`, or 0.
size_t EscapeLength(absl::string_view text) {
  if (text.size() < 2 || text[0] != '\x1b' || text[1] != '[') return 0;
  size_t i = 2;
  while (i < text.size() && (text[i] < '@' || text[i] > '~')) ++i;
  return std::min(i + 1, text.size());
}

std::string Pad(absl::string_view text, int width, bool right) {
  const int missing = std::max(0, width - DisplayWidth(text));
  const std::string space(static_cast<size_t>(missing), ' ');
  return right ? absl::StrCat(space, text) : absl::StrCat(text, space);
}

std::string TrimRight(std::string text) {
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

std::string Utf8(uint32_t c) {
  return {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3f)),
          static_cast<char>(0x80 | (c & 0x3f))};
}

}  // namespace

Terminal Terminal::Of(int fd) {
  Terminal terminal;
  terminal.is_terminal = isatty(fd) == 1;
  const char* term = std::getenv("TERM");
  const char* no_colour = std::getenv("NO_COLOR");
  terminal.colour = terminal.is_terminal && (no_colour == nullptr || *no_colour == '\0') &&
                    (term == nullptr || absl::string_view(term) != "dumb");
  winsize size = {};
  if (terminal.is_terminal && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    terminal.width = std::max<int>(kMinWidth, size.ws_col);
  }
  return terminal;
}

std::string Terminal::Paint(Style style, absl::string_view text) const {
  if (!colour || style == Style::kPlain) return std::string(text);
  return absl::StrCat(kEscapes[static_cast<int>(style)], text, "\x1b[0m");
}

int DisplayWidth(absl::string_view text) {
  int width = 0;
  while (!text.empty()) {
    if (const size_t escape = EscapeLength(text); escape > 0) {
      text.remove_prefix(escape);
      continue;
    }
    const CodePoint c = Decode(text);
    width += WidthOf(c.value);
    text.remove_prefix(c.bytes);
  }
  return width;
}

std::string CutToWidth(absl::string_view text, int width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  std::string out;
  int used = 0;
  while (!text.empty()) {
    const CodePoint c = Decode(text);
    if (used + WidthOf(c.value) > width - 1) break;
    used += WidthOf(c.value);
    out.append(text.data(), c.bytes);
    text.remove_prefix(c.bytes);
  }
  return out + "…";
}

std::vector<std::string> WrapToWidth(absl::string_view text, int width, int most) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    if (static_cast<int>(lines.size()) == most - 1 || DisplayWidth(text) <= width) {
      lines.push_back(CutToWidth(text, width));
      break;
    }
    size_t fits = 0;  // bytes
    for (int used = 0; fits < text.size();) {
      absl::string_view rest = text.substr(fits);
      const CodePoint c = Decode(rest);
      used += WidthOf(c.value);
      if (used > width && fits > 0) break;
      fits += c.bytes;
    }
    // A space at the very end of what fits is where it is cut.
    const size_t space = text.substr(0, fits + 1).rfind(' ');
    const size_t end = space == absl::string_view::npos || space == 0 ? fits : space;
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
    text = absl::StripLeadingAsciiWhitespace(text);
  }
  return lines;
}

std::string Sanitize(absl::string_view text, bool keep_newlines) {
  std::string out;
  while (!text.empty()) {
    const CodePoint c = Decode(text);
    const bool control = c.value < 0x20 || (c.value >= 0x7f && c.value < 0xa0);
    // Bidirectional overrides make a name look like another one.
    const bool bidi =
        (c.value >= 0x202a && c.value <= 0x202e) || (c.value >= 0x2066 && c.value <= 0x2069);
    if (c.value == '\n' && keep_newlines) {
      out.push_back('\n');
    } else if (c.value == '\t') {
      out.append("    ");
    } else if (control || bidi) {
      out.push_back('?');
    } else if (c.value == 0xfffd && c.bytes == 1) {
      out.append("\xef\xbf\xbd");
    } else {
      out.append(text.data(), c.bytes);
    }
    text.remove_prefix(c.bytes);
  }
  return out;
}

std::string Table::Render(const Terminal& terminal) const {
  std::vector<int> widths;
  for (size_t column = 0; column < header_.size(); ++column) {
    int width = DisplayWidth(header_[column]);
    for (const auto& row : rows_) {
      if (column < row.size()) width = std::max(width, DisplayWidth(row[column]));
    }
    widths.push_back(width);
  }
  const auto line = [&](const std::vector<std::string>& cells, Style style) {
    std::string out;
    for (size_t column = 0; column < header_.size(); ++column) {
      const bool right =
          std::find(right_aligned_.begin(), right_aligned_.end(), column) != right_aligned_.end();
      const std::string cell = column < cells.size() ? cells[column] : "";
      if (column > 0) out.append("  ");
      out.append(Pad(cell, widths[column], right));
    }
    return terminal.Paint(style, TrimRight(std::move(out))) + "\n";
  };
  std::string out = line(header_, Style::kBold);
  for (const auto& row : rows_) out.append(line(row, Style::kPlain));
  return out;
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(value) >= 1000 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string FormatCount(int64_t count) {
  const double value = static_cast<double>(count);
  if (count >= 1'000'000'000) return absl::StrFormat("%.1fB", value / 1e9);
  if (count >= 1'000'000) return absl::StrFormat("%.1fM", value / 1e6);
  if (count >= 10'000) return absl::StrFormat("%.1fk", value / 1e3);
  return absl::StrCat(count);
}

std::string HumanDuration(absl::Duration duration) {
  const int64_t seconds = absl::ToInt64Seconds(duration);
  if (duration < absl::Seconds(10))
    return absl::StrFormat("%.1fs", absl::ToDoubleSeconds(duration));
  if (seconds < 60) return absl::StrCat(seconds, "s");
  if (seconds < 3600) return absl::StrFormat("%dm %02ds", seconds / 60, seconds % 60);
  return absl::StrFormat("%dh %02dm", seconds / 3600, seconds / 60 % 60);
}

std::string HumanAge(absl::Duration age) {
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(age));
  if (seconds < 120) return absl::StrCat(seconds, "s");
  if (seconds < 2 * 3600) return absl::StrCat(seconds / 60, "m");
  if (seconds < 48 * 3600) return absl::StrCat(seconds / 3600, "h");
  return absl::StrCat(seconds / 86400, "d");
}

std::string FormatNumber(double value) { return absl::StrFormat("%.4g", value); }

std::string RenderProgress(const Terminal& terminal, const Progress& progress) {
  constexpr int kBar = 24;
  const bool known = progress.total > 0;
  const double share = known ? std::clamp(progress.done / progress.total, 0.0, 1.0) : 0;
  const int full = static_cast<int>(std::floor(share * kBar + 1e-9));
  std::string bar;
  for (int i = 0; i < kBar; ++i) bar.append(i < full ? "█" : "░");
  std::string line = absl::StrCat(terminal.Paint(Style::kBold, progress.label), "  ");
  if (known) {
    absl::StrAppend(&line, terminal.Paint(Style::kCyan, bar),
                    absl::StrFormat("  %3d %%", static_cast<int>(share * 100 + 1e-9)));
  }
  if (!progress.detail.empty()) absl::StrAppend(&line, "  ", progress.detail);
  return line;
}

std::string RenderCurve(const Terminal& terminal, const std::vector<Point>& points, int rows) {
  std::vector<Point> kept;
  for (const Point& point : points) {
    if (std::isfinite(point.x) && std::isfinite(point.y)) kept.push_back(point);
  }
  if (kept.size() < 2) return "";
  double low = kept[0].y, high = kept[0].y, left = kept[0].x, right = kept[0].x;
  for (const Point& point : kept) {
    low = std::min(low, point.y);
    high = std::max(high, point.y);
    left = std::min(left, point.x);
    right = std::max(right, point.x);
  }
  if (high - low < 1e-12) high = low + 1;
  if (right - left < 1e-12) right = left + 1;
  constexpr int kLabel = 9;
  const int columns = std::clamp(terminal.width - kLabel - 2, 10, 72);
  // Braille cells hold 2 x 4 dots, in this order of bits.
  constexpr uint8_t kDot[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
  std::vector<std::vector<uint8_t>> cells(static_cast<size_t>(rows),
                                          std::vector<uint8_t>(static_cast<size_t>(columns), 0));
  const auto dot = [&](double x, double y) {
    const int px = static_cast<int>(std::lround((x - left) / (right - left) * (columns * 2 - 1)));
    const int py = static_cast<int>(std::lround((high - y) / (high - low) * (rows * 4 - 1)));
    cells[static_cast<size_t>(py / 4)][static_cast<size_t>(px / 2)] |= kDot[py % 4][px % 2];
  };
  for (size_t i = 1; i < kept.size(); ++i) {
    // Enough dots that the line between two points has no gaps.
    const int steps = columns * 2;
    for (int s = 0; s <= steps; ++s) {
      const double t = static_cast<double>(s) / steps;
      dot(kept[i - 1].x + t * (kept[i].x - kept[i - 1].x),
          kept[i - 1].y + t * (kept[i].y - kept[i - 1].y));
      if (kept[i].x - kept[i - 1].x < (right - left) / steps && s > rows * 4) break;
    }
  }
  std::string out;
  for (int row = 0; row < rows; ++row) {
    std::string label;
    if (row == 0) label = FormatNumber(high);
    if (row == rows - 1) label = FormatNumber(low);
    std::string line;
    for (const uint8_t bits : cells[static_cast<size_t>(row)]) {
      line.append(bits == 0 ? std::string(" ") : Utf8(0x2800u + bits));
    }
    absl::StrAppend(&out, terminal.Paint(Style::kDim, Pad(label, kLabel - 1, true)), " │",
                    terminal.Paint(Style::kGreen, TrimRight(line)), "\n");
  }
  const std::string from = FormatNumber(left);
  const std::string to = FormatNumber(right);
  absl::StrAppend(&out, std::string(kLabel, ' '), "└");
  for (int i = 0; i < columns; ++i) out.append("─");
  absl::StrAppend(
      &out, "\n", std::string(kLabel + 1, ' '),
      terminal.Paint(
          Style::kDim,
          absl::StrCat(from,
                       std::string(static_cast<size_t>(std::max<int>(
                                       1, columns - static_cast<int>(from.size() + to.size()))),
                                   ' '),
                       to)),
      "\n");
  return out;
}

}  // namespace graft::cli
