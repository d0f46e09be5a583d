#include "client/cli/help.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/cli/command.h"
#include "client/cli/terminal.h"
#include "rpc/nearest_name.h"

namespace graft::cli {
namespace {

// Exit codes, as main.cc gives them.
constexpr absl::string_view kExitCodes =
    "  0  done\n"
    "  1  failed for another reason than those below\n"
    "  2  the command line or a file is wrong\n"
    "  3  what was named is not there\n"
    "  4  the server cannot be reached\n"
    "  5  not allowed, or not signed in\n"
    "  6  it exists already, or its state forbids this\n"
    " 10  the job that was waited for failed or was cancelled\n";

constexpr absl::string_view kChoose =
    "What to try, from the cheapest to the dearest:\n"
    "\n"
    "  prompt       The model knows how, but not what you want: say it, with three examples.\n"
    "               `graft chat MODEL`, `graft complete MODEL -p TEXT`. No data, no device time.\n"
    "  retrieval    It lacks facts, or facts that change: look them up and put them in the "
    "prompt.\n"
    "               Training teaches form better than facts.\n"
    "  LoRA         It must keep a format, a tone or a narrow task. 100 to 10,000 rows; memory of\n"
    "               the model's weights and a tenth more. `graft lora MODEL DATASET`\n"
    "  all weights  A new language or domain, and LoRA is not enough. 2,000 rows and more; memory\n"
    "               of four to eight times the weights in bf16. `graft sft MODEL DATASET`\n"
    "  preferences  Right answers are easier to compare than to write: methods dpo, orpo, kto and\n"
    "               grpo of the contract; `graft job schema` tells which ones this server trains.\n"
    "\n"
    "  graft model fit MODEL          what this machine can train, with what length and batch\n"
    "  graft dataset check FILE       whether every row can be used\n"
    "  graft job estimate FILE        memory, disk and time, before anything starts\n"
    "  graft job compare JOB JOB      what a second try changed\n";

// Commands stand under the subject of their first word, in this order.
struct Subject {
  const char* title;
  std::vector<const char*> nouns;
};
const std::vector<Subject>& Subjects() {
  static const auto& subjects = *new std::vector<Subject>{
      {"this machine", {"up", "down", "status", "doctor", "version", "completion"}},
      {"models", {"model", "adapter", "chat", "complete"}},
      {"data", {"dataset", "fileset"}},
      {"training", {"lora", "sft", "job"}},
      {"the cluster", {"top", "usage", "node", "queue"}},
      {"access", {"workspace", "user", "grant", "token", "context"}},
  };
  return subjects;
}

std::vector<const Command*> CommandsOf(absl::string_view noun) {
  std::vector<const Command*> found;
  for (const Command* command : AllCommands()) {
    absl::string_view name = command->name;
    if (*command->summary == '\0' || !absl::ConsumePrefix(&name, noun)) continue;
    if (name.empty() || name[0] == ' ') found.push_back(command);
  }
  return found;
}

void AddLine(absl::string_view name, size_t width, absl::string_view summary, std::string& text) {
  absl::StrAppend(&text, "  ", name, std::string(width - name.size() + 2, ' '), summary, "\n");
}

// "job  create, list, ..." in lines that fit an eighty-column screen.
void AddVerbs(const char* noun, size_t width, const std::vector<const Command*>& commands,
              std::string& text) {
  constexpr size_t kColumns = 78;
  std::string line;
  absl::string_view name = noun;
  for (size_t i = 0; i < commands.size(); ++i) {
    std::string verb(commands[i]->name + std::string(noun).size() + 1);
    if (i + 1 < commands.size()) verb += ",";
    if (width + 4 + line.size() + 1 + verb.size() > kColumns) {
      AddLine(std::exchange(name, ""), width, line, text);
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", verb);
  }
  AddLine(name, width, line, text);
}

std::string Overview() {
  const Terminal terminal = Terminal::Of(1);
  size_t width = 0;
  for (const Subject& subject : Subjects()) {
    for (const char* noun : subject.nouns) width = std::max(width, std::string(noun).size());
  }
  std::string text = absl::StrCat(terminal.Paint(Style::kBold, "graft"),
                                  " fine-tunes open language models on your own machines.\n");
  for (const Subject& subject : Subjects()) {
    absl::StrAppend(&text, "\n", terminal.Paint(Style::kBold, subject.title), "\n");
    for (const char* noun : subject.nouns) {
      const std::vector<const Command*> commands = CommandsOf(noun);
      if (commands.size() == 1 && commands[0]->name == absl::string_view(noun)) {
        AddLine(noun, width, commands[0]->summary, text);
      } else if (!commands.empty()) {
        AddVerbs(noun, width, commands, text);
      }
    }
  }
  absl::StrAppend(
      &text,
      "\n`graft help job` tells what each verb of job does, `graft job create --help` its "
      "flags,\n`graft help choose` what to train, `graft help exit-codes` the exit codes.\n");
  return text;
}

}  // namespace

std::string HelpOfNoun(absl::string_view noun) {
  const std::vector<const Command*> commands = CommandsOf(noun);
  size_t width = 0;
  for (const Command* command : commands) {
    width = std::max(width, absl::string_view(command->name).size());
  }
  std::string text;
  for (const Command* command : commands) {
    absl::StrAppend(&text, "  graft ", command->name,
                    std::string(width - absl::string_view(command->name).size() + 2, ' '),
                    command->summary, "\n");
  }
  return text;
}

absl::Status PrintHelp(const std::vector<std::string>& topic) {
  std::string text;
  if (topic.empty()) {
    text = Overview();
  } else if (topic[0] == "exit-codes") {
    text = std::string(kExitCodes);
  } else if (topic[0] == "choose") {
    text = std::string(kChoose);
  } else if (text = HelpOfNoun(absl::StrJoin(topic, " ")); text.empty()) {
    std::vector<std::string> known = {"choose", "exit-codes"};
    for (const Subject& subject : Subjects()) {
      known.insert(known.end(), subject.nouns.begin(), subject.nouns.end());
    }
    return absl::InvalidArgumentError(
        absl::StrCat("there is no help on \"", topic[0], "\"", rpc::DidYouMean(topic[0], known)));
  }
  fputs(text.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace graft::cli
