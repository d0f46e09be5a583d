// All daemons of Graft on this one machine, as children of a supervisor: what `graft up` starts.
//
// Everything lies in one folder (GRAFT_HOME, or graft in $XDG_DATA_HOME or ~/.local/share): TLS
// material and token made at the first start, the daemons' data, their logs, and state.json, which
// says who runs where. The supervisor holds a lock on the folder for as long as it lives; daemons
// that end are started again, and end with the supervisor, also when that is killed.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace graft::cli {

struct EmbeddedOptions {
  std::string home;
  int cpu_devices = 1;
  std::string device_kind = "auto";  // as in the worker's configuration
  std::string declared_devices;      // JSON file, for device_kind declared
  std::string gpus;                  // "0,2": the devices to use; empty: all
  bool fake_trainer = false;
  double fake_speed = 0;     // with fake_trainer: steps a second; 0: its own
  std::string fake_fail_at;  // with fake_trainer: "7=out_of_memory", the step that fails and how
};

// What state.json says.
struct EmbeddedState {
  pid_t supervisor = 0;
  int scheduler_port = 0;
  int fileservice_port = 0;
  bool ready = false;
  bool fake_trainer = false;
  std::string error;  // why the start failed
  std::map<std::string, pid_t> daemons;
  std::map<std::string, int> restarts;
};

// A program that was installed with this one.
std::string BesideThisProgram(const std::string& name);
std::string EmbeddedHome();
// Whether a supervisor holds the folder.
bool EmbeddedRuns(const std::string& home);
absl::StatusOr<EmbeddedState> ReadEmbeddedState(const std::string& home);
// Supervises until SIGTERM or SIGINT; state.json tells how far it is.
absl::Status Supervise(const EmbeddedOptions& options);
// Ends the supervisor and waits until it has gone.
absl::Status StopEmbedded(const std::string& home, absl::Duration patience);

}  // namespace graft::cli
