#include "scheduler/service/usage_ledger.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/json.h"
#include "graft/v1/node.pb.h"
#include "scheduler/core/job.h"
#include "scheduler/service/enum_names.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
constexpr absl::string_view kUsagePrefix = "usage/";
constexpr int kPage = 5000;

std::string EndKey(absl::Time end) {
  return absl::StrCat(kUsagePrefix,
                      absl::StrFormat("%016x", static_cast<uint64_t>(absl::ToUnixMicros(end))));
}

std::string NodeKey(const std::string& node) { return absl::StrCat("node/", node.substr(6)); }

// When the job last came into `state` before `until`; `until` itself where it never did.
absl::Time LastEntered(const v1::Job& body, v1::JobState state, absl::Time until) {
  absl::Time when = until;
  for (const v1::StateChange& change : body.status().history()) {
    const absl::Time at = FromTimestamp(change.time());
    if (change.state() == state && at <= until) when = at;
  }
  return when;
}

UsageEntry EntryOf(const v1::Job& body, absl::Time begin, absl::Time end) {
  UsageEntry entry{.workspace = body.name().substr(11, body.name().find('/', 11) - 11),
                   .user = body.creator(),
                   .queue = body.resolved_spec().resources().queue(),
                   .project = body.project(),
                   .job = body.name(),
                   .begin = begin,
                   .end = end};
  const absl::Time queued = LastEntered(body, v1::JOB_STATE_QUEUED, begin);
  entry.queued_seconds = absl::ToDoubleSeconds(begin - queued);
  const absl::Time preempted = LastEntered(body, v1::JOB_STATE_PREEMPTING, end);
  if (preempted > begin && preempted < end) {
    entry.preempted_seconds = absl::ToDoubleSeconds(end - preempted);
  }
  return entry;
}

// Of the stored form, both ways.
constexpr std::pair<const char*, std::string UsageEntry::*> kTexts[] = {
    {"workspace", &UsageEntry::workspace},
    {"user", &UsageEntry::user},
    {"queue", &UsageEntry::queue},
    {"project", &UsageEntry::project},
    {"job", &UsageEntry::job},
    {"product", &UsageEntry::product}};
constexpr std::pair<const char*, double UsageEntry::*> kSeconds[] = {
    {"queued_s", &UsageEntry::queued_seconds},
    {"lost_s", &UsageEntry::lost_seconds},
    {"preempted_s", &UsageEntry::preempted_seconds}};
constexpr std::pair<const char*, absl::Time UsageEntry::*> kTimes[] = {
    {"begin_us", &UsageEntry::begin}, {"end_us", &UsageEntry::end}};

Json ToJson(const UsageEntry& entry) {
  Json json = Json::MakeObject();
  json.Set("v", 1).Set("devices", entry.devices).Set("tokens", entry.tokens);
  for (const auto& [key, field] : kTexts) json.Set(key, entry.*field);
  for (const auto& [key, field] : kSeconds) json.Set(key, entry.*field);
  for (const auto& [key, field] : kTimes) json.Set(key, absl::ToUnixMicros(entry.*field));
  return json;
}

UsageEntry FromJson(const Json& json) {
  UsageEntry entry{.devices = static_cast<int>(json.GetInt("devices")),
                   .tokens = json.GetInt("tokens")};
  for (const auto& [key, field] : kTexts) entry.*field = json.GetString(key);
  for (const auto& [key, field] : kSeconds) entry.*field = json.GetDouble(key);
  for (const auto& [key, field] : kTimes) entry.*field = absl::FromUnixMicros(json.GetInt(key));
  return entry;
}

}  // namespace

std::string ProductOf(const absl::StatusOr<Record>& node_record, int device) {
  v1::Node node;
  if (!node_record.ok() || !DecodeResource("node", node_record->value, node).ok()) return "";
  for (const v1::Device& one : node.devices()) {
    if (one.index() != device) continue;
    return one.product().empty() ? EnumShort(*v1::Device::Kind_descriptor(), one.kind())
                                 : one.product();
  }
  return "";
}

void KeepUsage(Turn& turn, const v1::Job& body, const v1::Attempt& attempt, bool lost) {
  const absl::Time begin = FromTimestamp(attempt.create_time());
  const absl::Time end = FromTimestamp(attempt.end_time());
  UsageEntry entry = EntryOf(body, begin, end);
  entry.devices = attempt.ranks_size();
  entry.tokens = body.status().progress().supervised_tokens();
  if (attempt.ranks_size() > 0) {
    const v1::RankPlacement& first = attempt.ranks(0);
    entry.product =
        ProductOf(turn.Get(Family::kRecords, NodeKey(first.node())), first.device_index());
  }
  if (lost) {
    // What was trained since the last checkpoint that it published is lost.
    absl::Time kept = begin;
    const auto records = turn.List(absl::StrCat("checkpoint/", JobKeyOf(body.name()), "/"));
    for (const Record& record : records.ok() ? *records : std::vector<Record>()) {
      v1::Checkpoint checkpoint;
      if (!DecodeResource(record.key, record.value, checkpoint).ok()) continue;
      kept = std::max(kept, FromTimestamp(checkpoint.create_time()));
    }
    entry.lost_seconds = absl::ToDoubleSeconds(end - std::min(kept, end));
  }
  const std::string number = attempt.name().substr(attempt.name().rfind('/') + 1);
  turn.Put(Family::kRecords, absl::StrCat(EndKey(end), "/", JobKeyOf(body.name()), "/", number),
           ToJson(entry).Dump());
}

absl::StatusOr<std::vector<UsageEntry>> ReadUsage(const Store& store, absl::Time since) {
  std::vector<UsageEntry> entries;
  GRAFT_RETURN_IF_ERROR(ForEachRecord(
      store, {.prefix = std::string(kUsagePrefix), .after = EndKey(since), .limit = kPage},
      [&](const Record& record, int64_t) {
        GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(record.value));
        entries.push_back(FromJson(json));
        return absl::OkStatus();
      }));
  return entries;
}

UsageEntry RunningUsage(const v1::Job& body, const Job& job, const std::string& product,
                        absl::Time now) {
  UsageEntry entry = EntryOf(body, job.attempt.started, now);
  entry.devices = static_cast<int>(job.attempt.ranks.size());
  entry.product = product;
  entry.tokens = body.status().progress().supervised_tokens();
  return entry;
}

}  // namespace graft::scheduler
