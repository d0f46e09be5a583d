#include "scheduler/service/engine.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "scheduler/service/records.h"
#include "scheduler/store/schema.h"

namespace graft::scheduler {
namespace {

constexpr absl::string_view kIncarnationKey = "meta/incarnation";
constexpr absl::string_view kAuditHeadKey = "head";
constexpr int kPage = 1000;
constexpr size_t kHashSize = 64;  // hexadecimal digits

template <typename T, typename Decode>
absl::StatusOr<std::vector<T>> DecodePage(const std::vector<Record>& page, Decode decode) {
  std::vector<T> values;
  values.reserve(page.size());
  for (const Record& record : page) {
    absl::StatusOr<T> value = decode(record.value);
    if (!value.ok()) {
      return absl::Status(value.status().code(),
                          absl::StrCat(record.key, ": ", value.status().message()));
    }
    values.push_back(*std::move(value));
  }
  return values;
}

// A page is decoded on a thread of its own while the next one is read, and while that is decoded
// here: decoding costs more than reading.
template <typename T, typename Decode>
absl::StatusOr<std::vector<T>> LoadAll(const Store& store, absl::string_view prefix,
                                       Decode decode) {
  std::vector<T> all;
  std::future<absl::StatusOr<std::vector<T>>> pending;
  const auto append = [&](std::vector<T> values) {
    all.insert(all.end(), std::make_move_iterator(values.begin()),
               std::make_move_iterator(values.end()));
  };
  const auto take_pending = [&]() -> absl::Status {
    if (!pending.valid()) return absl::OkStatus();
    GRAFT_ASSIGN_OR_RETURN(std::vector<T> values, pending.get());
    append(std::move(values));
    return absl::OkStatus();
  };
  ListRequest list{.prefix = std::string(prefix), .limit = kPage};
  for (bool more = true; more;) {
    GRAFT_ASSIGN_OR_RETURN(ListResult page, store.List(list));
    more = page.more;
    if (page.records.empty()) continue;
    list.after = page.records.back().key;
    if (pending.valid() && pending.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      GRAFT_ASSIGN_OR_RETURN(std::vector<T> values, DecodePage<T>(page.records, decode));
      GRAFT_RETURN_IF_ERROR(take_pending());
      append(std::move(values));
      continue;
    }
    GRAFT_RETURN_IF_ERROR(take_pending());
    pending = std::async(std::launch::async, [records = std::move(page.records), decode] {
      return DecodePage<T>(records, decode);
    });
  }
  GRAFT_RETURN_IF_ERROR(take_pending());
  return all;
}

std::string AuditHash(absl::string_view previous, absl::string_view body) {
  return Sha256::HexOf(absl::StrCat(previous, body));
}

}  // namespace

class Engine::TurnImpl final : public Turn {
 public:
  TurnImpl(Engine& engine, absl::Time now) : engine_(engine), now_(now) {}

  absl::StatusOr<Record> Get(Family family, absl::string_view key) override {
    for (const Staged* staged : {&request_, &turn_}) {
      const auto it = staged->find({family, std::string(key)});
      if (it == staged->end()) continue;
      if (!it->second.has_value()) return absl::NotFoundError(absl::StrCat("there is no ", key));
      return Record{std::string(key), *it->second, revision()};
    }
    return engine_.store_.Get(family, key);
  }

  absl::StatusOr<std::vector<Record>> List(absl::string_view prefix) override {
    std::map<std::string, Record> found;
    GRAFT_RETURN_IF_ERROR(ForEachRecord(engine_.store_,
                                        {.prefix = std::string(prefix), .limit = kPage},
                                        [&](Record& record, int64_t) {
                                          found[record.key] = std::move(record);
                                          return absl::OkStatus();
                                        }));
    for (const Staged* staged : {&turn_, &request_}) {
      for (const auto& [key, value] : *staged) {
        if (key.first != Family::kRecords || !absl::StartsWith(key.second, prefix)) continue;
        found.erase(key.second);
        if (value.has_value()) found[key.second] = {key.second, *value, revision()};
      }
    }
    std::vector<Record> records;
    for (auto& [key, record] : found) records.push_back(std::move(record));
    return records;
  }

