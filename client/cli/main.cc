// graft: the command line.
#include <signal.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#include "client/cli/command.h"
#include "rpc/nearest_name.h"
#include "rpc/status.h"

namespace graft::cli {
namespace {

// Exit codes, as `graft help exit-codes` lists them.
enum ExitCode {
  kOk = 0,
  kFailed = 1,
  kUsage = 2,
  kNotFound = 3,
  kUnreachable = 4,
  kDenied = 5,
  kConflict = 6,
  kJobFailed = 10,
};

constexpr absl::string_view kExitCodes =
    "  0  done\n"
    "  1  failed for another reason than those below\n"
    "  2  the command line or a file is wrong\n"
    "  3  what was named is not there\n"
    "  4  the server cannot be reached\n"
    "  5  not allowed, or not signed in\n"
    "  6  it exists already, or its state forbids this\n"
    " 10  the job that was waited for failed or was cancelled\n";

void PrintHelp() {
  const Terminal terminal = Terminal::Of(1);
  std::string text = absl::StrCat(terminal.Paint(Style::kBold, "graft"),
                                  " fine-tunes open language models on your own machines.\n\n");
  size_t width = 0;
  for (const Command* command : AllCommands())
    width = std::max(width, absl::string_view(command->name).size());
  for (const Command* command : AllCommands()) {
    const absl::string_view name = command->name;
    if (*command->summary == '\0') continue;
    absl::StrAppend(&text, "  graft ", name, std::string(width - name.size() + 2, ' '),
                    command->summary, "\n");
  }
  absl::StrAppend(&text,
                  "\n`graft COMMAND --help` lists a command's flags; `graft help exit-codes` the "
                  "exit codes.\n");
  fputs(text.c_str(), stdout);
}

int CodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return kUsage;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kUnreachable;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return kDenied;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
      return kConflict;
    case absl::StatusCode::kAborted:
      return kJobFailed;
    default:
      return kFailed;
  }
}

// "`graft job list` shows what is there", where the command's first word has such a list.
std::string ListHint(const Command* command) {
  if (command == nullptr) return "";
  const std::string list =
      absl::StrCat(std::string(command->name, strcspn(command->name, " ")), " list");
  for (const Command* one : AllCommands()) {
    if (one->name == list) return absl::StrCat("`graft ", list, "` shows what is there");
  }
  return "";
}

std::string HintFor(const absl::Status& status, const Command* command) {
  if (const std::string hint = HintOf(status); !hint.empty()) return hint;
  if (absl::StrContains(status.message(), '`')) return "";  // it names the next command itself
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
      return ListHint(command);
    case absl::StatusCode::kUnavailable:
      return "is the server running? `graft status` tells, `graft up` starts one on this machine";
    case absl::StatusCode::kUnauthenticated:
      return "`graft context list` shows which token is used";
    case absl::StatusCode::kInvalidArgument:
      return command == nullptr
                 ? "`graft help` lists the commands"
                 : absl::StrCat("`graft ", command->name, " --help` lists its flags");
    default:
      return "";
  }
}

int Report(const absl::Status& status, const Command* command) {
  if (status.ok() || absl::IsCancelled(status)) return kOk;
  fflush(stdout);  // what was printed stands before what is said of it
  const Terminal terminal = Terminal::Of(2);
  std::string text = absl::StrCat(terminal.Paint(Style::kRed, "error:"), " ",
                                  Sanitize(rpc::DescribeError(status), true), "\n");
  if (const std::string hint = HintFor(status, command); !hint.empty()) {
    absl::StrAppend(&text, terminal.Paint(Style::kCyan, "hint:"), "  ", hint, "\n");
  }
  fputs(text.c_str(), stderr);
  return CodeOf(status);
}

// The command with the most words that the line begins with.
const Command* Find(const std::vector<std::string>& words, size_t& used) {
  const Command* best = nullptr;
  for (const Command* command : AllCommands()) {
    const std::vector<std::string> name = absl::StrSplit(command->name, ' ');
    if (name.size() > words.size() || name.size() <= (best == nullptr ? 0 : used)) continue;
    if (!std::equal(name.begin(), name.end(), words.begin())) continue;
    best = command;
    used = name.size();
  }
  return best;
}

int Unknown(const std::vector<std::string>& words) {
  if (absl::StartsWith(words[0], "-")) {
    return Report(absl::InvalidArgumentError(
                      absl::StrCat(words[0],
                                   " stands before the command; flags follow it: `graft "
                                   "job list ",
                                   words[0], " ...`")),
                  nullptr);
  }
  std::vector<std::string> names, below;
  for (const Command* command : AllCommands()) {
    if (*command->summary == '\0') continue;
    names.push_back(command->name);
    absl::string_view rest = names.back();
    if (absl::ConsumePrefix(&rest, words[0] + " ")) below.emplace_back(rest);
  }
  if (!below.empty()) {
    return Report(absl::InvalidArgumentError(absl::StrCat(
                      "`graft ", words[0], "` needs one of: ", absl::StrJoin(below, ", "))),
                  nullptr);
  }
  const std::string written = words.size() > 1 ? absl::StrCat(words[0], " ", words[1]) : words[0];
  return Report(absl::InvalidArgumentError(absl::StrCat("unknown command \"", written, "\"",
                                                        rpc::DidYouMean(written, names))),
                nullptr);
}

int Main(const std::vector<std::string>& args) {
  if (args.empty() || args[0] == "help" || args[0] == "--help" || args[0] == "-h") {
    if (args.size() > 1 && args[1] == "exit-codes") {
      fputs(std::string(kExitCodes).c_str(), stdout);
    } else {
      PrintHelp();
    }
    return kOk;
  }
  size_t used = 0;
  const Command* command = Find(args, used);
  if (command == nullptr) return Unknown(args);
  Invocation invocation(
      absl::StrCat("graft ", command->name),
      std::vector<std::string>(args.begin() + static_cast<ptrdiff_t>(used), args.end()));
  return Report(command->run(invocation), command);
}

}  // namespace
}  // namespace graft::cli

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  graft::ConfigureLog(graft::LogLevel::kWarning, graft::LogFormat::kText, "graft");
  return graft::cli::Main(std::vector<std::string>(argv + 1, argv + argc));
}
