// Files that the ranks of a run write together: the tensors of a checkpoint, or of an output that
// is brought together. Such a file lies whole on the first rank's disk, whose agent uploads it in
// the one session that an attempt has: a record then names one thing that is there whole or not at
// all, and any layout reads it anywhere.
//
// A rank that sees the first rank's folder (one host, or a disk of all) puts its numbers at their
// final offsets itself. One that does not, on a node with a disk of its own, sends them to the
// first rank in pieces, which puts them there. Which of the two is found out at every file.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/parallel/world.h"
#include "worker/trainer/tensor_files.h"

namespace graft::trainer {

// The ranks that write together, as one of them sees them. A world of one has no functions.
struct FileGang {
  int64_t rank = 0;
  int64_t world = 1;
  // Brings every rank's text to every rank, by rank; called by all with the same key.
  std::function<absl::StatusOr<std::vector<std::string>>(const std::string& key,
                                                         const std::string& own)>
      share;
  // A group of these ranks, this one among them; called by all of them, and throws as a group does.
  std::function<parallel::Group&(const parallel::Ranks& ranks)> connect;
};

// `world` may be null (one rank) and must outlive it. One thread at a time writes.
FileGang GangOf(parallel::World* world);

// Every rank's text, by rank.
absl::StatusOr<std::vector<std::string>> Share(const FileGang& gang, const std::string& key,
                                               const std::string& own);
// OK where every rank's `own` is, else its own error or one that names the rank.
absl::Status Agree(const FileGang& gang, const std::string& key, const absl::Status& own);
// FAILED_PRECONDITION where the ranks' numbers differ, naming `what` and two of them.
absl::Status SameOnAll(const FileGang& gang, const std::string& what, int64_t own);

// Writes folder/stem.safetensors on the first rank's disk with the tensors of all ranks' parts;
// nothing where there are none. Every rank of the gang calls it with the same `key`; the first
// one's folder is there. All fail where one does.
absl::Status WriteTogether(const FileGang& gang, const std::string& key, const std::string& folder,
                           const std::string& stem, const TensorParts& parts);

std::string TensorFile(const std::string& folder, const std::string& stem);

}  // namespace graft::trainer
