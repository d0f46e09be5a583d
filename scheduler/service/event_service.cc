#include "scheduler/service/event_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/json.h"
#include "graft/v1/job.pb.h"
#include "graft/v1/model.pb.h"
#include "graft/v1/node.pb.h"
#include "graft/v1/queue.pb.h"
#include "graft/v1/workspace.pb.h"
#include "rpc/status.h"
#include "scheduler/service/engine.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/watchers.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr int kEventsAtATime = 1000;
constexpr int kAuditScan = 100'000;  // entries that one page looks through at most

const ListFields& EventFields() {
  static const ListFields fields{
      .filter = {{"type"}, {"resource"}, {"actor"}, {"reason"}, {"time"}}};
  return fields;
}

// Whose events are asked for: a workspace's, everybody's, or one resource's and of what is below
// it.
struct Subject {
  bool all = false;
  std::string resource;

  static absl::StatusOr<Subject> Parse(const std::string& parent) {
    if (parent == "workspaces/-") return Subject{.all = true};
    const std::vector<std::string> parts = absl::StrSplit(parent, '/');
    if (parts.size() >= 2 && parts.size() % 2 == 0 && parts[0] == "workspaces") {
      return Subject{.resource = parent};
    }
    return ParseName(parent, "workspaces/*").status();
  }
  // Foreign workspaces' events are not there for the caller; the cluster's own (nodes, queues,
  // users) are for those who hold a role in the cluster.
  bool Shows(const std::string& name, const rpc::Identity& who) const {
    if (!all) {
      return absl::StartsWith(name, resource) &&
             (name.size() == resource.size() || name[resource.size()] == '/');
    }
    const std::vector<std::string> parts = absl::StrSplit(name, absl::MaxSplits('/', 2));
    const rpc::Role role =
        parts.size() > 1 && parts[0] == "workspaces" ? who.RoleIn(parts[1]) : who.RoleInCluster();
    return role >= rpc::Role::kViewer;
  }
};

absl::StatusOr<v1::Event> ToEvent(const Record& record) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(record.value));
  v1::Event event;
  event.set_revision(static_cast<int64_t>(FromBigEndian(record.key)));
  event.set_index(static_cast<int32_t>(
      FromBigEndian(absl::StrCat(std::string(4, '\0'), record.key.substr(8)))));
  event.set_type(json.GetString("type"));
  event.set_resource(json.GetString("resource"));
  *event.mutable_time() = ToTimestamp(absl::FromUnixMicros(json.GetInt("time_us")));
  event.set_actor(json.GetString("actor"));
  event.set_reason(static_cast<v1::Reason>(json.GetInt("reason")));
  event.set_message(json.GetString("message"));
  return event;
}

absl::Status Compacted(int64_t asked, int64_t compacted) {
  return rpc::ErrorBuilder(absl::StatusCode::kOutOfRange,
                           absl::StrCat("events after revision ", asked,
                                        " are compacted; list again from revision ", compacted))
      .Reason("REVISION_COMPACTED")
      .Metadata("revision", absl::StrCat(compacted))
      .Build();
}

template <typename T>
bool PackResource(const Store& store, const std::string& key, v1::Event& event) {
  const auto resource = ReadResource<T>(store, key, event.resource());
  if (resource.ok()) event.mutable_body()->PackFrom(*resource);
  return true;
}

// The resource as it is now.
void AddBody(const Store& store, v1::Event& event) {
  const std::string kind = KindOf(event.resource());
  std::string key = kind;
  const std::vector<std::string> parts = absl::StrSplit(event.resource(), '/');
  for (size_t i = 1; i < parts.size(); i += 2) absl::StrAppend(&key, "/", parts[i]);
  (void)(kind == "job" && PackResource<v1::Job>(store, key, event));
  (void)(kind == "model" && PackResource<v1::Model>(store, key, event));
  (void)(kind == "adapter" && PackResource<v1::Adapter>(store, key, event));
  (void)(kind == "node" && PackResource<v1::Node>(store, key, event));
  (void)(kind == "queue" && PackResource<v1::Queue>(store, key, event));
  (void)(kind == "workspace" && PackResource<v1::Workspace>(store, key, event));
}

// What a watch has to remember between two commits.
struct EventWatch {
  Subject subject;
  rpc::Filter filter;
  bool include_body = false;
  int64_t revision = 0;  // all events up to here were looked at
  absl::Time last_sent;
};

