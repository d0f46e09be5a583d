// graft top and graft usage: who holds the devices, who waits, and who used how much.
#include <time.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/interrupt.h"
#include "client/cli/job_view.h"
#include "client/cli/resources.h"
#include "client/graft/job_file.h"
#include "graft/v1/usage.grpc.pb.h"

namespace graft::cli {
namespace {

constexpr absl::Duration kTopRefresh = absl::Seconds(2);
constexpr Style kJobStyles[] = {Style::kGreen, Style::kBlue, Style::kCyan, Style::kYellow};

// "workspaces/w/jobs/j" of an attempt's or session's name.
std::string HolderOf(const std::string& attempt) {
  const size_t end = attempt.find("/attempts/");
  return attempt.substr(0, end);
}

// Letters for those who hold devices, in the order in which they are met.
class Letters {
 public:
  char Of(const std::string& holder) {
    const auto [it, inserted] = index_.emplace(holder, order_.size());
    if (inserted) order_.push_back(holder);
    constexpr absl::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    return kLetters[it->second % kLetters.size()];
  }
  Style StyleOf(const std::string& holder) const {
    return kJobStyles[index_.at(holder) % std::size(kJobStyles)];
  }
  const std::vector<std::string>& order() const { return order_; }

 private:
  std::map<std::string, size_t> index_;
  std::vector<std::string> order_;
};

std::string DeviceMap(const Terminal& terminal, const v1::Node& node, Letters& letters) {
  std::string out;
  for (const v1::Device& device : node.devices()) {
    if (!device.attempt().empty()) {
      const std::string holder = HolderOf(device.attempt());
      const std::string letter(1, letters.Of(holder));
      absl::StrAppend(&out, terminal.Paint(letters.StyleOf(holder), letter));
    } else if (device.health() == v1::Device::HEALTH_FOREIGN) {
      absl::StrAppend(&out, terminal.Paint(Style::kYellow, "#"));
    } else if (device.health() == v1::Device::HEALTH_FAULTY) {
      absl::StrAppend(&out, terminal.Paint(Style::kRed, "!"));
    } else {
      absl::StrAppend(&out, terminal.Paint(Style::kDim, "."));
    }
  }
  return out;
}

std::string NodeRows(const Terminal& terminal, const std::vector<v1::Node>& nodes,
                     Letters& letters) {
  Table table({"NODE", "DEVICES", "BUSY", "MEMORY", "STATE"});
  table.AlignRight(2);
  table.AlignRight(3);
  for (const v1::Node& node : nodes) {
    double busy = 0;
    int64_t used = 0, known = 0;
    for (const v1::Device& device : node.devices()) {
      if (device.has_utilisation()) {
        busy += device.utilisation();
        ++known;
      }
      used += device.memory_used_bytes();
    }
    table.Add(
        {ShortName(node.name()), DeviceMap(terminal, node, letters),
         known > 0 ? absl::StrFormat("%.0f %%", 100 * busy / static_cast<double>(known)) : "-",
         used > 0 ? FormatBytes(used) : "-", NodeState(terminal, node)});
  }
  return table.Render(terminal);
}

std::string HolderRows(const Terminal& terminal, const std::vector<v1::Job>& jobs,
                       Letters& letters) {
  if (letters.order().empty()) return "";
  Table table({"", "HELD BY", "OWNER", "STATE", "STEPS", "ENDS AT"});
  table.AlignRight(4);
  for (const std::string& holder : letters.order()) {
    const std::string letter =
        terminal.Paint(letters.StyleOf(holder), std::string(1, letters.Of(holder)));
    const auto job = std::find_if(jobs.begin(), jobs.end(),
                                  [&](const v1::Job& one) { return one.name() == holder; });
    if (job == jobs.end()) {
      table.Add({letter, Sanitize(holder), "-", "-", "-", "-"});
      continue;
    }
    const v1::JobProgress& progress = job->status().progress();
    table.Add({letter, Sanitize(holder), ShortName(job->creator()),
               JobStateWord(job->status().state()),
               absl::StrCat(progress.steps_done(), "/", progress.steps_total()),
               progress.eta().seconds() > 0
                   ? ClockTime(absl::Now() + absl::Seconds(progress.eta().seconds()))
                   : "-"});
  }
  return "\n" + table.Render(terminal);
}

constexpr int kMostWaiting = 20;  // of each queue

// Who waits, queue by queue in their order; of workspaces that the caller does not see, that
// someone does.
absl::StatusOr<std::string> QueueRows(const Terminal& terminal, client::Client& client,
                                      const std::vector<v1::Job>& jobs) {
  std::map<std::string, const v1::Job*> known;
  for (const v1::Job& job : jobs) known[job.name()] = &job;
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Queue> queues,
                         AllPages(client, client.queues(), &v1::QueueService::Stub::ListQueues,
                                  v1::ListQueuesRequest(), &v1::ListQueuesResponse::queues));
  Table table({"WAITS", "QUEUE", "JOB", "OWNER", "STARTS", "WHY"});
  table.AlignRight(0);
  bool any = false;
  for (const v1::Queue& queue : queues) {
    if (queue.status().queued_jobs() == 0) continue;
    any = true;
    v1::ListQueueEntriesRequest request;
    request.set_parent(queue.name());
    request.set_page_size(kMostWaiting);
    GRAFT_ASSIGN_OR_RETURN(const auto page,
                           client.Call<v1::ListQueueEntriesResponse>(
                               client.queues(), &v1::QueueService::Stub::ListQueueEntries, request,
                               {.idempotent = true}));
    for (const v1::QueueEntry& entry : page.entries()) {
      const auto found = known.find(entry.job());
      const v1::Job* job = found == known.end() ? nullptr : found->second;
      table.Add({absl::StrCat(entry.position()), ShortName(queue.name()),
                 entry.job().empty() ? "-" : Sanitize(entry.job()),
                 job == nullptr ? "-" : ShortName(job->creator()),
                 entry.has_expected_start_time() ? ClockTime(entry.expected_start_time()) : "-",
                 job == nullptr ? WordOf(v1::Explanation::Code_Name(entry.cause()), "CODE_")
                                : CutToWidth(Sanitize(job->status().message()), 60)});
    }
  }
  return any ? "\n" + table.Render(terminal) : "";
}

absl::StatusOr<std::string> Picture(const Terminal& terminal, client::Client& client) {
  GRAFT_ASSIGN_OR_RETURN(std::vector<v1::Node> nodes, FetchNodes(client));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, FetchLiveJobs(client));
  GRAFT_RETURN_IF_ERROR(FillHolders(client, jobs, nodes));
  Letters letters;
  const std::string map = NodeRows(terminal, nodes, letters);
  GRAFT_ASSIGN_OR_RETURN(const std::string waiting, QueueRows(terminal, client, jobs));
  return absl::StrCat(map, HolderRows(terminal, jobs, letters), waiting);
}

