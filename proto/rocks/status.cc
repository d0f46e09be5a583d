#include "rocks/status.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "rocksdb/status.h"

namespace graft::rocks {
namespace {

absl::StatusCode CodeOf(const rocksdb::Status& status) {
  if (status.IsNoSpace()) return absl::StatusCode::kResourceExhausted;
  if (status.IsNotFound() || status.IsPathNotFound()) return absl::StatusCode::kNotFound;
  if (status.IsCorruption()) return absl::StatusCode::kDataLoss;
  if (status.IsNotSupported()) return absl::StatusCode::kUnimplemented;
  if (status.IsInvalidArgument()) return absl::StatusCode::kInvalidArgument;
  if (status.IsShutdownInProgress()) return absl::StatusCode::kUnavailable;
  if (status.IsTimedOut() || status.IsExpired()) return absl::StatusCode::kDeadlineExceeded;
  if (status.IsBusy() || status.IsTryAgain() || status.IsAborted() || status.IsIncomplete()) {
    return absl::StatusCode::kAborted;
  }
  return absl::StatusCode::kInternal;
}

}  // namespace

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = status.ToString();
  const bool locked = status.IsIOError() && (absl::StrContains(text, "lock hold by current") ||
                                             absl::StrContains(text, "While lock file"));
  return absl::Status(locked ? absl::StatusCode::kUnavailable : CodeOf(status),
                      absl::StrCat(what, ": ", text));
}

}  // namespace graft::rocks
