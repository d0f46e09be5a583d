#include "worker/trainer/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/trainer/json_fields.h"

namespace graft::trainer {

template <typename V>
void VisitFields(V& v, CheckpointState& s) {
  v("version", s.version);
  v("step", s.step);
  v("optimizer_steps", s.optimizer_steps);
  v("loss", s.loss);
  v("base_validation_loss", s.base_validation_loss);
  v("validation_loss", s.validation_loss);
  v("best_validation_loss", s.best_validation_loss);
  v("best_step", s.best_step);
  v("bad_evaluations", s.bad_evaluations);
  v("skipped_in_a_row", s.skipped_in_a_row);
  v("plateau_factor", s.plateau_factor);
  v("plateau_best", s.plateau_best);
  v("plateau_bad", s.plateau_bad);
  v("plateau_seen", s.plateau_seen);
  v("loss_scale", s.loss_scale);
  v("loss_scale_good_steps", s.loss_scale_good_steps);
  v("identity", s.identity);
}

namespace {

constexpr absl::string_view kStepPrefix = "step-";
constexpr absl::string_view kWriting = ".writing-";
constexpr char kManifest[] = "manifest.json";
constexpr char kState[] = "state.json";
constexpr int64_t kMaxStateBytes = 1 << 20;

// Read in pieces: a checkpoint may be larger than memory.
absl::StatusOr<std::string> HashFile(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, path);
  Sha256 hash;
  std::string buffer(1 << 20, '\0');
  while (true) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0) return ErrnoStatus(errno, path);
    if (got == 0) return ToHex(hash.Finish());
    hash.Update(absl::string_view(buffer.data(), static_cast<size_t>(got)));
  }
}

absl::StatusOr<Json> ReadJsonFile(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxStateBytes));
  auto json = Json::Parse(text);
  if (json.ok()) return json;
  return absl::DataLossError(absl::StrCat(path, ": ", json.status().message()));
}

absl::StatusOr<int64_t> WriteManifest(const std::string& folder) {
  Json files = Json::MakeObject();
  int64_t total = 0;
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(folder));
  for (const std::string& name : names) {
    const std::string path = JoinPath(folder, name);
    GRAFT_ASSIGN_OR_RETURN(const int64_t size, FileSize(path));
    GRAFT_ASSIGN_OR_RETURN(const std::string hash, HashFile(path));
    Json entry = Json::MakeObject();
    entry.Set("size", size);
    entry.Set("sha256", hash);
    files.Set(name, std::move(entry));
    total += size;
  }
  Json manifest = Json::MakeObject();
  manifest.Set("version", kCheckpointVersion);
  manifest.Set("files", std::move(files));
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(folder, kManifest), manifest.Dump(2) + "\n"));
  return total;
}

absl::Status CheckManifest(const std::string& folder, bool deep) {
  GRAFT_ASSIGN_OR_RETURN(const Json manifest, ReadJsonFile(JoinPath(folder, kManifest)));
  const Json* files = manifest.Find("files");
  if (files == nullptr || !files->is_object()) {
    return absl::DataLossError(absl::StrCat(folder, "/", kManifest, " lists no files"));
  }
  for (const auto& [name, entry] : files->as_object()) {
    const std::string path = JoinPath(folder, name);
    GRAFT_ASSIGN_OR_RETURN(const int64_t size, FileSize(path));
    if (size != entry.GetInt("size", -1)) {
      return absl::DataLossError(absl::StrCat(path, " has ", size, " bytes, the manifest says ",
                                              entry.GetInt("size", -1)));
    }
    if (!deep) continue;
    GRAFT_ASSIGN_OR_RETURN(const std::string hash, HashFile(path));
    if (hash != entry.GetString("sha256")) {
      return absl::DataLossError(absl::StrCat(path, " does not have the manifest's SHA-256"));
    }
  }
  return absl::OkStatus();
}