using EventWriter = rpc::StreamWriter<v1::WatchEventsResponse>;

// Sends what came since; whole revisions only. Whether the stream has ended.
bool SendNews(const ServiceContext& context, const rpc::Identity& who, EventWatch& watch,
              EventWriter& writer) {
  if (watch.revision < context.store.compacted()) {
    writer.Finish(Compacted(watch.revision, context.store.compacted()));
    return true;
  }
  const int64_t now_at = context.store.revision();
  ListRequest list{.family = Family::kEvents,
                   .after = absl::StrCat(BigEndian(static_cast<uint64_t>(watch.revision)),
                                         std::string(4, '\xff')),
                   .limit = kEventsAtATime};
  v1::WatchEventsResponse response;
  const auto flush = [&]() -> bool {
    if (response.events().empty()) return true;
    watch.last_sent = context.clock.Now();
    const absl::Status sent = writer.Write(std::exchange(response, {}));
    if (!sent.ok()) writer.Finish(sent);
    return sent.ok();
  };
  for (bool more = true; more;) {
    const absl::StatusOr<ListResult> page = context.store.List(list);
    if (!page.ok()) return writer.Finish(page.status()), true;
    for (const Record& record : page->records) {
      list.after = record.key;
      absl::StatusOr<v1::Event> event = ToEvent(record);
      if (!event.ok()) return writer.Finish(event.status()), true;
      if (event->revision() > now_at) return !flush();  // the next call's
      if (response.revision() != 0 && response.revision() != event->revision() && !flush()) {
        return true;
      }
      watch.revision = event->revision();
      if (!watch.subject.Shows(event->resource(), who)) continue;
      if (!Matches(watch.filter, EventFields(), *event)) continue;
      if (watch.include_body) AddBody(context.store, *event);
      response.set_revision(event->revision());
      *response.add_events() = *std::move(event);
    }
    more = page->more;
  }
  if (!flush()) return true;
  watch.revision = std::max(watch.revision, now_at);
  return false;
}

}  // namespace

rpc::Service EventService::Bind() {
  rpc::Service service("graft.v1.EventService");
  service.Unary("ListEvents", this, &EventService::ListEvents)
      .Stream("WatchEvents", this, &EventService::WatchEvents)
      .Unary("ListAuditEntries", this, &EventService::ListAuditEntries)
      .Unary("VerifyAudit", this, &EventService::VerifyAudit);
  return service;
}

absl::StatusOr<v1::ListEventsResponse> EventService::ListEvents(
    const rpc::Call& call, const v1::ListEventsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const Subject subject, Subject::Parse(request.parent()));
  const int64_t compacted = context_.store.compacted();
  if (request.after_revision() > 0 && request.after_revision() < compacted) {
    return Compacted(request.after_revision(), compacted);
  }
  ListQuery query = QueryOf(call, request, "");
  query.family = Family::kEvents;
  absl::StrAppend(&query.parent, "@", request.after_revision());
  GRAFT_ASSIGN_OR_RETURN(
      auto page, ListLoaded<v1::Event>(context_.store, context_.page_tokens, query, EventFields(),
                                       [&](const Record& record) -> absl::StatusOr<MessagePtr> {
                                         GRAFT_ASSIGN_OR_RETURN(v1::Event event, ToEvent(record));
                                         if (event.revision() <= request.after_revision() ||
                                             !subject.Shows(event.resource(), *call.identity)) {
                                           return nullptr;
                                         }
                                         return std::make_unique<v1::Event>(std::move(event));
                                       }));
  v1::ListEventsResponse response;
  for (v1::Event& event : page.resources) *response.add_events() = std::move(event);
  response.set_next_page_token(page.next_page_token);
  return response;
}

