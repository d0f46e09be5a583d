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
#include "client/cli/help.h"
#include "rpc/nearest_name.h"
#include "rpc/status.h"

namespace graft::cli {
namespace {

// Exit codes, as `graft help exit-codes` (help.cc) lists them.
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
      if (absl::StartsWith(status.message(), "job_id ")) return "a job's id is what --name gives";
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
  if (const std::string below = HelpOfNoun(words[0]); !below.empty()) {
    const std::string said = words.size() > 1
                                 ? absl::StrCat("there is no `graft ", words[0], " ", words[1], "`")
                                 : absl::StrCat("`graft ", words[0], "` needs a verb");
    return Report(absl::InvalidArgumentError(
                      absl::StrCat(said, "; there are:\n", absl::StripSuffix(below, "\n"))),
                  nullptr);
  }
  std::vector<std::string> nouns;
  for (const Command* command : AllCommands()) {
    nouns.emplace_back(command->name, strcspn(command->name, " "));
    if (nouns.size() > 1 && nouns.back() == nouns[nouns.size() - 2]) nouns.pop_back();
  }
  return Report(absl::InvalidArgumentError(absl::StrCat("unknown command \"", words[0], "\"",
                                                        rpc::DidYouMean(words[0], nouns))),
                nullptr);
}

int Main(const std::vector<std::string>& args) {
  if (args.empty() || args[0] == "help" || args[0] == "--help" || args[0] == "-h") {
    return Report(PrintHelp({args.empty() ? args.end() : args.begin() + 1, args.end()}), nullptr);
  }
  if (args.size() == 2 && (args[1] == "--help" || args[1] == "-h")) {
    // A command's own help, or that of all the commands below a noun.
    size_t words = 0;
    if (Find(args, words) == nullptr) return Report(PrintHelp({args[0]}), nullptr);
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
