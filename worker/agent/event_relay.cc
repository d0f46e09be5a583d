#include "worker/agent/event_relay.h"

#include <algorithm>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/agent/trainer_lines.h"

namespace graft::agent {
namespace {

constexpr int64_t kBatchBytes = 256 << 10;
constexpr absl::Duration kReconnectDelay = absl::Milliseconds(500);
constexpr absl::Duration kIdleWait = absl::Seconds(1);

// "workspaces/w/jobs/j/attempts/1" and rank 0 as one folder name; "~" is no character of a name.
std::string FolderName(const EventSource& source) {
  return absl::StrCat(absl::StrReplaceAll(source.first, {{"/", "~"}}), "~~", source.second);
}

bool ParseFolderName(const std::string& name, EventSource& source) {
  const size_t split = name.rfind("~~");
  if (split == std::string::npos || !absl::SimpleAtoi(name.substr(split + 2), &source.second)) {
    return false;
  }
  source.first = absl::StrReplaceAll(name.substr(0, split), {{"~", "/"}});
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<EventRelay>> EventRelay::Open(const std::string& folder,
                                                             SchedulerLink& link) {
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  std::unique_ptr<EventRelay> relay(new EventRelay(folder, link));
  {
    MutexLock lock(relay->mu_);
    GRAFT_RETURN_IF_ERROR(relay->LoadLeftovers());
  }
  relay->thread_ = std::thread([self = relay.get()] { self->Run(); });
  return relay;
}

EventRelay::~EventRelay() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    if (open_ != nullptr) open_->Cancel();
    wake_.SignalAll();
  }
  thread_.join();
}

absl::Status EventRelay::LoadLeftovers() {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(folder_));
  for (const std::string& name : names) {
    EventSource source;
    if (!ParseFolderName(name, source)) continue;
    GRAFT_ASSIGN_OR_RETURN(Stream * stream, Find(source));
    stream->closing = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<EventRelay::Stream*> EventRelay::Find(const EventSource& source) {
  const auto it = streams_.find(source);
  if (it != streams_.end()) return &it->second;
  Stream stream;
  stream.folder = JoinPath(folder_, FolderName(source));
  GRAFT_ASSIGN_OR_RETURN(stream.spool, Spool::Open(stream.folder));
  stream.sent = stream.spool->acknowledged();
  return &streams_.emplace(source, std::move(stream)).first->second;
}

void EventRelay::SetLease(const std::string& node, int64_t epoch) {
  MutexLock lock(mu_);
  node_ = node;
  epoch_ = epoch;
  ++generation_;
  if (open_ != nullptr) open_->Cancel();
  wake_.SignalAll();
}

void EventRelay::Append(const EventSource& source, const v1::AgentEvent& event) {
  MutexLock lock(mu_);
  const absl::StatusOr<Stream*> stream = Find(source);
  if (!stream.ok()) {
    LOG_ERROR("an event could not be kept", {{"reason", stream.status().message()}});
    return;
  }
  if ((*stream)->dropped > 0) {
    v1::AgentEvent dropped;
    dropped.set_dropped((*stream)->dropped);
    if (!(*stream)->spool->Append(dropped.SerializeAsString()).ok()) {
      ++(*stream)->dropped;
      return;
    }
    (*stream)->dropped = 0;
  }
  if (!(*stream)->spool->Append(event.SerializeAsString()).ok()) ++(*stream)->dropped;
  wake_.Signal();
}

void EventRelay::Close(const std::string& attempt) {
  MutexLock lock(mu_);
  for (auto& [source, stream] : streams_) {
    if (source.first == attempt) stream.closing = true;
  }
  RemoveDrained();
}

bool EventRelay::Drained(const std::string& attempt) {
  MutexLock lock(mu_);
  return std::all_of(streams_.begin(), streams_.end(), [&attempt](const auto& entry) {
    return entry.first.first != attempt ||
           entry.second.spool->acknowledged() >= entry.second.spool->last_sequence();
  });
}

void EventRelay::RemoveDrained() {
  for (auto it = streams_.begin(); it != streams_.end();) {
    const Stream& stream = it->second;
    if (!stream.closing || stream.spool->acknowledged() < stream.spool->last_sequence()) {
      ++it;
      continue;
    }
    if (const absl::Status removed = RemoveTree(stream.folder); !removed.ok()) {
      LOG_WARNING("a spool could not be removed", {{"reason", removed.message()}});
    }
    it = streams_.erase(it);
  }
}

void EventRelay::OnAck(const v1::PushEventsResponse& response) {
  MutexLock lock(mu_);
  for (const auto& ack : response.acks()) {
    const auto it = streams_.find({ack.attempt(), ack.rank()});
    if (it == streams_.end()) continue;
    const absl::Status status = it->second.spool->Acknowledge(static_cast<int64_t>(ack.sequence()));
    if (!status.ok()) LOG_WARNING("a spool could not be cut", {{"reason", status.message()}});
  }
  RemoveDrained();
}

bool EventRelay::SendPending(EventStream& stream, bool& first) {
  v1::PushEventsRequest request;
  {
    MutexLock lock(mu_);
    if (first) {
      request.set_node(node_);
      request.set_epoch(epoch_);
    }
    for (auto& [source, from] : streams_) {
      absl::StatusOr<std::vector<SpoolRecord>> records =
          from.spool->ReadAfter(from.sent, kBatchBytes);
      if (!records.ok() || records->empty()) continue;
      v1::EventBatch& batch = *request.add_batches();
      batch.set_attempt(source.first);
      batch.set_rank(source.second);
      batch.set_first_sequence(static_cast<uint64_t>(records->front().sequence));
      for (const std::string& name : MetricNames()) batch.add_metric_names(name);
      for (const SpoolRecord& record : *records) {
        // A record that cannot be read keeps its number, so that the others keep theirs.
        if (!batch.add_events()->ParseFromString(record.payload)) {
          batch.mutable_events(batch.events_size() - 1)->set_dropped(1);
        }
      }
      from.sent = records->back().sequence;
    }
    if (request.batches_size() == 0 && !first) {
      wake_.WaitFor(mu_, kIdleWait);
      return true;
    }
  }
  first = false;
  return stream.Write(request);
}

void EventRelay::Run() {
  for (;;) {
    uint64_t generation = 0;
    {
      MutexLock lock(mu_);
      while (!stopping_ && epoch_ == 0) wake_.Wait(mu_);
      if (stopping_) return;
      generation = generation_;
      for (auto& [source, stream] : streams_) stream.sent = stream.spool->acknowledged();
    }
    std::unique_ptr<EventStream> stream =
        link_.OpenEvents([this](const v1::PushEventsResponse& response) { OnAck(response); });
    {
      MutexLock lock(mu_);
      open_ = stream.get();
    }
    bool first = true;
    for (;;) {
      if (!SendPending(*stream, first)) break;
      MutexLock lock(mu_);
      if (stopping_ || generation_ != generation) break;
    }
    {
      MutexLock lock(mu_);
      open_ = nullptr;
    }
    stream->Cancel();
    stream.reset();
    MutexLock lock(mu_);
    if (stopping_) return;
    if (generation_ == generation) wake_.WaitFor(mu_, kReconnectDelay);
  }
}

}  // namespace graft::agent