// The steps of the checkpoints in the folder, descending.
std::vector<int64_t> StepsIn(const std::string& folder) {
  std::vector<int64_t> steps;
  const auto names = ListDirectory(folder);
  if (!names.ok()) return steps;
  for (absl::string_view name : *names) {
    int64_t step;
    if (absl::ConsumePrefix(&name, kStepPrefix) && absl::SimpleAtoi(name, &step)) {
      steps.push_back(step);
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

// What this rank writes, as it is now.
TensorParts Copies(const TensorParts& parts) {
  TensorParts out;
  for (const TensorPart& part : parts) {
    out.push_back(part);
    if (part.writes()) out.back().numbers = part.numbers.Copy();
  }
  return out;
}

constexpr char kOptimizer[] = "optimizer";
constexpr char kBest[] = "best";

}  // namespace

std::string CheckpointName(int64_t step) { return absl::StrFormat("%s%06d", kStepPrefix, step); }

absl::Status Checkpoints::Save(const CheckpointContents& contents) {
  GRAFT_RETURN_IF_ERROR(Wait());
  CheckpointContents copy = {contents.state, Copies(contents.trained), Copies(contents.optimizer),
                             Copies(contents.best)};
  writer_ = std::thread([this, copy = std::move(copy)] {
    const auto saved = Write(copy);
    last_ = saved.status();
    if (options_.gang.rank != 0) return;
    if (saved.ok()) Prune(copy.state);
    done_(saved);
  });
  return absl::OkStatus();
}

absl::Status Checkpoints::Wait() {
  if (writer_.joinable()) writer_.join();
  const absl::Status status = last_;
  last_ = absl::OkStatus();
  return status;
}

absl::StatusOr<SavedCheckpoint> Checkpoints::Write(const CheckpointContents& contents) {
  const auto start = std::chrono::steady_clock::now();
  const std::string writing =
      JoinPath(options_.folder, absl::StrCat(kWriting, CheckpointName(contents.state.step)));
  ++writes_;
  const std::string key = absl::StrCat("checkpoint/", writes_);
  const auto clean = [&]() -> absl::Status {
    GRAFT_RETURN_IF_ERROR(RemoveTree(writing));
    return MakeDirectories(writing);
  };
  const FileGang& gang = options_.gang;
  GRAFT_RETURN_IF_ERROR(Agree(gang, key + "/folder", gang.rank == 0 ? clean() : absl::OkStatus()));
  GRAFT_RETURN_IF_ERROR(WriteTogether(gang, key, writing, kTrainedStem, contents.trained));
  GRAFT_RETURN_IF_ERROR(WriteTogether(gang, key, writing, kOptimizer, contents.optimizer));
  GRAFT_RETURN_IF_ERROR(WriteTogether(gang, key, writing, kBest, contents.best));
  SavedCheckpoint saved;
  if (gang.rank == 0) {
    GRAFT_ASSIGN_OR_RETURN(saved, Seal(writing, contents.state));
  }
  saved.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return saved;
}

absl::StatusOr<SavedCheckpoint> Checkpoints::Seal(const std::string& writing,
                                                  const CheckpointState& state) {
  const std::string final_folder = JoinPath(options_.folder, CheckpointName(state.step));
  GRAFT_RETURN_IF_ERROR(
      WriteFileAtomically(JoinPath(writing, kState), WriteFields(state).Dump(2) + "\n"));
  GRAFT_ASSIGN_OR_RETURN(const int64_t bytes, WriteManifest(writing));
  // A checkpoint of the same step is of the same bytes, or the rest of an earlier run.
  GRAFT_RETURN_IF_ERROR(RemoveTree(final_folder));
  if (std::rename(writing.c_str(), final_folder.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("rename ", writing));
  }
  GRAFT_RETURN_IF_ERROR(SyncDirectory(options_.folder));
  return SavedCheckpoint{final_folder, state.step, bytes, 0};
}

void Checkpoints::Prune(const CheckpointState& newest) {
  int64_t kept = 0;
  for (int64_t step : StepsIn(options_.folder)) {
    const bool best =
        options_.keep_best && newest.best_validation_loss.has_value() && step == newest.best_step;
    if (step > newest.step || kept++ < options_.keep_last || best) continue;
    const absl::Status removed = RemoveTree(JoinPath(options_.folder, CheckpointName(step)));
    if (!removed.ok()) {
      LOG_WARNING("an old checkpoint stays", {{"step", step}, {"why", removed.message()}});
    }
  }
}

absl::StatusOr<std::string> FindCheckpoint(const std::string& path, bool deep) {
  if (FileExists(JoinPath(path, kManifest))) {
    GRAFT_RETURN_IF_ERROR(CheckManifest(path, deep));
    return path;
  }
  std::string damage;
  for (int64_t step : StepsIn(path)) {
    const std::string folder = JoinPath(path, CheckpointName(step));
    const absl::Status whole = CheckManifest(folder, deep);
    if (whole.ok()) return folder;
    absl::StrAppend(&damage, "; ", whole.message());
  }
  return absl::NotFoundError(absl::StrCat("no whole checkpoint in ", path, damage));
}

absl::StatusOr<CheckpointState> ReadCheckpointState(const std::string& folder) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(JoinPath(folder, kState)));
  const int64_t version = json.GetInt("version");
  if (version != kCheckpointVersion) {
    return absl::FailedPreconditionError(absl::StrCat(folder, " has version ", version,
                                                      ", this trainer reads ", kCheckpointVersion));
  }
  CheckpointState state;
  GRAFT_RETURN_IF_ERROR(ReadFields(json, kState, state, UnknownKeys::kIgnored));
  return state;
}

absl::Status ReadCheckpointTensors(const std::string& folder, const CheckpointContents& contents) {
  GRAFT_RETURN_IF_ERROR(ReadParts(TensorFile(folder, kTrainedStem), contents.trained));
  if (!contents.optimizer.empty()) {
    GRAFT_RETURN_IF_ERROR(ReadParts(TensorFile(folder, kOptimizer), contents.optimizer));
  }
  if (contents.best.empty()) return absl::OkStatus();
  return ReadParts(TensorFile(folder, kBest), contents.best);
}

bool HasBest(const std::string& folder) { return FileExists(TensorFile(folder, kBest)); }

}  // namespace graft::trainer
