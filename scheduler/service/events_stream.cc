#include "scheduler/service/events_stream.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "rpc/status.h"
#include "scheduler/service/agent_convert.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace agent = graft::agent::v1;
namespace v1 = graft::v1;

constexpr int kDefaultPoints = 1000;
constexpr int kMaxPoints = 100'000;
constexpr int kLogPage = 500;
constexpr int kScanLimit = 2'000'000;

std::string BigEndian32(uint32_t value) { return BigEndian(value).substr(4); }

std::string EntryKey(const JobKey& job, int attempt, int rank, uint64_t sequence) {
  return absl::StrCat(SeriesPrefix(job), BigEndian32(static_cast<uint32_t>(attempt)),
                      BigEndian32(static_cast<uint32_t>(rank + 1)), BigEndian(sequence));
}

struct EntryPlace {
  int attempt = 0;
  int rank = 0;
};
EntryPlace PlaceOf(absl::string_view key, size_t prefix) {
  const std::string padded(4, '\0');
  return {static_cast<int>(FromBigEndian(absl::StrCat(padded, key.substr(prefix, 4)))),
          static_cast<int>(FromBigEndian(absl::StrCat(padded, key.substr(prefix + 4, 4)))) - 1};
}

std::string MetricsJson(const agent::EventBatch& batch, const agent::MetricRow& row) {
  Json values = Json::MakeObject();
  const int count = std::min(row.names_size(), row.values_size());
  for (int i = 0; i < count; ++i) {
    if (row.names(i) < static_cast<uint32_t>(batch.metric_names_size())) {
      values.Set(batch.metric_names(static_cast<int>(row.names(i))), row.values(i));
    }
  }
  Json json = Json::MakeObject();
  json.Set("s", row.step()).Set("e", row.epoch()).Set("t", row.time_ms());
  json.Set("v", std::move(values));
  return json.Dump();
}

// One batch after the other: read, kept, acknowledged. An end that comes from without waits for the
// acknowledgement that is on its way.
class EventsStream final
    : public grpc::ServerBidiReactor<agent::PushEventsRequest, agent::PushEventsResponse>,
      public std::enable_shared_from_this<EventsStream> {
 public:
  EventsStream(std::shared_ptr<rpc::Call> call, Store& store)
      : call_(std::move(call)), store_(store) {}

  void Begin() {
    self_ = shared_from_this();
    StartRead(&request_);
    call_->OnShutdown([weak = weak_from_this()](const absl::Status& status) {
      if (const auto self = weak.lock()) self->EndWhenIdle(status);
    });
  }

 private:
  void OnReadDone(bool ok) override {
    {
      MutexLock lock(mu_);
      if (ended_) return;
      busy_ = ok;
    }
    if (!ok) return End(absl::OkStatus());
    if (!request_.node().empty() && request_.node() != call_->identity->subject) {
      return End(absl::PermissionDeniedError(
          absl::StrCat(call_->identity->subject, " must not speak for ", request_.node())));
    }
    response_.Clear();
    for (const agent::EventBatch& batch : request_.batches()) {
      absl::StatusOr<agent::PushEventsResponse::Ack> ack = KeepEvents(store_, batch);
      if (!ack.ok()) return End(ack.status());
      *response_.add_acks() = *std::move(ack);
    }
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the agent has gone away"));
    absl::Status wanted;
    {
      MutexLock lock(mu_);
      busy_ = false;
      wanted = wanted_;
      if (wanted.ok() && !ended_) StartRead(&request_);
    }
    if (!wanted.ok()) End(wanted);
  }
  void OnDone() override { const std::shared_ptr<EventsStream> self = std::move(self_); }

  void EndWhenIdle(const absl::Status& status) {
    {
      MutexLock lock(mu_);
      wanted_ = status;
      if (busy_ || std::exchange(ended_, true)) return;
    }
    FinishWith(status);
  }
  void End(const absl::Status& status) {
    {
      MutexLock lock(mu_);
      if (std::exchange(ended_, true)) return;
    }
    FinishWith(status);
  }
  void FinishWith(const absl::Status& status) { Finish(rpc::ToGrpcStatus(call_->Finish(status))); }

  const std::shared_ptr<rpc::Call> call_;
  Store& store_;
  agent::PushEventsRequest request_;
  agent::PushEventsResponse response_;
  Mutex mu_;
  bool busy_ GRAFT_GUARDED_BY(mu_) = false;  // a batch has been read and is not acknowledged
  bool ended_ GRAFT_GUARDED_BY(mu_) = false;
  absl::Status wanted_ GRAFT_GUARDED_BY(mu_);  // the end to come to
  std::shared_ptr<EventsStream> self_;         // gRPC's reference, until OnDone
};

