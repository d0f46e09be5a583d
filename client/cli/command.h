// How a command of the CLI is written: a function that gets an Invocation, and a row in a table.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "client/cli/flags.h"
#include "client/cli/terminal.h"
#include "client/graft/client.h"
#include "google/protobuf/message.h"

namespace graft::cli {

enum class OutputFormat { kTable, kWide, kJson, kYaml, kName };

// What every command shares: the flags that all have, the terminal, the connection.
class Invocation {
 public:
  Invocation(std::string command, std::vector<std::string> args)
      : flags(command), out(Terminal::Of(1)), err(Terminal::Of(2)), args_(std::move(args)) {}

  FlagSet flags;
  // Reads the command line; with --help the text is printed and the status is kCancelled.
  absl::Status Parse(absl::string_view usage);
  // The same for a command whose -o is a file to write.
  absl::Status ParseWithFile(absl::string_view usage, std::string* file);
  // The n-th word; INVALID_ARGUMENT names what is missing.
  absl::StatusOr<std::string> Word(size_t n, absl::string_view what) const;
  size_t word_count() const { return flags.words().size(); }

  absl::StatusOr<client::Client*> Connect();
  OutputFormat format() const { return format_; }

  // Prints one message, or a list of them: the table that `table` makes, or JSON, YAML or names.
  absl::Status Print(const google::protobuf::Message& message,
                     const std::function<std::string()>& table);
  absl::Status PrintList(const std::vector<const google::protobuf::Message*>& messages,
                         const std::function<std::string()>& table);
  // The same for what is no message of the API: an object, or a list of them, named by "name".
  absl::Status PrintJson(const Json& value, const std::function<std::string()>& table);

  const Terminal out;
  const Terminal err;

  // What goes to standard output goes to `text` instead.
  void WriteTo(std::string* text) { sink_ = text; }
  void Write(absl::string_view text) const;
  // Parse ends with kCancelled before it reads anything: only the flags' names are wanted.
  void NameFlagsOnly() { name_flags_only_ = true; }

  // A line of words to standard error.
  void Say(absl::string_view text) const;

 private:
  absl::Status ParseFlags(absl::string_view usage);

  std::vector<std::string> args_;
  std::string context_name_;
  std::string workspace_;
  std::string format_name_ = "table";
  OutputFormat format_ = OutputFormat::kTable;
  bool help_ = false;
  bool name_flags_only_ = false;
  std::string* sink_ = nullptr;
  std::unique_ptr<client::Client> client_;
};

struct Command {
  const char* name;     // "job create"
  const char* summary;  // one line; empty: not listed
  absl::Status (*run)(Invocation&);
};

// The rows of each file of commands.
const std::vector<Command>& MachineCommands();  // up, down, status
const std::vector<Command>& ContextCommands();
const std::vector<Command>& ModelCommands();
const std::vector<Command>& DatasetCommands();
const std::vector<Command>& JobCreateCommands();  // job create, init, estimate; lora, sft
const std::vector<Command>& JobAgainCommands();   // job rerun, fork
const std::vector<Command>& JobCommands();
const std::vector<Command>& ChatCommands();
const std::vector<Command>& ClusterCommands();  // node, workspace
const std::vector<Command>& QueueCommands();
const std::vector<Command>& CurveCommands();  // job compare, job plot
const std::vector<Command>& PerfCommands();   // job perf
const std::vector<Command>& DoctorCommands();
const std::vector<Command>& FitCommands();
const std::vector<Command>& ViewCommands();    // top, usage
const std::vector<Command>& RowCommands();     // dataset check, preview, sample
const std::vector<Command>& AccessCommands();  // user, grant, token
const std::vector<Command>& PeopleCommands();  // user apply
const std::vector<Command>& ShellCommands();   // completion

// A status with the next command or step, which is printed as `hint:`; the empty text: none.
absl::Status WithHint(absl::Status status, absl::string_view hint);
std::string HintOf(const absl::Status& status);

// All of them, in the order in which help lists them.
std::vector<const Command*> AllCommands();

// The last part of a resource's name.
std::string ShortName(absl::string_view name);
// The message as JSON, names as in the .proto files.
std::string ToJson(const google::protobuf::Message& message, bool pretty);
// Whether a node takes work, in a word and its colour.
std::string NodeState(const Terminal& terminal, const v1::Node& node);
// How long ago, for tables.
std::string AgeOf(const google::protobuf::Timestamp& time);
// "14:10" in the holder's own zone: people compare it with their watch.
std::string ClockTime(absl::Time time);
std::string ClockTime(const google::protobuf::Timestamp& time);
// An enumeration's value without its prefix, in lower case: "running".
std::string WordOf(const std::string& enum_name, absl::string_view prefix);
// A random id for requests that must not count twice.
std::string NewRequestId();

}  // namespace graft::cli
