// Finding the files of a dataset, and splitting rows off for validation.
#include <sys/stat.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "worker/data/dataset/dataset.h"
#include "worker/data/dataset/packer.h"
#include "worker/data/dataset/row_source.h"

namespace graft::data {
namespace {

bool IsFolder(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

struct Listing {
  std::vector<std::string> data, other, folders;  // names
};

absl::StatusOr<Listing> List(const std::string& folder) {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(folder));
  Listing listing;
  for (const std::string& name : names) {
    if (name[0] == '.') continue;
    if (IsFolder(JoinPath(folder, name))) {
      listing.folders.push_back(name);
    } else if (IsDataFile(name)) {
      listing.data.push_back(name);
    } else {
      listing.other.push_back(name);
    }
  }
  return listing;
}

std::vector<std::string> Prefixed(const std::string& folder,
                                  const std::vector<std::string>& names) {
  std::vector<std::string> paths;
  for (const std::string& name : names) paths.push_back(JoinPath(folder, name));
  return paths;
}

// Without a folder of that name, a file "training.jsonl" is as good.
void TakeNamed(const std::string& folder, const std::string& stem, std::vector<std::string>& beside,
               std::vector<std::string>& files) {
  if (!files.empty()) return;
  const auto named = [&](const std::string& name) {
    return name.substr(0, name.rfind('.')) == stem;
  };
  for (const std::string& name : beside) {
    if (named(name)) files.push_back(JoinPath(folder, name));
  }
  beside.erase(std::remove_if(beside.begin(), beside.end(), named), beside.end());
}

// What to do about a folder without rows in training/.
absl::Status NothingToTrainOn(const std::string& path, const Listing& listing) {
  if (!listing.data.empty()) {
    return absl::NotFoundError(absl::StrCat(
        path, ": which of ", absl::StrJoin(listing.data, ", "),
        " are training files? They belong into training/; do, inside: mkdir -p training && mv ",
        absl::StrJoin(listing.data, " "), " training/"));
  }
  for (const std::string& name : listing.folders) {
    const absl::StatusOr<Listing> inside = List(JoinPath(path, name));
    if (!inside.ok() || inside->data.empty() || name == "validation") continue;
    return absl::NotFoundError(absl::StrCat(path,
                                            ": the training files belong into training/, found "
                                            "them in ",
                                            name, "/; do, inside: mv ", name, " training"));
  }
  std::vector<std::string> seen = listing.other;
  for (const std::string& name : listing.folders) seen.push_back(name + "/");
  return absl::NotFoundError(
      absl::StrCat(path, ": expected .jsonl, .ndjson, .json or .csv files in training/, found ",
                   seen.empty() ? "an empty folder" : absl::StrJoin(seen, ", ")));
}

}  // namespace

absl::StatusOr<DatasetFiles> FindDatasetFiles(const std::string& path) {
  DatasetFiles files;
  if (!IsFolder(path)) {
    if (!FileExists(path))
      return absl::NotFoundError(absl::StrCat(path, ": no such file or folder"));
    files.training.push_back(path);
    return files;
  }
  GRAFT_ASSIGN_OR_RETURN(const Listing listing, List(path));
  const auto inside = [&](const std::string& name) -> absl::StatusOr<std::vector<std::string>> {
    const std::string folder = JoinPath(path, name);
    if (!IsFolder(folder)) return std::vector<std::string>();
    GRAFT_ASSIGN_OR_RETURN(const Listing found, List(folder));
    for (const std::string& other : found.other) {
      files.warnings.push_back({"ignored_file", absl::StrCat(JoinPath(folder, other),
                                                             " is no data file and is not read")});
    }
    return Prefixed(folder, found.data);
  };
  GRAFT_ASSIGN_OR_RETURN(files.training, inside("training"));
  GRAFT_ASSIGN_OR_RETURN(files.validation, inside("validation"));
  std::vector<std::string> beside = listing.data;
  TakeNamed(path, "training", beside, files.training);
  TakeNamed(path, "validation", beside, files.validation);
  if (files.training.empty() && beside.size() == 1) {
    files.training.push_back(JoinPath(path, beside.front()));  // what else could it be for?
    beside.clear();
  }
  if (files.training.empty()) return NothingToTrainOn(path, listing);
  for (const std::string& name : beside) {
    files.warnings.push_back(
        {"misplaced_file", absl::StrCat(JoinPath(path, name),
                                        " is not read: it stands beside "
                                        "training/ and validation/, not inside")});
  }
  return files;
}

RowSplit SplitRows(int64_t rows, const SplitOptions& options) {
  RowSplit split;
  int64_t held_out = std::llround(options.fraction * static_cast<double>(rows));
  held_out = std::clamp<int64_t>(held_out, 1, std::max<int64_t>(options.max_rows, 1));
  if (options.fraction <= 0 || rows - held_out < options.min_training_rows) held_out = 0;
  std::vector<bool> validates(rows, false);
  for (int64_t i = 0; i < held_out; ++i) validates[ShuffledIndex(options.seed, rows, i)] = true;
  for (int64_t i = 0; i < rows; ++i) {
    (validates[i] ? split.validation : split.training).push_back(static_cast<uint32_t>(i));
  }
  return split;
}

}  // namespace graft::data