  void Put(Family family, absl::string_view key, std::string value) override {
    request_[{family, std::string(key)}] = std::move(value);
  }
  void Remove(Family family, absl::string_view key) override {
    request_[{family, std::string(key)}] = std::nullopt;
  }

  absl::Status Step(const Event& event) override {
    Effects effects = engine_.core_->Step(event, now_);
    if (!effects.status.ok()) return effects.status;
    stepped_ = true;
    Take(std::move(effects));
    StageQueues(event);
    return absl::OkStatus();
  }

  void Audit(AuditEntry entry) override { request_audit_.push_back(std::move(entry)); }
  void Emit(EventEntry entry) override { request_events_.push_back(std::move(entry)); }
  const Core& core() const override { return *engine_.core_; }
  absl::Time now() const override { return now_; }
  int64_t revision() const override { return engine_.store_.revision() + 1; }

  // Keeps what the request has staged, or drops it.
  void EndRequest(bool ok) {
    GRAFT_CHECK(ok || !stepped_) << "a request failed after its step had succeeded";
    if (ok) {
      for (auto& [key, value] : request_) turn_[key] = std::move(value);
      for (AuditEntry& entry : request_audit_) audit_.push_back(std::move(entry));
      for (EventEntry& entry : request_events_) events_.push_back(std::move(entry));
    }
    request_.clear();
    request_audit_.clear();
    request_events_.clear();
    stepped_ = false;
  }

  void Take(Effects effects) {
    for (const JobKey& key : effects.jobs) jobs_.insert(key);
    for (const JobKey& key : effects.jobs_erased) {
      jobs_.erase(key);
      Remove(Family::kRecords, absl::StrCat(kCoreJobPrefix, key));
    }
    for (const std::string& node : effects.nodes) nodes_.insert(node);
    for (const std::string& node : effects.nodes_erased) {
      nodes_.erase(node);
      Remove(Family::kRecords, absl::StrCat(kCoreHoldersPrefix, node));
      Remove(Family::kRecords, absl::StrCat(kCoreNodePrefix, node));
    }
    holders_.insert(effects.holders_changed.begin(), effects.holders_changed.end());
    desired_.insert(effects.desired_changed.begin(), effects.desired_changed.end());
    for (PublishCall& call : effects.calls) calls_.push_back(std::move(call));
    for (Decision& decision : effects.decisions) {
      request_audit_.push_back({.principal = "scheduler",
                                .method = "Decide",
                                .resource = decision.job,
                                .text = decision.text});
    }
    pass_wanted_ |= effects.pass_wanted;
    engine_.wake_at_ = effects.wake_at;
  }

  // The end of the turn: waiting jobs start, and what the core has changed becomes writes.
  void Close() {
    if (pass_wanted_) {
      pass_wanted_ = false;
      (void)Step(PassDue{});
    }
    for (const JobKey& key : jobs_) {
      const Job* job = core().FindJob(key);
      if (job == nullptr) continue;
      Put(Family::kRecords, absl::StrCat(kCoreJobPrefix, key), EncodeJob(*job));
      engine_.output_.OnJobWritten(*this, *job);
    }
    for (const std::string& name : nodes_) {
      const NodeState* state = core().FindNode(name);
      const Node* node = core().cluster().Find(name);
      if (state == nullptr || node == nullptr) continue;
      TellOfNode(*state);
      Put(Family::kRecords, absl::StrCat(kCoreNodePrefix, name), EncodeNode(*state, *node));
    }
    for (const std::string& name : holders_) {
      const NodeState* state = core().FindNode(name);
      if (state == nullptr) continue;
      Put(Family::kRecords, absl::StrCat(kCoreHoldersPrefix, name),
          EncodeHolders(HoldersOf(core(), *state)));
    }
    EndRequest(true);
    StageAudit();
    StageEvents();
  }

