#include "scheduler/store/mem_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace graft::scheduler {

MemStore::MemStore(MemDisk& disk) : disk_(disk) {
  MutexLock lock(mu_);
  Load();
}

absl::Status MemStore::Recover() {
  MutexLock lock(mu_);
  failed_ = false;
  revision_ = 0;
  for (auto& family : families_) family.clear();
  changes_.clear();
  Load();
  return absl::OkStatus();
}

void MemStore::Load() {
  for (size_t i = 0; i < disk_.log.size(); ++i) {
    const absl::StatusOr<Transaction> transaction = DecodeTransaction(disk_.log[i]);
    if (!transaction.ok()) {
      disk_.log.resize(i);
      break;
    }
    Apply(*transaction);
  }
  ForgetCompacted();
}

void MemStore::ForgetCompacted() {
  const auto kept = std::find_if(changes_.begin(), changes_.end(), [&](const Change& change) {
    return change.revision > disk_.compacted;
  });
  changes_.erase(changes_.begin(), kept);
  auto& events = families_[static_cast<int>(Family::kEvents)];
  events.erase(events.begin(),
               events.lower_bound(BigEndian(static_cast<uint64_t>(disk_.compacted) + 1)));
}

void MemStore::Apply(const Transaction& transaction) {
  ++revision_;
  for (const Write& write : transaction.writes) {
    auto& family = families_[static_cast<int>(write.family)];
    const bool records = write.family == Family::kRecords;
    if (write.value.has_value()) {
      family[write.key] = {write.key, *write.value, records ? revision_ : 0};
    } else {
      family.erase(write.key);
    }
    if (records) changes_.push_back({revision_, write.key, !write.value.has_value()});
  }
}

absl::StatusOr<int64_t> MemStore::Commit(const Transaction& transaction) {
  MutexLock lock(mu_);
  if (failed_) return absl::UnavailableError("the store has failed; open it again");
  for (const Compare& compare : transaction.compares) {
    const auto& records = families_[static_cast<int>(Family::kRecords)];
    const auto it = records.find(compare.key);
    const int64_t is = it == records.end() ? 0 : it->second.revision;
    if (is != compare.revision) {
      return absl::AbortedError(
          absl::StrCat(compare.key, " is at revision ", is, ", not ", compare.revision));
    }
  }
  std::string encoded = EncodeTransaction(transaction);
  const MemDisk::Fault fault = std::exchange(disk_.next_fault, MemDisk::Fault::kNone);
  failed_ = fault != MemDisk::Fault::kNone && fault != MemDisk::Fault::kLie;
  switch (fault) {
    case MemDisk::Fault::kRefuse:
      return absl::ResourceExhaustedError("the disk is full");
    case MemDisk::Fault::kTear:
      disk_.log.push_back(encoded.substr(0, encoded.size() / 2));
      return absl::UnavailableError("the disk failed in the middle of a write");
    case MemDisk::Fault::kForget:
      disk_.log.push_back(std::move(encoded));
      return absl::UnavailableError("the disk failed after a write");
    case MemDisk::Fault::kLie:
      break;
    case MemDisk::Fault::kNone:
      disk_.log.push_back(std::move(encoded));
  }
  Apply(transaction);
  return revision_;
}

int64_t MemStore::revision() const {
  MutexLock lock(mu_);
  return revision_;
}

absl::StatusOr<Record> MemStore::Get(Family family, absl::string_view key) const {
  MutexLock lock(mu_);
  const auto& records = families_[static_cast<int>(family)];
  const auto it = records.find(std::string(key));
  if (it == records.end()) return absl::NotFoundError(absl::StrCat("there is no ", key));
  return it->second;
}

absl::StatusOr<ListResult> MemStore::List(const ListRequest& request) const {
  MutexLock lock(mu_);
  ListResult result{.revision = revision_};
  const auto& records = families_[static_cast<int>(request.family)];
  auto it = request.after < request.prefix ? records.lower_bound(request.prefix)
                                           : records.upper_bound(request.after);
  for (; it != records.end() && absl::StartsWith(it->first, request.prefix); ++it) {
    if (static_cast<int>(result.records.size()) == request.limit) {
      result.more = true;
      break;
    }
    result.records.push_back(it->second);
  }
  return result;
}

absl::StatusOr<std::vector<Change>> MemStore::Changes(int64_t revision, int limit) const {
  MutexLock lock(mu_);
  if (revision < disk_.compacted) {
    return absl::OutOfRangeError(absl::StrCat("the changes after revision ", revision,
                                              " are compacted up to ", disk_.compacted,
                                              "; list anew and watch from there"));
  }
  std::vector<Change> changes;
  auto it = std::upper_bound(
      changes_.begin(), changes_.end(), revision,
      [](int64_t wanted, const Change& change) { return wanted < change.revision; });
  for (; it != changes_.end(); ++it) {
    const bool full = static_cast<int>(changes.size()) >= limit;
    if (full && changes.back().revision != it->revision) break;
    changes.push_back(*it);
  }
  return changes;
}

absl::Status MemStore::Compact(int64_t revision) {
  MutexLock lock(mu_);
  disk_.compacted = std::max(disk_.compacted, std::min(revision, revision_));
  ForgetCompacted();
  return absl::OkStatus();
}

int64_t MemStore::compacted() const {
  MutexLock lock(mu_);
  return disk_.compacted;
}

absl::Status MemStore::Append(Series series, const std::vector<Entry>& entries) {
  MutexLock lock(mu_);
  for (const Entry& entry : entries) series_[static_cast<int>(series)][entry.first] = entry.second;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Entry>> MemStore::Scan(Series series, absl::string_view from,
                                                  absl::string_view to, int limit) const {
  MutexLock lock(mu_);
  std::vector<Entry> entries;
  const auto& all = series_[static_cast<int>(series)];
  for (auto it = all.lower_bound(std::string(from)); it != all.end() && it->first < to; ++it) {
    if (static_cast<int>(entries.size()) == limit) break;
    entries.push_back(*it);
  }
  return entries;
}

absl::Status MemStore::Erase(Series series, absl::string_view from, absl::string_view to) {
  MutexLock lock(mu_);
  auto& all = series_[static_cast<int>(series)];
  all.erase(all.lower_bound(std::string(from)), all.lower_bound(std::string(to)));
  return absl::OkStatus();
}

}  // namespace graft::scheduler