bool NameMatches(const std::string& name, const v1::QueryMetricsRequest& request) {
  if (request.metrics().empty()) return name == "train_loss" || name == "val_loss";
  return std::any_of(request.metrics().begin(), request.metrics().end(), [&](const auto& wanted) {
    const size_t star = wanted.find('*');
    if (star == std::string::npos) return name == wanted;
    return absl::StartsWith(name, wanted.substr(0, star)) &&
           absl::EndsWith(name, wanted.substr(star + 1));
  });
}

// Means of equal runs of points, so that at most `limit` are left.
void Downsample(v1::MetricSeries& series, int limit) {
  const int run = (series.points_size() + limit - 1) / limit;
  series.set_downsampled(std::max(run, 1));
  if (run <= 1) return;
  google::protobuf::RepeatedPtrField<v1::Point> means;
  for (int begin = 0; begin < series.points_size(); begin += run) {
    const int end = std::min(begin + run, series.points_size());
    v1::Point mean = series.points(end - 1);
    double sum = 0;
    for (int i = begin; i < end; ++i) sum += series.points(i).value();
    mean.set_value(sum / (end - begin));
    *means.Add() = mean;
  }
  series.mutable_points()->Swap(&means);
}

}  // namespace

grpc::ServerBidiReactor<agent::PushEventsRequest, agent::PushEventsResponse>* NewEventsStream(
    std::shared_ptr<rpc::Call> call, Store& store) {
  const auto stream = std::make_shared<EventsStream>(std::move(call), store);
  stream->Begin();
  return stream.get();
}

std::string SeriesPrefix(const JobKey& job) {
  return absl::StrCat(job, absl::string_view("\0", 1));
}

absl::StatusOr<agent::PushEventsResponse::Ack> KeepEvents(Store& store,
                                                          const agent::EventBatch& batch) {
  const auto [job, attempt] = ParseAttemptName(batch.attempt());
  if (job.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("'", batch.attempt(), "' is no attempt"));
  }
  std::vector<Entry> metrics;
  std::vector<Entry> logs;
  uint64_t sequence = batch.first_sequence();
  for (const agent::AgentEvent& event : batch.events()) {
    const std::string key = EntryKey(job, attempt, batch.rank(), sequence++);
    if (event.has_metrics()) {
      metrics.emplace_back(key, MetricsJson(batch, event.metrics()));
    } else if (event.has_log()) {
      logs.emplace_back(key, event.log().SerializeAsString());
    } else if (event.event_case() == agent::AgentEvent::kLifeJson) {
      v1::LogEntry line;
      line.set_severity(v1::LogEntry::SEVERITY_DEBUG);
      line.set_text(event.life_json());
      logs.emplace_back(key, line.SerializeAsString());
    } else if (event.has_dropped()) {
      v1::LogEntry line;
      line.set_severity(v1::LogEntry::SEVERITY_WARNING);
      line.set_text(absl::StrCat(event.dropped(),
                                 " lines or metrics are missing here: the worker had no room for "
                                 "them on its disk"));
      logs.emplace_back(key, line.SerializeAsString());
    }
  }
  if (!metrics.empty()) GRAFT_RETURN_IF_ERROR(store.Append(Series::kMetrics, metrics));
  if (!logs.empty()) GRAFT_RETURN_IF_ERROR(store.Append(Series::kLogs, logs));
  agent::PushEventsResponse::Ack ack;
  ack.set_attempt(batch.attempt());
  ack.set_rank(batch.rank());
  ack.set_sequence(sequence == 0 ? 0 : sequence - 1);
  return ack;
}

