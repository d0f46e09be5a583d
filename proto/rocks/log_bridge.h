// RocksDB's own messages in our log. Not into a file beside the store, as is its default: that
// writer ends the process when the disk is full, in builds of RocksDB with assertions (Debian's).
#pragma once

#include <cstdarg>
#include <cstdio>
#include <string>

#include "base/log.h"
#include "rocksdb/env.h"

namespace graft::rocks {

class LogBridge final : public rocksdb::Logger {
 public:
  LogBridge() : rocksdb::Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {}
  void Logv(const char* format, va_list arguments) override {
    Logv(rocksdb::InfoLogLevel::HEADER_LEVEL, format, arguments);
  }
  void Logv(const rocksdb::InfoLogLevel level, const char* format, va_list arguments) override {
    if (level < GetInfoLogLevel() || level == rocksdb::InfoLogLevel::HEADER_LEVEL) return;
    char text[1024];
    std::vsnprintf(text, sizeof text, format, arguments);
    LOG_WARNING("rocksdb", {{"message", std::string(text)}});
  }
};

}  // namespace graft::rocks