void EventService::WatchEvents(CallPtr call, const v1::WatchEventsRequest& request,
                               std::shared_ptr<EventWriter> writer) {
  auto subject = Subject::Parse(request.parent());
  if (!subject.ok()) return writer->Finish(subject.status());
  auto filter = ParseFilter(request.filter(), EventFields(), *v1::Event::descriptor());
  if (!filter.ok()) return writer->Finish(filter.status());
  // Shared with the watcher, which outlives this call.
  auto watch = std::make_shared<EventWatch>(EventWatch{
      .subject = *std::move(subject),
      .filter = *std::move(filter),
      .include_body = request.include_body(),
      .revision = request.revision() > 0 ? request.revision() : context_.store.revision(),
      .last_sent = context_.clock.Now()});
  context_.watchers.Add([this, call, watch, writer]() -> bool {
    if (writer->closed()) return true;
    if (SendNews(context_, *call->identity, *watch, *writer)) return true;
    if (context_.clock.Now() - watch->last_sent < kBookmark) return false;
    watch->last_sent = context_.clock.Now();
    v1::WatchEventsResponse bookmark;
    bookmark.set_revision(watch->revision);
    const absl::Status sent = writer->Write(std::move(bookmark));
    if (!sent.ok()) writer->Finish(sent);
    return !sent.ok();
  });
}

namespace {

v1::AuditEntry ToAuditEntry(const AuditRecord& record) {
  v1::AuditEntry entry;
  entry.set_sequence(static_cast<int64_t>(record.sequence));
  *entry.mutable_time() = ToTimestamp(absl::FromUnixMicros(record.body.GetInt("time_us")));
  entry.set_actor(record.body.GetString("who"));
  entry.set_method(record.body.GetString("method"));
  entry.set_resource(record.body.GetString("resource"));
  entry.set_code("OK");  // what was refused has changed nothing and stands in the log alone
  entry.set_request_id(record.body.GetString("request"));
  entry.set_revision(record.body.GetInt("revision"));
  entry.set_change_json(record.body.GetString("change"));
  const std::string text = record.body.GetString("text");
  if (entry.change_json().empty() && !text.empty()) {
    Json note = Json::MakeObject();
    note.Set("note", text);
    entry.set_change_json(note.Dump());
  }
  entry.set_hash(absl::HexStringToBytes(record.hash));
  return entry;
}

}  // namespace

// Newest first, by sequence. The token is the last sequence given.
absl::StatusOr<v1::ListAuditEntriesResponse> EventService::ListAuditEntries(
    const rpc::Call& call, const v1::ListAuditEntriesRequest& request) {
  static const ListFields kFields{
      .filter = {{"actor"}, {"method"}, {"resource"}, {"code"}, {"reason"}, {"time"}}};
  GRAFT_ASSIGN_OR_RETURN(const int size, rpc::EffectivePageSize(request.page_size()));
  GRAFT_ASSIGN_OR_RETURN(const rpc::Filter filter,
                         ParseFilter(request.filter(), kFields, *v1::AuditEntry::descriptor()));
  const std::string query = absl::StrCat(call.method, "\n", request.filter());
  uint64_t sequence = LastAuditSequence(context_.store);
  if (!request.page_token().empty()) {
    GRAFT_ASSIGN_OR_RETURN(const rpc::PageToken token,
                           context_.page_tokens.Decode(request.page_token(), query));
    sequence = FromBigEndian(token.last_key) - 1;
  }
  v1::ListAuditEntriesResponse response;
  int looked_at = 0;
  for (; sequence > 0; --sequence) {
    if (response.entries_size() == size || ++looked_at > kAuditScan) {
      response.set_next_page_token(
          context_.page_tokens.Encode({.last_key = BigEndian(sequence + 1)}, query));
      break;
    }
    GRAFT_ASSIGN_OR_RETURN(const AuditRecord record, ReadAuditRecord(context_.store, sequence));
    v1::AuditEntry entry = ToAuditEntry(record);
    if (Matches(filter, kFields, entry)) *response.add_entries() = std::move(entry);
  }
  return response;
}

absl::StatusOr<v1::VerifyAuditResponse> EventService::VerifyAudit(
    const rpc::Call&, const v1::VerifyAuditRequest& request) {
  if (request.from_sequence() < 0 || request.to_sequence() < 0) {
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument, "a sequence is below 0")
        .Reason("FIELD_INVALID")
        .Field(request.from_sequence() < 0 ? "from_sequence" : "to_sequence", "is below 0")
        .Build();
  }
  GRAFT_ASSIGN_OR_RETURN(
      const AuditChain chain,
      CheckAuditChain(context_.store, static_cast<uint64_t>(request.from_sequence()),
                      static_cast<uint64_t>(request.to_sequence())));
  v1::VerifyAuditResponse response;
  response.set_checked(static_cast<int64_t>(chain.checked));
  response.set_hash(absl::HexStringToBytes(chain.hash));
  return response;
}

}  // namespace graft::scheduler
