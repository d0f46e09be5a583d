#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/json.h"

namespace graft {
namespace {

std::atomic<LogLevel> min_level{LogLevel::kInfo};
std::atomic<bool> as_json{isatty(STDERR_FILENO) == 0};
// Written once by ConfigureLog before other threads start.
std::string* program_name = new std::string;

constexpr absl::string_view kLevelNames[] = {"debug", "info", "warning", "error"};
constexpr absl::string_view kLevelLetters[] = {"D", "I", "W", "E"};

// What a terminal would act upon does not reach it: control characters print as escapes.
std::string Printable(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      absl::StrAppend(&out, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    } else {
      out.push_back(c);
    }
  }
  return out;
}

void WriteAll(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;  // Nobody is left to tell.
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

void ConfigureLog(LogLevel level, LogFormat format, absl::string_view program) {
  min_level = level;
  if (format != LogFormat::kAuto) as_json = format == LogFormat::kJson;
  *program_name = std::string(program);
}

bool LogEnabled(LogLevel level) { return level >= min_level.load(std::memory_order_relaxed); }

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  const absl::Time now = absl::Now();
  const int index = static_cast<int>(level);
  std::string line;
  if (as_json.load(std::memory_order_relaxed)) {
    line = absl::StrCat(
        "{\"time\":\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", now, absl::UTCTimeZone()),
        "\",\"level\":\"", kLevelNames[index], "\",\"program\":", JsonQuote(*program_name),
        ",\"message\":", JsonQuote(message));
    for (const LogField& field : fields) {
      absl::StrAppend(&line, ",", JsonQuote(field.key), ":", JsonQuote(field.value));
    }
    line.append("}\n");
  } else {
    line = absl::StrCat(kLevelLetters[index], " ",
                        absl::FormatTime("%H:%M:%E3S", now, absl::LocalTimeZone()), " ",
                        Printable(message));
    for (const LogField& field : fields) {
      absl::StrAppend(&line, "  ", field.key, "=", Printable(field.value));
    }
    line.push_back('\n');
  }
  WriteAll(line);
}

}  // namespace graft