absl::Status Top(Invocation& invocation) {
  bool once = false;
  invocation.flags.Bool("once", &once, "print it once and leave");
  GRAFT_RETURN_IF_ERROR(invocation.Parse(
      "graft top [--once]\n\n"
      "Each node's devices: a letter for who holds it, . free, # in use by others' processes, ! "
      "faulty."));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  if (invocation.format() != OutputFormat::kTable && invocation.format() != OutputFormat::kWide) {
    GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Node> nodes, FetchNodes(*client));
    return invocation.PrintList(Messages(nodes), [] { return std::string(); });
  }
  const InterruptGuard guard;
  absl::Status status;
  while (!InterruptGuard::interrupted()) {
    const absl::StatusOr<std::string> picture = Picture(invocation.out, *client);
    status = picture.status();
    if (!status.ok()) break;
    const bool live = invocation.out.is_terminal && !once;
    invocation.Write(absl::StrCat(live ? "\x1b[H\x1b[2J" : "", *picture));
    fflush(stdout);
    if (!live) break;
    timespec pause = absl::ToTimespec(kTopRefresh);
    nanosleep(&pause, nullptr);  // Ctrl-C ends it early
  }
  return status;
}

void AddUsage(const v1::UsageRow& row, std::vector<std::string> cells, Table& table) {
  const v1::JobUsage& usage = row.usage();
  const double share =
      usage.gpu_seconds() > 0 ? 100 * usage.gpu_busy_seconds() / usage.gpu_seconds() : 0;
  cells.insert(cells.end(),
               {absl::StrCat(row.jobs()), absl::StrFormat("%.2f", usage.gpu_seconds() / 3600),
                usage.gpu_busy_seconds() > 0 ? absl::StrFormat("%.0f %%", share) : "-",
                absl::StrFormat("%.2f", usage.queued_seconds() / 3600),
                absl::StrFormat("%.2f", usage.lost_seconds() / 3600), FormatCount(row.tokens())});
  table.Add(std::move(cells));
}

absl::Status ShowUsage(Invocation& invocation) {
  std::string by = "workspace";
  int64_t days = 30;
  invocation.flags.String("by", &by, "A,B",
                          "workspace, user, queue, project, job, product, day; several in order");
  invocation.flags.Int("days", &days, "N", "of the last N days");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft usage [--by workspace,user] [--days 30]"));
  if (days < 1) return absl::InvalidArgumentError("--days must be at least 1");
  v1::QueryUsageRequest request;
  GRAFT_RETURN_IF_ERROR(client::SetField("group_by", absl::StrCat("[", by, "]"), request));
  request.mutable_start_time()->set_seconds(absl::ToUnixSeconds(absl::Now()) - days * 86400);
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  request.set_parent(invocation.flags.Given("workspace") ? client->workspace() : "workspaces/-");
  const auto stub = v1::UsageService::NewStub(client->connection().channel());
  v1::QueryUsageResponse all;
  do {
    request.set_page_size(kPageSize);
    GRAFT_ASSIGN_OR_RETURN(const auto page, client->Call<v1::QueryUsageResponse>(
                                                *stub, &v1::UsageService::Stub::QueryUsage, request,
                                                {.idempotent = true}));
    request.set_page_token(page.next_page_token());
    all.MergeFrom(page);
    *all.mutable_total() = page.total();
  } while (!request.page_token().empty());
  all.clear_next_page_token();
  return invocation.Print(all, [&] {
    std::vector<std::string> header;
    for (absl::string_view word : absl::StrSplit(by, ',')) {
      header.push_back(absl::AsciiStrToUpper(word));
    }
    const size_t keys = header.size();
    header.insert(header.end(),
                  {"JOBS", "DEVICE HOURS", "BUSY", "QUEUED HOURS", "LOST HOURS", "TOKENS"});
    Table table(header);
    for (size_t column = keys; column < header.size(); ++column) table.AlignRight(column);
    for (const v1::UsageRow& row : all.rows()) {
      std::vector<std::string> cells;
      for (const std::string& key : row.keys()) cells.push_back(Sanitize(key));
      AddUsage(row, std::move(cells), table);
    }
    std::vector<std::string> total(keys);
    total[0] = "all";
    AddUsage(all.total(), std::move(total), table);
    return table.Render(invocation.out);
  });
}

}  // namespace

const std::vector<Command>& ViewCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"top", "who holds which device, and who waits", Top},
      {"usage", "device hours, queueing and tokens, by whatever divides them", ShowUsage},
  };
  return commands;
}

}  // namespace graft::cli
