// Structured log lines on standard error: text for a person where that is a terminal, JSON lines
// otherwise.
//
//   LOG_INFO("job started", {{"job", name}, {"attempt", attempt}});
//
// Thread-safe. A line is one write(2).
#pragma once

#include <initializer_list>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace graft {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };

// One `key: value` of a line.
struct LogField {
  template <typename T>
  LogField(absl::string_view key, const T& value) : key(key), value(absl::StrCat(value)) {}
  absl::string_view key;
  std::string value;
};

enum class LogFormat { kAuto, kText, kJson };

// Lines below `level` are dropped. Called once by main; the default is kInfo and kAuto.
void ConfigureLog(LogLevel level, LogFormat format, absl::string_view program);
bool LogEnabled(LogLevel level);
void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

}  // namespace graft

#define GRAFT_LOG(level, ...)                                         \
  do {                                                                \
    if (::graft::LogEnabled(level)) ::graft::Log(level, __VA_ARGS__); \
  } while (false)
#define LOG_DEBUG(...) GRAFT_LOG(::graft::LogLevel::kDebug, __VA_ARGS__)
#define LOG_INFO(...) GRAFT_LOG(::graft::LogLevel::kInfo, __VA_ARGS__)
#define LOG_WARNING(...) GRAFT_LOG(::graft::LogLevel::kWarning, __VA_ARGS__)
#define LOG_ERROR(...) GRAFT_LOG(::graft::LogLevel::kError, __VA_ARGS__)
