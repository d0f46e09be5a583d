// Stores old checkpoints as differences to the one before them.
//
// Training moves every weight a little, so that no chunk of the next checkpoint is like one of the
// last; but the difference of two numbers is small. In each fileset the oldest version with
// safetensors files is a keyframe and stays as it is; the chunks of the versions behind it become
// deltas to the keyframe's chunks of the same tensor (codec.h), until the drift has grown so far
// that the next version is a new keyframe. What people read stays raw: the latest version of each
// fileset, what a ref or a pin names. A chunk keeps its name, and readers see its raw bytes.
//
// A delta's base is never a delta: a read takes two chunks at most. The bytes of the old encoding
// are given back by the Collector, which compacts the packs. For one thread, not beside a
// Collector.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/catalog/catalog.h"

namespace graft::fileservice {

class Reencoder {
 public:
  struct Options {
    // After so many versions the difference to the keyframe (35 % of the bytes for a model that
    // 200 Adam steps at 1e-5 lie between) costs as much as keyframes would save.
    int64_t versions_per_keyframe = 6;
    // Asked between files; true: leave the rest to the next run.
    std::function<bool()> stop = [] { return false; };
  };
  struct Report {
    int64_t versions = 0;  // looked at
    int64_t chunks = 0;    // encoded anew
    int64_t bytes_before = 0;
    int64_t bytes_after = 0;
  };

  Reencoder(Catalog& catalog, ChunkStore& store, Options options)
      : catalog_(catalog), store_(store), options_(std::move(options)) {}

  absl::StatusOr<Report> Run();

 private:
  // A chunk of a tensor.
  struct Piece {
    std::string place;  // tensor, dtype, shape and offset: equal in both versions
    ChunkId id;
    uint32_t size;
    int width;  // of a number
  };
  // How far a fileset was worked through, kept in Column::kMeta.
  struct Progress {
    int64_t done = 0;      // the last version looked at
    int64_t keyframe = 0;  // 0: none
    int64_t used = 0;      // versions that are differences to it

    std::string Encode() const;
    static absl::StatusOr<Progress> Decode(absl::string_view value);
  };
  absl::StatusOr<Progress> LoadProgress(const FilesetRecord& fileset) const;
  absl::Status SaveProgress(const FilesetRecord& fileset, const Progress& progress);
  absl::Status FindWhatStays();
  absl::Status KeepVersion(const ResolvedVersion& version);
  absl::Status ReencodeFileset(const FilesetRecord& fileset, Report& report);
  absl::Status ReencodeVersion(const std::vector<Piece>& pieces,
                               const std::map<std::string, Piece>& keyframe, Report& report);
  absl::Status ReencodeChunk(const Piece& piece, const Piece& base, Report& report);
  absl::StatusOr<std::vector<Piece>> PiecesOf(const ResolvedVersion& version) const;
  absl::Status AddPieces(const Entry& entry, std::vector<Piece>& pieces) const;
  absl::StatusOr<std::string> ReadHead(const FilePage& file) const;

  Catalog& catalog_;
  ChunkStore& store_;
  const Options options_;
  absl::flat_hash_set<ChunkId> stays_;  // chunks that must not become deltas
  ChunkStore::Ticket last_ = 0;
};

}  // namespace graft::fileservice
