// Command lines: words, flags and their values, and the answer to a flag that is not known.
//
//   FlagSet flags("graft job create");
//   std::string name; int64_t rank = 16; bool watch = false;
//   flags.String("name", &name, "NAME", "the job's name");
//   flags.Int("rank", &rank, "N", "LoRA rank");
//   flags.Bool("watch", &watch, "follow the job until it ends");
//   GRAFT_RETURN_IF_ERROR(flags.Parse(args));        // --name x, --name=x, --watch, --no-watch, -o
//   x flags.words()                                    // what is no flag; all after "--"
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace graft::cli {

class FlagSet {
 public:
  explicit FlagSet(std::string command) : command_(std::move(command)) {}

  void String(absl::string_view name, std::string* value, absl::string_view metavar,
              absl::string_view help);
  void Strings(absl::string_view name, std::vector<std::string>* values, absl::string_view metavar,
               absl::string_view help);
  void Int(absl::string_view name, int64_t* value, absl::string_view metavar,
           absl::string_view help);
  void Double(absl::string_view name, double* value, absl::string_view metavar,
              absl::string_view help);
  void Bool(absl::string_view name, bool* value, absl::string_view help);
  // A one-letter form of the flag named last.
  void Short(char letter);

  // INVALID_ARGUMENT for an unknown flag (with the nearest known one) or an ill-typed value.
  absl::Status Parse(const std::vector<std::string>& args);
  const std::vector<std::string>& words() const { return words_; }
  // Whether the user gave the flag.
  bool Given(absl::string_view name) const;
  std::vector<std::string> Names() const;
  // The flags with their help, one a line.
  std::string Help() const;

 private:
  struct Flag {
    std::string name;
    char letter = 0;
    std::string metavar;  // empty: a switch
    std::string help;
    std::function<absl::Status(absl::string_view)> set;
    bool given = false;
  };
  Flag* Find(absl::string_view name);
  absl::Status SetFlag(Flag& flag, absl::string_view value);
  absl::Status Unknown(absl::string_view written) const;

  std::string command_;
  std::vector<Flag> flags_;
  std::vector<std::string> words_;
};

}  // namespace graft::cli