absl::StatusOr<v1::QueryMetricsResponse> ReadMetrics(const Store& store, const JobKey& job,
                                                     const v1::QueryMetricsRequest& request) {
  const std::string prefix = SeriesPrefix(job);
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Entry> entries,
                         store.Scan(Series::kMetrics, prefix, AfterPrefix(prefix), kScanLimit));
  // By name, rank (-1: the job's, which rank 0 reports) and step; a later attempt replaces.
  std::map<std::pair<std::string, int>, std::map<int64_t, v1::Point>> series;
  std::map<std::string, bool> available;
  for (const Entry& entry : entries) {
    const EntryPlace place = PlaceOf(entry.first, prefix.size());
    if (request.attempt() != 0 && place.attempt != request.attempt()) continue;
    if (!request.per_rank() && place.rank > 0) continue;
    const absl::StatusOr<Json> row = Json::Parse(entry.second);
    const Json* values = row.ok() ? row->Find("v") : nullptr;
    if (values == nullptr || !values->is_object()) continue;
    const int64_t step = row->GetInt("s");
    const bool inside =
        step >= request.from_step() && (request.to_step() == 0 || step <= request.to_step());
    for (const auto& [name, value] : values->as_object()) {
      available[name] = true;
      if (!inside || !value.is_number() || !NameMatches(name, request)) continue;
      v1::Point& point = series[{name, request.per_rank() ? place.rank : -1}][step];
      point.set_step(step);
      point.set_epoch(row->GetDouble("e"));
      point.set_value(value.as_double());
      point.set_time_ms(row->GetInt("t"));
    }
  }
  const int limit =
      request.max_points() <= 0 ? kDefaultPoints : std::min(request.max_points(), kMaxPoints);
  v1::QueryMetricsResponse response;
  for (const auto& [key, points] : series) {
    v1::MetricSeries& one = *response.add_series();
    one.set_metric(key.first);
    one.set_rank(key.second);
    one.set_attempt(request.attempt());
    for (const auto& [step, point] : points) *one.add_points() = point;
    Downsample(one, limit);
  }
  for (const auto& [name, unused] : available) response.add_available(name);
  return response;
}

absl::StatusOr<v1::ReadLogsResponse> ReadLogLines(const Store& store, const JobKey& job,
                                                  const v1::ReadLogsRequest& request,
                                                  const std::string& cursor) {
  const std::string prefix = SeriesPrefix(job);
  std::string from = prefix;
  if (!cursor.empty()) {
    std::string after;
    if (!absl::WebSafeBase64Unescape(cursor, &after) || !absl::StartsWith(after, prefix)) {
      return absl::InvalidArgumentError("the cursor is damaged or belongs to another job");
    }
    from = absl::StrCat(after, absl::string_view("\0", 1));
  }
  const bool tail = request.tail() > 0 && cursor.empty();
  GRAFT_ASSIGN_OR_RETURN(
      const std::vector<Entry> entries,
      store.Scan(Series::kLogs, from, AfterPrefix(prefix), tail ? kScanLimit : kLogPage));
  v1::ReadLogsResponse response;
  response.set_cursor(cursor);
  for (const Entry& entry : entries) {
    response.set_cursor(absl::WebSafeBase64Escape(entry.first));
    const EntryPlace place = PlaceOf(entry.first, prefix.size());
    v1::LogEntry line;
    if (!line.ParseFromString(entry.second)) continue;
    line.set_attempt(place.attempt);
    line.set_rank(place.rank);
    const auto& ranks = request.ranks();
    if (request.attempt() > 0 && place.attempt != request.attempt()) continue;
    if (!ranks.empty() && std::find(ranks.begin(), ranks.end(), place.rank) == ranks.end())
      continue;
    if (line.severity() < request.min_severity()) continue;
    if (request.min_severity() == v1::LogEntry::SEVERITY_UNSPECIFIED &&
        line.severity() == v1::LogEntry::SEVERITY_DEBUG) {
      continue;
    }
    if (request.has_since() && FromTimestamp(line.time()) < FromTimestamp(request.since()))
      continue;
    if (!absl::StrContains(line.text(), request.contains())) continue;
    *response.add_entries() = std::move(line);
  }
  if (tail && response.entries_size() > request.tail()) {
    response.mutable_entries()->DeleteSubrange(
        0, response.entries_size() - static_cast<int>(request.tail()));
  }
  return response;
}

}  // namespace graft::scheduler
