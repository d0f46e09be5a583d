// graft doctor: what a job would need of this machine and of the server, and what is missing.
#include <sys/statvfs.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/embedded.h"
#include "worker/device/inventory.h"
#include "worker/device/machine.h"

namespace graft::cli {
namespace {

// A LoRA of the quickstart's model and its inputs fit into it.
constexpr int64_t kLittleDisk = 5'000'000'000;
constexpr int64_t kLittleMemory = 3'000'000'000;
// Tokens are valid by the server's clock; more than this makes logs hard to read together.
constexpr absl::Duration kClockSlack = absl::Seconds(30);

enum class Verdict { kOk, kWarn, kFail };

struct Finding {
  std::string name;
  Verdict verdict = Verdict::kOk;
  std::string detail;
  std::string hint;
};

void CheckPrograms(std::vector<Finding>& out) {
  std::vector<std::string> missing;
  for (const char* program : {"graft-scheduler", "graft-fileservice", "graft-worker",
                              "graft-trainer", "graft-validate"}) {
    if (!FileExists(BesideThisProgram(program))) missing.push_back(program);
  }
  if (missing.empty()) {
    out.push_back({"programs", Verdict::kOk, "all beside graft", ""});
  } else {
    out.push_back({"programs", Verdict::kWarn,
                   absl::StrCat("missing: ", absl::StrJoin(missing, ", ")),
                   "`graft up` needs them; a client of another server does not"});
  }
}

void CheckMachine(std::vector<Finding>& out) {
  const device::Inventory machine = device::ReadMachine();
  const int64_t available = device::AvailableMemoryBytes();
  out.push_back({"cpu", Verdict::kOk, absl::StrCat(machine.cpus, " cores"), ""});
  out.push_back(
      {"memory", available < kLittleMemory ? Verdict::kWarn : Verdict::kOk,
       absl::StrCat(FormatBytes(available), " free of ", FormatBytes(machine.memory_bytes)),
       available < kLittleMemory ? "a model of 135M parameters takes about 2 GB" : ""});
  std::string folder = EmbeddedHome();
  while (!FileExists(folder) && folder.rfind('/') > 0) folder.resize(folder.rfind('/'));
  struct statvfs info = {};
  if (statvfs(folder.c_str(), &info) != 0) return;
  const int64_t free = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  out.push_back({"disk", free < kLittleDisk ? Verdict::kWarn : Verdict::kOk,
                 absl::StrCat(FormatBytes(free), " free at ", folder),
                 free < kLittleDisk ? "GRAFT_HOME names another disk" : ""});
}

void CheckGpu(const device::Device& gpu, std::vector<Finding>& out) {
  Finding finding{absl::StrCat("gpu ", gpu.index), Verdict::kOk,
                  absl::StrCat(gpu.product, ", ", FormatBytes(gpu.memory_free_bytes), " free of ",
                               FormatBytes(gpu.memory_bytes)),
                  ""};
  if (!gpu.healthy) {
    finding.verdict = Verdict::kFail;
    absl::StrAppend(&finding.detail, ", ", gpu.health_reason);
    finding.hint = "it is kept out of use until the driver has been loaded anew";
  } else if (!gpu.foreign.empty()) {
    finding.verdict = Verdict::kWarn;
    absl::StrAppend(&finding.detail, ", in use by ",
                    absl::StrJoin(gpu.foreign, ", ",
                                  [](std::string* text, const device::ForeignProcess& process) {
                                    absl::StrAppend(text, "pid ", process.pid, " (", process.user,
                                                    ")");
                                  }));
    finding.hint = "nothing is placed on it while others use it; `graft up --gpus` picks devices";
  }
  out.push_back(std::move(finding));
}

void CheckGpus(std::vector<Finding>& out) {
  const auto nvml = device::NvmlDevices();
  if (!nvml.ok()) {
    const bool none = absl::IsNotFound(nvml.status());
    out.push_back(
        {"driver", none ? Verdict::kOk : Verdict::kFail,
         none ? "no NVIDIA driver: training runs on the CPU" : std::string(nvml.status().message()),
         none ? "" : "`nvidia-smi` should work first"});
    return;
  }
  const absl::StatusOr<device::Inventory> inventory = (*nvml)->Read();
  if (!inventory.ok()) {
    out.push_back({"driver", Verdict::kFail, std::string(inventory.status().message()), ""});
    return;
  }
  out.push_back({"driver", Verdict::kOk,
                 absl::StrCat("NVIDIA, ", inventory->devices.size(), " devices"), ""});
  for (const device::Device& gpu : inventory->devices) CheckGpu(gpu, out);
  const bool plugin = FileExists(BesideThisProgram("libgraft_cuda.so")) ||
                      FileExists(BesideThisProgram("../lib/libgraft_cuda.so"));
  out.push_back({"cuda", plugin ? Verdict::kOk : Verdict::kWarn,
                 plugin ? "libgraft_cuda.so is there" : "this build has no libgraft_cuda.so",
                 plugin ? "" : "deploy/deps.sh --cuda fetches what it is built with"});
}

void CheckNodes(client::Client& client, std::vector<Finding>& out) {
  const auto nodes =
      client.Call<v1::ListNodesResponse>(client.nodes(), &v1::NodeService::Stub::ListNodes,
                                         v1::ListNodesRequest(), {.deadline = absl::Seconds(3)});
  if (!nodes.ok()) {
    out.push_back({"nodes", Verdict::kFail, std::string(nodes.status().message()), ""});
    return;
  }
  int ready = 0, devices = 0, faulty = 0;
  for (const v1::Node& node : nodes->nodes()) {
    if (node.state() != v1::Node::STATE_READY || node.has_cordon()) continue;
    ++ready;
    for (const v1::Device& device : node.devices()) {
      ++(device.health() == v1::Device::HEALTH_OK ? devices : faulty);
    }
  }
  out.push_back({"nodes", devices > 0 ? Verdict::kOk : Verdict::kFail,
                 absl::StrCat(ready, " of ", nodes->nodes_size(), " take jobs, ", devices,
                              " devices can be used", faulty > 0 ? ", " : "",
                              faulty > 0 ? absl::StrCat(faulty, " cannot") : ""),
                 devices > 0 ? "" : "`graft node list` says why"});
}

void CheckServer(Invocation& invocation, std::vector<Finding>& out) {
  const absl::StatusOr<client::Client*> client = invocation.Connect();
  if (!client.ok()) {
    out.push_back({"server", Verdict::kWarn, std::string(client.status().message()),
                   "`graft up` starts one on this machine"});
    return;
  }
  const absl::Time begin = absl::Now();
  const auto info =
      (*client)->Call<v1::ServerInfo>((*client)->server(), &v1::ServerService::Stub::GetServerInfo,
                                      v1::GetServerInfoRequest(), {.deadline = absl::Seconds(3)});
  if (!info.ok()) {
    out.push_back({"server", Verdict::kFail,
                   absl::StrCat((*client)->context().address, ": ", info.status().message()),
                   absl::IsUnavailable(info.status()) ? "`graft status` shows what runs here"
                                                      : "`graft context list` shows the token"});
    return;
  }
  const bool same = info->version() == GRAFT_VERSION;
  out.push_back(
      {"server", same ? Verdict::kOk : Verdict::kWarn,
       absl::StrFormat("%s at %s, answers in %.1f ms%s", info->version(),
                       (*client)->context().address,
                       absl::ToDoubleMilliseconds(absl::Now() - begin),
                       info->fake_trainer() ? ", with a FAKE trainer" : ""),
       same ? "" : absl::StrCat("this graft is ", GRAFT_VERSION, "; take the same version")});
  const absl::Duration apart =
      absl::AbsDuration(absl::Now() - absl::FromUnixSeconds(info->time().seconds()));
  if (apart > kClockSlack) {
    out.push_back({"clock", Verdict::kWarn,
                   absl::StrCat("the server's is ", HumanDuration(apart), " apart"),
                   "set both by NTP"});
  }
  CheckNodes(**client, out);
}

absl::Status Doctor(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft doctor"));
  std::vector<Finding> findings;
  CheckPrograms(findings);
  CheckMachine(findings);
  CheckGpus(findings);
  CheckServer(invocation, findings);
  constexpr const char* kWords[] = {"ok", "warn", "FAIL"};
  constexpr Style kStyles[] = {Style::kGreen, Style::kYellow, Style::kRed};
  Table table({"CHECK", "STATE", "FOUND"});
  Json list = Json::MakeArray();
  int failed = 0;
  for (const Finding& finding : findings) {
    const auto verdict = static_cast<size_t>(finding.verdict);
    failed += finding.verdict == Verdict::kFail ? 1 : 0;
    table.Add({finding.name, invocation.out.Paint(kStyles[verdict], kWords[verdict]),
               Sanitize(finding.detail)});
    if (!finding.hint.empty()) table.Add({"", "", absl::StrCat("hint: ", finding.hint)});
    Json one = Json::MakeObject();
    one.Set("name", finding.name).Set("state", absl::AsciiStrToLower(kWords[verdict]));
    one.Set("found", finding.detail).Set("hint", finding.hint);
    list.Append(std::move(one));
  }
  GRAFT_RETURN_IF_ERROR(invocation.PrintJson(list, [&] { return table.Render(invocation.out); }));
  if (failed == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(failed, " of these stand in the way of a job"));
}

}  // namespace

const std::vector<Command>& DoctorCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"doctor", "what this machine and the server have, and what is missing", Doctor},
  };
  return commands;
}

}  // namespace graft::cli
