// What an administrator does to a store from the shell: fsck, gc, scrub, stats.
//
// Commands that only look work beside a running daemon; those that change something need the store
// to themselves and say so. Results go to stdout, readable or as one JSON object with --json;
// errors to stderr.
#pragma once

#include <string>
#include <vector>

namespace graft::fileservice {

// Exit codes of commands.
inline constexpr int kExitSound = 0;
inline constexpr int kExitFailed = 1;  // could not be done
inline constexpr int kExitUsage = 2;
inline constexpr int kExitDamage = 3;  // done, and damage was found that is still there

bool IsCommand(const std::string& name);
int RunCommand(const std::string& name, const std::vector<std::string>& args);

// One line each, for --help.
std::string CommandUsage();

}  // namespace graft::fileservice
