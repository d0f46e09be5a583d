#include "scheduler/service/usage_service.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "rpc/filter.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr absl::Duration kDefaultPeriod = absl::Hours(24 * 30);
constexpr int kMaxDimensions = 3;

std::string KeyOf(const UsageEntry& entry, v1::UsageDimension dimension, absl::Time day) {
  switch (dimension) {
    case v1::USAGE_DIMENSION_WORKSPACE:
      return absl::StrCat("workspaces/", entry.workspace);
    case v1::USAGE_DIMENSION_USER:
      return entry.user;
    case v1::USAGE_DIMENSION_QUEUE:
      return entry.queue;
    case v1::USAGE_DIMENSION_PROJECT:
      return entry.project;
    case v1::USAGE_DIMENSION_JOB:
      return entry.job;
    case v1::USAGE_DIMENSION_PRODUCT:
      return entry.product;
    case v1::USAGE_DIMENSION_DAY:
      return absl::FormatTime("%Y-%m-%d", day, absl::UTCTimeZone());
    default:
      return "";
  }
}

// One entry cut at the days' ends, where that is asked for, and at the period's.
std::vector<std::pair<absl::Time, absl::Time>> Slices(const UsageEntry& entry, absl::Time begin,
                                                      absl::Time end, bool by_day) {
  std::vector<std::pair<absl::Time, absl::Time>> slices;
  absl::Time at = std::max(entry.begin, begin);
  const absl::Time last = std::min(entry.end, end);
  while (at < last) {
    const absl::CivilDay day = absl::ToCivilDay(at, absl::UTCTimeZone());
    const absl::Time next = by_day ? absl::FromCivil(day + 1, absl::UTCTimeZone()) : last;
    slices.emplace_back(at, std::min(next, last));
    at = slices.back().second;
  }
  return slices;
}

struct Sum {
  std::set<std::string> jobs;
  v1::JobUsage usage;
  int64_t tokens = 0;

  // `share`: how much of the entry lies in what is added.
  void Add(const UsageEntry& entry, double seconds, double share, bool ends_here) {
    jobs.insert(entry.job);
    usage.set_gpu_seconds(usage.gpu_seconds() + seconds * entry.devices);
    usage.set_queued_seconds(usage.queued_seconds() + share * entry.queued_seconds);
    usage.set_lost_seconds(usage.lost_seconds() + share * entry.lost_seconds);
    usage.set_preempted_seconds(usage.preempted_seconds() + share * entry.preempted_seconds);
    if (ends_here) tokens += entry.tokens;
  }
  void Write(v1::UsageRow& row) const {
    row.set_jobs(static_cast<int64_t>(jobs.size()));
    *row.mutable_usage() = usage;
    row.set_tokens(tokens);
  }
};

absl::StatusOr<rpc::Filter> UsageFilter(const std::string& text) {
  rpc::FilterSchema schema;
  for (const char* name : {"workspace", "user", "queue", "project", "job", "product"}) {
    schema[name] = rpc::FilterType::kString;
  }
  return rpc::Filter::Parse(text, schema);
}

bool Passes(const rpc::Filter& filter, const UsageEntry& entry) {
  return filter.Matches([&](absl::string_view field) -> std::vector<rpc::FilterValue> {
    static const std::map<absl::string_view, v1::UsageDimension> kDimensions = {
        {"workspace", v1::USAGE_DIMENSION_WORKSPACE},
        {"user", v1::USAGE_DIMENSION_USER},
        {"queue", v1::USAGE_DIMENSION_QUEUE},
        {"project", v1::USAGE_DIMENSION_PROJECT},
        {"job", v1::USAGE_DIMENSION_JOB},
        {"product", v1::USAGE_DIMENSION_PRODUCT}};
    return {KeyOf(entry, kDimensions.at(field), {})};
  });
}

}  // namespace