  Transaction transaction() const {
    Transaction transaction;
    for (const auto& [key, value] : turn_)
      transaction.writes.push_back({key.first, key.second, value});
    return transaction;
  }
  void Send(int64_t revision) const {
    engine_.audit_sequence_ = audit_sequence_;
    engine_.audit_hash_ = audit_hash_;
    if (revision > 0) engine_.output_.OnCommitted(revision);
    for (const std::string& node : desired_) engine_.output_.OnDesiredChanged(node);
    for (const PublishCall& call : calls_) engine_.output_.OnPublish(call);
  }

 private:
  using Staged = std::map<std::pair<Family, std::string>, std::optional<std::string>>;

  void TellOfNode(const NodeState& state) {
    const absl::StatusOr<Record> stored =
        engine_.store_.Get(Family::kRecords, absl::StrCat(kCoreNodePrefix, state.name));
    bool alive = false;
    if (stored.ok()) {
      const auto before = DecodeNode(stored->value);
      alive = before.ok() && before->first.alive;
    }
    if (alive == state.alive) return;
    Emit({.type = state.alive     ? "node.ready"
                  : state.leaving ? "node.left"
                                  : "node.lost",
          .resource = absl::StrCat("nodes/", state.name),
          .message = state.alive     ? "its worker has registered"
                     : state.leaving ? "its worker has shut down"
                                     : "its lease has ended"});
  }

  void StageQueues(const Event& event) {
    if (const auto* put = std::get_if<QueuePut>(&event)) {
      Put(Family::kRecords, absl::StrCat(kCoreQueuePrefix, put->queue.name),
          EncodeQueue(put->queue));
    } else if (const auto* removed = std::get_if<QueueRemoved>(&event)) {
      Remove(Family::kRecords, absl::StrCat(kCoreQueuePrefix, removed->queue));
    }
  }

  void StageAudit() {
    audit_sequence_ = engine_.audit_sequence_;
    audit_hash_ = engine_.audit_hash_;
    if (audit_.empty()) return;
    for (const AuditEntry& entry : audit_) {
      Json json = Json::MakeObject();
      json.Set("time_us", absl::ToUnixMicros(now_)).Set("who", entry.principal);
      json.Set("method", entry.method).Set("resource", entry.resource).Set("text", entry.text);
      if (!entry.change_json.empty()) json.Set("change", entry.change_json);
      if (!entry.request_id.empty()) json.Set("request", entry.request_id);
      json.Set("revision", revision());
      const std::string body = json.Dump();
      audit_hash_ = AuditHash(audit_hash_, body);
      turn_[{Family::kAudit, BigEndian(++audit_sequence_)}] = absl::StrCat(audit_hash_, body);
    }
    turn_[{Family::kAudit, std::string(kAuditHeadKey)}] =
        absl::StrCat(BigEndian(audit_sequence_), audit_hash_);
  }

  void StageEvents() {
    uint32_t index = 0;
    for (const EventEntry& entry : events_) {
      Json json = Json::MakeObject();
      json.Set("time_us", absl::ToUnixMicros(now_)).Set("type", entry.type);
      json.Set("resource", entry.resource).Set("actor", entry.actor);
      json.Set("reason", entry.reason).Set("message", entry.message);
      turn_[{Family::kEvents, absl::StrCat(BigEndian(static_cast<uint64_t>(revision())),
                                           BigEndian(index++).substr(4))}] = json.Dump();
    }
  }

