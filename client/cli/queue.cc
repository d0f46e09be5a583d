// graft queue: the queues, what waits in them, and what they allow.
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/job_submit.h"
#include "client/cli/resources.h"

namespace graft::cli {
namespace {

constexpr char kPrefix[] = "queues/";

absl::StatusOr<std::string> QueueName(const Invocation& invocation) {
  GRAFT_ASSIGN_OR_RETURN(const std::string word, invocation.Word(0, "the QUEUE"));
  return absl::StartsWith(word, kPrefix) ? word : absl::StrCat(kPrefix, word);
}

std::string QueueTable(const Terminal& terminal, const std::vector<v1::Queue>& queues) {
  Table table(
      {"NAME", "STATE", "PRIORITY", "QUEUED", "RUNNING", "DEVICES", "WANTED", "DESCRIPTION"});
  for (size_t column : {2u, 3u, 4u, 5u, 6u}) table.AlignRight(column);
  for (const v1::Queue& queue : queues) {
    const v1::QueueStatus& status = queue.status();
    table.Add({ShortName(queue.name()), WordOf(v1::Queue::State_Name(queue.state()), "STATE_"),
               absl::StrCat(queue.priority()), absl::StrCat(status.queued_jobs()),
               absl::StrCat(status.running_jobs()), absl::StrCat(status.devices_used()),
               absl::StrCat(status.devices_wanted()), Sanitize(queue.description())});
  }
  return table.Render(terminal);
}

absl::Status ListQueues(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft queue list"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Queue> queues,
                         AllPages(*client, client->queues(), &v1::QueueService::Stub::ListQueues,
                                  v1::ListQueuesRequest(), &v1::ListQueuesResponse::queues));
  return invocation.PrintList(Messages(queues), [&] { return QueueTable(invocation.out, queues); });
}

std::string WaitingTable(const Terminal& terminal, const std::vector<v1::QueueEntry>& entries) {
  Table table({"PLACE", "JOB", "DEVICES", "PRIORITY", "WAITS FOR", "STARTS AT", "AGE"});
  for (size_t column : {0u, 2u, 3u}) table.AlignRight(column);
  for (const v1::QueueEntry& entry : entries) {
    table.Add({absl::StrCat(entry.position()), entry.job().empty() ? "-" : Sanitize(entry.job()),
               absl::StrCat(entry.devices()), absl::StrCat(entry.priority()),
               WordOf(v1::Explanation::Code_Name(entry.cause()), "CODE_"),
               entry.has_expected_start_time() ? ClockTime(entry.expected_start_time()) : "-",
               AgeOf(entry.queued_time())});
  }
  return table.Render(terminal);
}

absl::Status GetQueue(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft queue get QUEUE"));
  v1::GetQueueRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), QueueName(invocation));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(
      const auto queue, client->Call<v1::Queue>(client->queues(), &v1::QueueService::Stub::GetQueue,
                                                request, {.idempotent = true}));
  std::vector<v1::QueueEntry> entries;
  if (invocation.format() == OutputFormat::kTable || invocation.format() == OutputFormat::kWide) {
    v1::ListQueueEntriesRequest list;
    list.set_parent(queue.name());
    GRAFT_ASSIGN_OR_RETURN(
        entries, AllPages(*client, client->queues(), &v1::QueueService::Stub::ListQueueEntries,
                          list, &v1::ListQueueEntriesResponse::entries));
  }
  return invocation.Print(queue, [&] {
    std::string out = QueueTable(invocation.out, {queue});
    if (!entries.empty()) absl::StrAppend(&out, "\n", WaitingTable(invocation.out, entries));
    return out;
  });
}

constexpr char kSetHelp[] = "a field: priority=10, idle_policy.stop=true, shares=[{...}]";

absl::Status CreateQueue(Invocation& invocation) {
  std::vector<std::string> sets;
  invocation.flags.Strings("set", &sets, "PATH=VALUE", kSetHelp);
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft queue create NAME [--set PATH=VALUE ...]"));
  v1::CreateQueueRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_queue_id(), invocation.Word(0, "the NAME"));
  request.mutable_queue()->set_state(v1::Queue::STATE_OPEN);
  GRAFT_RETURN_IF_ERROR(ApplySets(sets, *request.mutable_queue()));
  request.set_request_id(NewRequestId());
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(
      const auto queue,
      client->Call<v1::Queue>(client->queues(), &v1::QueueService::Stub::CreateQueue, request,
                              {.idempotent = true}));
  return invocation.Print(queue,
                          [&] { return absl::StrCat("queue ", ShortName(queue.name()), "\n"); });
}

// Fields are replaced whole: the mask has the first part of each path.
absl::Status UpdateQueue(Invocation& invocation) {
  std::vector<std::string> sets, paths;
  invocation.flags.Strings("set", &sets, "PATH=VALUE", kSetHelp);
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft queue update QUEUE --set PATH=VALUE ..."));
  if (sets.empty()) return absl::InvalidArgumentError("--set is missing: what is to change");
  v1::GetQueueRequest get;
  GRAFT_ASSIGN_OR_RETURN(*get.mutable_name(), QueueName(invocation));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::UpdateQueueRequest request;
  GRAFT_ASSIGN_OR_RETURN(
      *request.mutable_queue(),
      client->Call<v1::Queue>(client->queues(), &v1::QueueService::Stub::GetQueue, get,
                              {.idempotent = true}));
  GRAFT_RETURN_IF_ERROR(ApplySets(sets, *request.mutable_queue(), &paths));
  for (const std::string& path : paths) {
    request.mutable_update_mask()->add_paths(path.substr(0, path.find('.')));
  }
  GRAFT_ASSIGN_OR_RETURN(
      const auto queue,
      client->Call<v1::Queue>(client->queues(), &v1::QueueService::Stub::UpdateQueue, request));
  return invocation.Print(queue, [&] { return QueueTable(invocation.out, {queue}); });
}

absl::Status DeleteQueue(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft queue delete QUEUE"));
  v1::DeleteQueueRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), QueueName(invocation));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_RETURN_IF_ERROR(client
                            ->Call<google::protobuf::Empty>(
                                client->queues(), &v1::QueueService::Stub::DeleteQueue, request)
                            .status());
  invocation.Say(absl::StrCat("deleted ", request.name()));
  return absl::OkStatus();
}

}  // namespace

const std::vector<Command>& QueueCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"queue list", "the queues, and how much waits in them", ListQueues},
      {"queue get", "one queue, and who waits in it", GetQueue},
      {"queue create", "make a queue", CreateQueue},
      {"queue update", "change what it allows", UpdateQueue},
      {"queue delete", "delete a queue that holds no jobs", DeleteQueue},
  };
  return commands;
}

}  // namespace graft::cli
