#include "worker/agent/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/digest.h"
#include "base/status_macros.h"

namespace graft::agent {
namespace {

constexpr absl::string_view kSuffix = ".spool";
// A record is: length, CRC32C of the payload, payload.
constexpr int64_t kHeader = 8;
constexpr int64_t kMaxRecord = 16 << 20;

}  // namespace

std::string Spool::PathOf(int64_t first) const {
  return JoinPath(folder_, absl::StrFormat("%016d%s", first, kSuffix));
}

absl::StatusOr<std::unique_ptr<Spool>> Spool::Open(const std::string& folder,
                                                   SpoolOptions options) {
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  std::unique_ptr<Spool> spool(new Spool(folder, options));
  MutexLock lock(spool->mu_);
  GRAFT_RETURN_IF_ERROR(spool->Load());
  return spool;
}

absl::Status Spool::Load() {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(folder_));
  for (const std::string& name : names) {
    int64_t first = 0;
    absl::string_view stem = name;
    if (!absl::ConsumeSuffix(&stem, kSuffix) || !absl::SimpleAtoi(stem, &first)) continue;
    GRAFT_RETURN_IF_ERROR(LoadSegment(name, first));
  }
  if (!segments_.empty()) acknowledged_ = segments_.front().first - 1;
  return absl::OkStatus();
}

absl::Status Spool::LoadSegment(const std::string& name, int64_t first) {
  const std::string path = JoinPath(folder_, name);
  Segment segment;
  segment.first = first;
  segment.fd.reset(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!segment.fd.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  GRAFT_ASSIGN_OR_RETURN(const std::string content, ReadFile(path));
  const int64_t size = static_cast<int64_t>(content.size());
  while (segment.bytes + kHeader <= size) {
    uint32_t header[2];
    std::memcpy(header, content.data() + segment.bytes, kHeader);
    const int64_t end = segment.bytes + kHeader + header[0];
    if (header[0] > kMaxRecord || end > size) break;
    const absl::string_view payload(content.data() + segment.bytes + kHeader, header[0]);
    if (Crc32c(0, payload) != header[1]) break;
    segment.offsets.push_back(segment.bytes);
    segment.bytes = end;
  }
  if (segment.bytes < size && ftruncate(segment.fd.get(), segment.bytes) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot cut ", path));
  }
  next_ = first + static_cast<int64_t>(segment.offsets.size());
  total_bytes_ += segment.bytes;
  segments_.push_back(std::move(segment));
  return absl::OkStatus();
}

absl::Status Spool::StartSegment() {
  const std::string path = PathOf(next_);
  Segment segment;
  segment.first = next_;
  segment.fd.reset(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!segment.fd.valid()) return ErrnoStatus(errno, absl::StrCat("cannot create ", path));
  segments_.push_back(std::move(segment));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Spool::Append(absl::string_view payload) {
  const int64_t size = kHeader + static_cast<int64_t>(payload.size());
  MutexLock lock(mu_);
  if (size > kMaxRecord || total_bytes_ + size > options_.max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the spool ", folder_, " is full (", options_.max_bytes, " bytes)"));
  }
  if (segments_.empty() || segments_.back().bytes >= options_.segment_bytes) {
    GRAFT_RETURN_IF_ERROR(StartSegment());
  }
  Segment& segment = segments_.back();
  const uint32_t header[2] = {static_cast<uint32_t>(payload.size()), Crc32c(0, payload)};
  std::string record(reinterpret_cast<const char*>(header), kHeader);
  record.append(payload.data(), payload.size());
  if (pwrite(segment.fd.get(), record.data(), record.size(), segment.bytes) !=
      static_cast<ssize_t>(record.size())) {
    // What was written of it is overwritten by the next record.
    return ErrnoStatus(errno, absl::StrCat("cannot write the spool ", folder_));
  }
  segment.offsets.push_back(segment.bytes);
  segment.bytes += size;
  total_bytes_ += size;
  grown_.SignalAll();
  return next_++;
}

absl::StatusOr<std::string> Spool::ReadRecord(const Segment& segment, size_t index) const {
  const int64_t begin = segment.offsets[index] + kHeader;
  const int64_t end =
      index + 1 < segment.offsets.size() ? segment.offsets[index + 1] : segment.bytes;
  std::string payload(static_cast<size_t>(end - begin), '\0');
  if (pread(segment.fd.get(), payload.data(), payload.size(), begin) !=
      static_cast<ssize_t>(payload.size())) {
    return ErrnoStatus(errno, absl::StrCat("cannot read the spool ", folder_));
  }
  return payload;
}

absl::StatusOr<std::vector<SpoolRecord>> Spool::ReadAfter(int64_t sequence, int64_t max_bytes) {
  std::vector<SpoolRecord> records;
  int64_t bytes = 0;
  MutexLock lock(mu_);
  for (const Segment& segment : segments_) {
    const int64_t count = static_cast<int64_t>(segment.offsets.size());
    for (int64_t i = std::max<int64_t>(0, sequence + 1 - segment.first); i < count; ++i) {
      if (!records.empty() && bytes >= max_bytes) return records;
      GRAFT_ASSIGN_OR_RETURN(std::string payload, ReadRecord(segment, static_cast<size_t>(i)));
      bytes += static_cast<int64_t>(payload.size());
      records.push_back({segment.first + i, std::move(payload)});
    }
  }
  return records;
}

absl::Status Spool::Acknowledge(int64_t sequence) {
  MutexLock lock(mu_);
  acknowledged_ = std::max(acknowledged_, std::min(sequence, next_ - 1));
  // The last segment stays: its number is what the next record's is counted from after a restart.
  while (segments_.size() > 1 && segments_[1].first - 1 <= acknowledged_) {
    total_bytes_ -= segments_.front().bytes;
    const std::string path = PathOf(segments_.front().first);
    segments_.pop_front();
    if (unlink(path.c_str()) != 0) return ErrnoStatus(errno, absl::StrCat("cannot remove ", path));
  }
  return absl::OkStatus();
}

bool Spool::WaitForMore(int64_t sequence, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  MutexLock lock(mu_);
  while (next_ - 1 <= sequence) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    grown_.WaitFor(mu_, left);
  }
  return true;
}

int64_t Spool::last_sequence() {
  MutexLock lock(mu_);
  return next_ - 1;
}

int64_t Spool::acknowledged() {
  MutexLock lock(mu_);
  return acknowledged_;
}

}  // namespace graft::agent
