#include "scheduler/service/upkeep.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

constexpr int kAtATime = 1000;
// "mark/{seconds}" -> the revision at that time: how revisions are told by their age.
constexpr absl::string_view kMarkPrefix = "mark/";
// "job.deleted/{seconds}/{w}/{j}": jobs that were deleted then.
constexpr absl::string_view kDeletedPrefix = "job.deleted/";

std::string AtSeconds(absl::string_view prefix, absl::Time time) {
  return absl::StrCat(prefix, absl::StrFormat("%012d", absl::ToUnixSeconds(time)));
}

void Report(absl::string_view what, const absl::Status& status) {
  if (status.ok()) return;
  LOG_WARNING("upkeep failed; it is tried again", {{"what", what}, {"why", status.message()}});
}

}  // namespace

void Upkeep::Start() {
  PlanSweep();
  PlanBookmarks();
}

void Upkeep::PlanSweep() {
  context_.background.PostAt(context_.clock.Now() + options_.every, [this] {
    Sweep();
    PlanSweep();
  });
}

void Upkeep::PlanBookmarks() {
  context_.background.PostAt(context_.clock.Now() + options_.bookmark_every, [this] {
    context_.watchers.OnCommitted();
    if (options_.also_often) options_.also_often();
    PlanBookmarks();
  });
}

void Upkeep::Sweep() {
  CompactChanges();
  ForgetRequests();
  PurgeDeleted();
  if (options_.also) options_.also();
}

void Upkeep::CompactChanges() {
  const absl::Time now = context_.clock.Now();
  const auto marks = context_.store.List({.prefix = std::string(kMarkPrefix), .limit = kAtATime});
  if (!marks.ok()) return Report("compaction", marks.status());
  int64_t horizon = context_.store.revision() - options_.max_changes;
  std::vector<std::string> passed;
  const std::string oldest = AtSeconds(kMarkPrefix, now - kWatchHorizon);
  for (const Record& mark : marks->records) {
    int64_t revision = 0;
    if (mark.key > oldest || !absl::SimpleAtoi(mark.value, &revision)) break;
    horizon = std::max(horizon, revision);
    passed.push_back(mark.key);
  }
  if (horizon > 0) Report("compaction", context_.store.Compact(horizon));
  context_.control.Submit({.work = [passed, revision = context_.store.revision()](Turn& turn) {
    for (const std::string& key : passed) turn.Remove(Family::kRecords, key);
    turn.Put(Family::kRecords, AtSeconds(kMarkPrefix, turn.now()), absl::StrCat(revision));
    return absl::OkStatus();
  }});
}

void Upkeep::ForgetRequests() {
  const absl::Time now = context_.clock.Now();
  ListRequest list{.family = Family::kIdempotency, .limit = kAtATime};
  for (bool more = true; more;) {
    const auto page = context_.store.List(list);
    if (!page.ok()) return Report("request ids", page.status());
    std::vector<std::string> forgotten;
    for (const Record& record : page->records) {
      list.after = record.key;
      if (IsForgotten(record.value, now)) forgotten.push_back(record.key);
    }
    more = page->more;
    if (forgotten.empty()) continue;
    context_.control.Submit({.work = [forgotten](Turn& turn) {
      for (const std::string& key : forgotten) turn.Remove(Family::kIdempotency, key);
      return absl::OkStatus();
    }});
  }
}

void Upkeep::PurgeDeleted() {
  const std::string oldest = AtSeconds(kDeletedPrefix, context_.clock.Now() - kDeletedKept);
  const auto page = context_.store.List({.prefix = std::string(kDeletedPrefix), .limit = kAtATime});
  if (!page.ok()) return Report("deleted jobs", page.status());
  std::vector<std::string> gone;
  for (const Record& record : page->records) {
    if (record.key > oldest) break;
    gone.push_back(record.key);
  }
  if (gone.empty()) return;
  context_.control.Submit({.work = [gone](Turn& turn) {
    for (const std::string& key : gone) turn.Remove(Family::kRecords, key);
    return absl::OkStatus();
  }});
}

}  // namespace graft::scheduler