  Engine& engine_;
  const absl::Time now_;
  Staged turn_;
  Staged request_;
  std::vector<AuditEntry> request_audit_;
  std::vector<AuditEntry> audit_;
  std::vector<EventEntry> request_events_;
  std::vector<EventEntry> events_;
  bool stepped_ = false;
  bool pass_wanted_ = false;
  absl::btree_set<JobKey> jobs_;
  absl::btree_set<std::string> nodes_;
  absl::btree_set<std::string> holders_;  // nodes where they have changed
  absl::btree_set<std::string> desired_;
  std::vector<PublishCall> calls_;
  uint64_t audit_sequence_ = 0;
  std::string audit_hash_;
};

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(Store& store, EngineOutput& output,
                                                     CoreOptions options, absl::Time now) {
  GRAFT_RETURN_IF_ERROR(BringForward(store));
  auto engine = std::unique_ptr<Engine>(new Engine(store, output, options));
  GRAFT_RETURN_IF_ERROR(engine->Rebuild(now));
  return engine;
}

absl::Status Engine::Rebuild(absl::Time now) {
  GRAFT_ASSIGN_OR_RETURN(auto jobs, LoadAll<Job>(store_, kCoreJobPrefix, DecodeJob));
  using NodePair = std::pair<NodeState, Node>;
  GRAFT_ASSIGN_OR_RETURN(auto nodes, LoadAll<NodePair>(store_, kCoreNodePrefix, DecodeNode));
  GRAFT_ASSIGN_OR_RETURN(auto queues, LoadAll<Queue>(store_, kCoreQueuePrefix, DecodeQueue));
  const absl::StatusOr<Record> before = store_.Get(Family::kRecords, kIncarnationKey);
  options_.incarnation = before.ok() ? std::stoll(before->value) + 1 : 1;
  const absl::StatusOr<Record> head = store_.Get(Family::kAudit, kAuditHeadKey);
  audit_sequence_ = head.ok() ? FromBigEndian(head->value) : 0;
  audit_hash_ = head.ok() ? head->value.substr(8) : "";

  core_ = std::make_unique<Core>(options_);
  TurnImpl turn(*this, now);
  turn.Take(core_->Restore(std::move(jobs), std::move(nodes), std::move(queues), now));
  turn.Put(Family::kRecords, kIncarnationKey, absl::StrCat(options_.incarnation));
  turn.Close();
  return CommitAndSend(turn);
}

absl::Status Engine::CommitAndSend(TurnImpl& turn) {
  const Transaction transaction = turn.transaction();
  int64_t revision = 0;
  if (!transaction.empty()) {
    absl::StatusOr<int64_t> committed = store_.Commit(transaction);
    healthy_ = committed.ok();
    if (!committed.ok()) return committed.status();
    revision = *committed;
  }
  healthy_ = true;
  turn.Send(revision);
  return absl::OkStatus();
}

void Engine::Run(std::vector<Request> requests, absl::Time now) {
  const auto answer = [&requests](const std::vector<absl::Status>& statuses, int64_t revision) {
    for (size_t i = 0; i < requests.size(); ++i) {
      if (requests[i].done) requests[i].done(statuses[i], revision);
    }
  };
  if (!healthy_) {
    absl::Status status = store_.Recover();
    if (status.ok()) status = Rebuild(now);
    if (!status.ok()) {
      const absl::Status refused = absl::UnavailableError(
          absl::StrCat("the scheduler's store takes no writes: ", status.message()));
      return answer(std::vector<absl::Status>(requests.size(), refused), 0);
    }
  }
  TurnImpl turn(*this, now);
  std::vector<absl::Status> statuses;
  statuses.reserve(requests.size());
  for (Request& request : requests) {
    statuses.push_back(request.work(turn));
    turn.EndRequest(statuses.back().ok());
  }
  turn.Close();
  const absl::Status committed = CommitAndSend(turn);
  if (!committed.ok()) {
    for (absl::Status& status : statuses) {
      if (status.ok()) status = committed;
    }
  }
  answer(statuses, store_.revision());
}

absl::StatusOr<AuditRecord> ReadAuditRecord(const Store& store, uint64_t sequence) {
  GRAFT_ASSIGN_OR_RETURN(const Record record, store.Get(Family::kAudit, BigEndian(sequence)));
  if (record.value.size() < kHashSize) {
    return absl::DataLossError(absl::StrCat("audit entry ", sequence, " is cut"));
  }
  absl::StatusOr<Json> body = Json::Parse(absl::string_view(record.value).substr(kHashSize));
  if (!body.ok()) {
    return absl::DataLossError(absl::StrCat("audit entry ", sequence, " cannot be read"));
  }
  return AuditRecord{sequence, record.value.substr(0, kHashSize), *std::move(body)};
}

uint64_t LastAuditSequence(const Store& store) {
  const absl::StatusOr<Record> head = store.Get(Family::kAudit, kAuditHeadKey);
  return head.ok() ? FromBigEndian(head->value) : 0;
}

absl::StatusOr<AuditChain> CheckAuditChain(const Store& store, uint64_t first, uint64_t last) {
  const absl::StatusOr<Record> head = store.Get(Family::kAudit, kAuditHeadKey);
  const uint64_t newest = head.ok() ? FromBigEndian(head->value) : 0;
  last = last == 0 ? newest : std::min(last, newest);
  first = std::max<uint64_t>(first, 1);
  AuditChain chain;
  if (first > 1) {
    GRAFT_ASSIGN_OR_RETURN(const AuditRecord before, ReadAuditRecord(store, first - 1));
    chain.hash = before.hash;
  }
  ListRequest request{.family = Family::kAudit, .after = BigEndian(first - 1), .limit = kPage};
  uint64_t expected = first;
  for (bool more = true; more && expected <= last;) {
    GRAFT_ASSIGN_OR_RETURN(const ListResult page, store.List(request));
    for (const Record& record : page.records) {
      request.after = record.key;
      if (expected > last || record.key == kAuditHeadKey) break;
      const uint64_t sequence = FromBigEndian(record.key);
      if (sequence != expected || record.value.size() < kHashSize) break;
      const absl::string_view value = record.value;
      chain.hash = AuditHash(chain.hash, value.substr(kHashSize));
      if (value.substr(0, kHashSize) != chain.hash) {
        return absl::DataLossError(absl::StrCat("audit entry ", sequence, " was changed"));
      }
      ++expected;
      ++chain.checked;
    }
    more = page.more;
    if (expected <= last && request.after != BigEndian(expected - 1)) break;  // a gap
  }
  if (expected <= last) {
    return absl::DataLossError(absl::StrCat("audit entry ", expected, " is missing"));
  }
  const std::string stored = head.ok() ? head->value.substr(8) : "";
  if (last == newest && stored != chain.hash && newest > 0) {
    return absl::DataLossError("the audit trail ends before its head");
  }
  // Nothing may stand behind the head either.
  request.after = BigEndian(newest);
  GRAFT_ASSIGN_OR_RETURN(const ListResult behind, store.List(request));
  for (const Record& record : behind.records) {
    if (record.key != kAuditHeadKey) {
      return absl::DataLossError("the audit trail goes on behind its head");
    }
  }
  return chain;
}

absl::StatusOr<int64_t> CheckRecords(const Store& store) {
  GRAFT_RETURN_IF_ERROR(LoadAll<Job>(store, kCoreJobPrefix, DecodeJob).status());
  using NodePair = std::pair<NodeState, Node>;
  GRAFT_RETURN_IF_ERROR(LoadAll<NodePair>(store, kCoreNodePrefix, DecodeNode).status());
  GRAFT_RETURN_IF_ERROR(LoadAll<Queue>(store, kCoreQueuePrefix, DecodeQueue).status());
  int64_t count = 0;
  ListRequest request{.limit = kPage};
  for (bool more = true; more;) {
    GRAFT_ASSIGN_OR_RETURN(const ListResult page, store.List(request));
    count += static_cast<int64_t>(page.records.size());
    more = page.more;
    if (more) request.after = page.records.back().key;
  }
  return count;
}

absl::Status MarkRestored(Store& store) {
  constexpr int64_t kLivesSinceTheBackup = 1'000'000;  // no store is opened as often in its days
  const absl::StatusOr<Record> before = store.Get(Family::kRecords, kIncarnationKey);
  const int64_t incarnation = before.ok() ? std::stoll(before->value) : 0;
  return store
      .Commit({.writes = {{Family::kRecords, std::string(kIncarnationKey),
                           absl::StrCat(incarnation + kLivesSinceTheBackup)}}})
      .status();
}

}  // namespace graft::scheduler
