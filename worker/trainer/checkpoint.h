// Checkpoints: everything that a run needs to go on as if it had never stopped. A folder of
// folders:
//
//   step-000120/trained.safetensors    the trained tensors, whole
//               optimizer.safetensors  the optimizer's states: "exp_avg.<tensor>", of that tensor's
//                                      shape, in fp32 also where they are kept in 8 bits
//               state.json             step, schedule, losses, the run's identity
//               manifest.json          sizes and SHA-256 of the others, written last
//
// A folder is written as `.writing-step-000120`, synced and renamed; what has no such name or no
// whole manifest is no checkpoint. There is no generator state: data order, packing and dropout are
// functions of seed and step.
//
// Ranks write one checkpoint together (rank_files.h), which lies whole in the first rank's folder:
// the first one makes the files at their final size, each rank's numbers are put where they belong,
// the first one seals it. What is read is cut likewise, so a run goes on under another layout than
// it was saved under; each rank reads a copy of its own or a common one.
//
// Save copies the tensors and returns; a thread of its own writes. One write is under way at a
// time.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/json.h"
#include "worker/trainer/rank_files.h"

namespace graft::trainer {

inline constexpr int64_t kCheckpointVersion = 3;
inline constexpr char kTrainedStem[] = "trained";  // the file with the trained tensors

// What stands in state.json.
struct CheckpointState {
  int64_t version = kCheckpointVersion;
  int64_t step = 0;             // steps done
  int64_t optimizer_steps = 0;  // fewer where guards skipped some
  double loss = 0;
  std::optional<double> base_validation_loss;  // before the first step
  std::optional<double> validation_loss;       // of the newest evaluation
  std::optional<double> best_validation_loss;
  int64_t best_step = 0;
  int64_t bad_evaluations = 0;
  int64_t skipped_in_a_row = 0;
  double plateau_factor = 1;
  double plateau_best = 0;
  int64_t plateau_bad = 0;
  bool plateau_seen = false;
  double loss_scale = 1;  // of fp16
  int64_t loss_scale_good_steps = 0;
  // A digest of what must not differ between a run and its continuation.
  std::string identity;
};

struct CheckpointContents {
  CheckpointState state;
  TensorParts trained;
  TensorParts optimizer;
  TensorParts best;  // the trained numbers at best_step, where the output may be made of them
};

struct SavedCheckpoint {
  std::string folder;
  int64_t step = 0;
  int64_t bytes = 0;
  double seconds = 0;
};

class Checkpoints {
 public:
  struct Options {
    std::string folder;
    int64_t keep_last = 2;
    bool keep_best = true;
    FileGang gang;
  };
  // `done` is called on the writing thread after each checkpoint, on the first rank alone.
  using Done = std::function<void(const absl::StatusOr<SavedCheckpoint>&)>;
  Checkpoints(Options options, Done done) : options_(std::move(options)), done_(std::move(done)) {}
  // Waits for the write under way.
  ~Checkpoints() { Wait().IgnoreError(); }

  // Copies the tensors and has them written. Waits first for a write that is still under way, and
  // returns its error if it failed.
  absl::Status Save(const CheckpointContents& contents);
  // Until the write under way is on disk; its status.
  absl::Status Wait();

 private:
  absl::StatusOr<SavedCheckpoint> Write(const CheckpointContents& contents);
  absl::StatusOr<SavedCheckpoint> Seal(const std::string& writing, const CheckpointState& state);
  void Prune(const CheckpointState& newest);

  const Options options_;
  const Done done_;
  std::thread writer_;
  absl::Status last_;   // of the writer; read after joining it
  int64_t writes_ = 0;  // makes keys differ
};

// The newest whole checkpoint in `path`, or `path` itself where it is one. NOT_FOUND where there is
// none. Verifies sizes, and hashes as well with `deep`.
absl::StatusOr<std::string> FindCheckpoint(const std::string& path, bool deep = true);
absl::StatusOr<CheckpointState> ReadCheckpointState(const std::string& folder);
// Fills the parts.
absl::Status ReadCheckpointTensors(const std::string& folder, const CheckpointContents& contents);
bool HasBest(const std::string& folder);
std::string CheckpointName(int64_t step);

}  // namespace graft::trainer