absl::StatusOr<v1::QueryUsageResponse> SumUsage(const std::vector<UsageEntry>& entries,
                                                const v1::QueryUsageRequest& request,
                                                absl::Time begin, absl::Time end,
                                                const rpc::PageTokenCodec& tokens) {
  GRAFT_ASSIGN_OR_RETURN(const int size, rpc::EffectivePageSize(request.page_size()));
  GRAFT_ASSIGN_OR_RETURN(const rpc::Filter filter, UsageFilter(request.filter()));
  std::vector<v1::UsageDimension> dimensions;
  for (int dimension : request.group_by()) {
    if (dimension <= 0 || !v1::UsageDimension_IsValid(dimension)) {
      return InvalidField("group_by", "names a dimension that is none");
    }
    dimensions.push_back(static_cast<v1::UsageDimension>(dimension));
  }
  if (dimensions.empty()) dimensions.push_back(v1::USAGE_DIMENSION_WORKSPACE);
  if (dimensions.size() > kMaxDimensions) {
    return InvalidField("group_by", "has more than 3 dimensions");
  }
  const bool by_day =
      std::find(dimensions.begin(), dimensions.end(), v1::USAGE_DIMENSION_DAY) != dimensions.end();
  std::map<std::vector<std::string>, Sum> sums;
  Sum total;
  for (const UsageEntry& entry : entries) {
    if (!Passes(filter, entry)) continue;
    const double whole = std::max(absl::ToDoubleSeconds(entry.end - entry.begin), 1e-6);
    for (const auto& [from, to] : Slices(entry, begin, end, by_day)) {
      std::vector<std::string> keys;
      for (v1::UsageDimension dimension : dimensions) keys.push_back(KeyOf(entry, dimension, from));
      const double seconds = absl::ToDoubleSeconds(to - from);
      for (Sum* sum : {&sums[keys], &total}) {
        sum->Add(entry, seconds, seconds / whole, to == entry.end);
      }
    }
  }
  const std::string query = absl::StrCat("QueryUsage\n", request.parent(), "\n", request.filter(),
                                         "\n", absl::StrJoin(request.group_by(), ","));
  std::vector<std::string> after;
  if (!request.page_token().empty()) {
    GRAFT_ASSIGN_OR_RETURN(const rpc::PageToken token, tokens.Decode(request.page_token(), query));
    after = absl::StrSplit(token.last_key, '\n');
  }
  v1::QueryUsageResponse response;
  total.Write(*response.mutable_total());
  for (auto it = after.empty() ? sums.begin() : sums.upper_bound(after); it != sums.end(); ++it) {
    if (response.rows_size() == size) {
      response.set_next_page_token(
          tokens.Encode({.last_key = absl::StrJoin(response.rows(size - 1).keys(), "\n")}, query));
      break;
    }
    v1::UsageRow& row = *response.add_rows();
    for (const std::string& key : it->first) row.add_keys(key);
    it->second.Write(row);
  }
  return response;
}

rpc::Service UsageService::Bind() {
  rpc::Service service("graft.v1.UsageService");
  service.Async("QueryUsage", this, &UsageService::QueryUsage);
  return service;
}

void UsageService::QueryUsage(std::shared_ptr<rpc::Call> call, const v1::QueryUsageRequest& request,
                              rpc::Responder<v1::QueryUsageResponse> responder) {
  const auto ids = ParseName(request.parent(), "workspaces/*", true);
  if (!ids.ok()) return responder.Answer(ids.status());
  const std::string workspace = (*ids)[0];
  if (workspace != "-" && call->identity->RoleIn(workspace) < rpc::Role::kViewer) {
    return responder.Answer(NoSuchResource(request.parent()));
  }
  const absl::Time now = context_.clock.Now();
  const absl::Time end = request.has_end_time() ? FromTimestamp(request.end_time()) : now;
  const absl::Time begin =
      request.has_start_time() ? FromTimestamp(request.start_time()) : end - kDefaultPeriod;
  if (begin >= end) return responder.Answer(InvalidField("start_time", "is not before end_time"));
  auto entries = ReadUsage(context_.store, begin);
  if (!entries.ok()) return responder.Answer(entries.status());
  auto answer = std::make_shared<rpc::Responder<v1::QueryUsageResponse>>(std::move(responder));
  // Viewers see their workspaces, operators of the cluster all.
  const auto visible = [call, workspace](const std::string& of) {
    if (workspace != "-") return of == workspace;
    return call->identity->RoleIn(of) >= rpc::Role::kViewer;
  };
  context_.control.Inspect([this, answer, request, begin, end, now, visible,
                            entries = *std::move(entries)](const Core& core) mutable {
    for (const auto& [key, job] : core.jobs()) {
      if (!job.attempt.live() || job.attempt.ranks.empty()) continue;
      const std::vector<std::string> parts = absl::StrSplit(key, '/');
      const auto body =
          ReadResource<v1::Job>(context_.store, JobRecordKey(parts[0], parts[1]), key);
      if (!body.ok()) continue;
      const DeviceRef& first = job.attempt.ranks[0];
      const std::string product = ProductOf(
          context_.store.Get(Family::kRecords, absl::StrCat("node/", first.node)), first.device);
      entries.push_back(RunningUsage(*body, job, product, now));
    }
    entries.erase(
        std::remove_if(entries.begin(), entries.end(),
                       [&](const UsageEntry& entry) { return !visible(entry.workspace); }),
        entries.end());
    answer->Answer(SumUsage(entries, request, begin, end, context_.page_tokens));
  });
}

}  // namespace graft::scheduler
