// graft completion: words for the shell's TAB.
//
// The scripts ask `graft completion words -- WORD...` for what may stand in the place of the last
// word: the next word of a command's name, its flags, or names of the server's resources.
#include <algorithm>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "client/cli/command.h"

namespace graft::cli {
namespace {

constexpr absl::string_view kBash = R"sh(_graft() {
  local IFS=$'\n'
  COMPREPLY=($(graft completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  [ ${#COMPREPLY[@]} -gt 0 ] || compopt -o default
}
complete -F _graft graft
)sh";
constexpr absl::string_view kZsh = R"sh(#compdef graft
_graft() {
  local -a found
  found=(${(f)"$(graft completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
  (( ${#found} )) && compadd -a found || _files
}
compdef _graft graft
)sh";
constexpr absl::string_view kFish = R"sh(function __graft_words
  graft completion words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null
end
complete -c graft -a '(__graft_words)'
)sh";

// What a command's first word names, from the server.
void AddNames(const std::string& noun, std::set<std::string>& out) {
  static const auto& of_models =
      *new std::set<std::string>{"adapter", "chat", "complete", "lora", "sft"};
  const std::string list = absl::StrCat(of_models.contains(noun) ? "model" : noun, " list");
  for (const Command* command : AllCommands()) {
    if (command->name != list) continue;
    std::string text;
    Invocation asked(list, {"--output", "name"});
    asked.WriteTo(&text);
    // Without a server there are no names, and the shell goes on with files.
    if (!command->run(asked).ok()) return;
    for (absl::string_view name : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      out.insert(ShortName(name));
    }
  }
}

const Command* CommandOf(const std::vector<std::string>& words) {
  const Command* found = nullptr;
  for (const Command* command : AllCommands()) {
    const std::vector<std::string> name = absl::StrSplit(command->name, ' ');
    if (name.size() < words.size() && std::equal(name.begin(), name.end(), words.begin())) {
      found = command;
    }
  }
  return found;
}

absl::Status Words(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft completion words -- WORD..."));
  std::vector<std::string> words = invocation.flags.words();
  if (words.empty()) words.emplace_back();
  const std::string typed = words.back();
  std::set<std::string> candidates;
  if (const Command* command = CommandOf(words); command == nullptr) {
    for (const Command* one : AllCommands()) {
      if (*one->summary == '\0') continue;
      const std::vector<std::string> name = absl::StrSplit(one->name, ' ');
      if (name.size() >= words.size() && std::equal(words.begin(), words.end() - 1, name.begin())) {
        candidates.insert(name[words.size() - 1]);
      }
    }
  } else if (absl::StartsWith(typed, "-")) {
    Invocation asked(command->name, {});
    asked.NameFlagsOnly();
    (void)command->run(asked);  // ends where it would have read its flags
    for (const std::string& flag : asked.flags.Names()) candidates.insert(absl::StrCat("--", flag));
  } else {
    AddNames(words[0], candidates);
  }
  for (const std::string& candidate : candidates) {
    if (absl::StartsWith(candidate, typed)) printf("%s\n", candidate.c_str());
  }
  return absl::OkStatus();
}

absl::Status Completion(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse(
      "graft completion bash|zsh|fish\n\n"
      "  bash: graft completion bash > ~/.local/share/bash-completion/completions/graft\n"
      "  zsh:  graft completion zsh > \"${fpath[1]}/_graft\"\n"
      "  fish: graft completion fish > ~/.config/fish/completions/graft.fish"));
  GRAFT_ASSIGN_OR_RETURN(const std::string shell, invocation.Word(0, "the shell"));
  for (const auto& [name, script] :
       {std::pair<const char*, absl::string_view>{"bash", kBash}, {"zsh", kZsh}, {"fish", kFish}}) {
    if (shell != name) continue;
    fwrite(script.data(), 1, script.size(), stdout);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the shell \"", shell, "\" is not known; known are bash, zsh and fish"));
}

}  // namespace

const std::vector<Command>& ShellCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"completion", "TAB for the shell: bash, zsh or fish", Completion},
      {"completion words", "", Words},  // asked by the scripts
  };
  return commands;
}

}  // namespace graft::cli
