// Reads every chunk that the index names, to find what the disk has spoiled before somebody needs
// it: header, CRC32C, decoding and SHA-256. What is damaged is fetched from a ChunkSource and
// written again; what nobody has is marked as lost, so that FindMissing asks the next upload for
// it, which heals it.
//
// Packs are taken in the order of their last scrub, each read from front to back. For one thread,
// which may not be beside a Collector.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "fileservice/cas/chunk_reader.h"
#include "fileservice/cas/chunk_source.h"
#include "fileservice/cas/chunk_store.h"

namespace graft::fileservice {

class Scrubber {
 public:
  struct Options {
    // Of stored bytes; 0: as fast as it goes.
    int64_t bytes_per_second = 0;
    // Packs that were scrubbed less than this ago are left out.
    absl::Duration not_again_within = absl::ZeroDuration();
    // Waits; false: the scrub ends after this pack.
    std::function<bool(absl::Duration)> pause = [](absl::Duration) { return true; };
  };
  struct Damage {
    ChunkId id;
    ChunkRow row;
    bool repaired = false;
    std::string what;
  };
  struct Report {
    int64_t packs = 0;
    int64_t chunks = 0;
    int64_t bytes = 0;
    std::vector<Damage> damages;
    // Chunks that were lost and can be read again: somebody sent them, or a delta's base.
    int64_t found_again = 0;
    int64_t lost() const;
  };

  // Looks alone, also beside a daemon.
  Scrubber(const Database& db, const ChunkReader& reader, Clock& clock, Options options)
      : db_(db), reader_(reader), clock_(clock), options_(std::move(options)) {}
  // Looks and repairs. `sources` are asked in their order.
  Scrubber(ChunkStore& store, std::vector<ChunkSource*> sources, Clock& clock, Options options)
      : db_(store.db()),
        reader_(store.reader()),
        clock_(clock),
        options_(std::move(options)),
        store_(&store),
        sources_(std::move(sources)) {}

  absl::StatusOr<Report> Run();

 private:
  struct Place {
    int64_t offset;
    ChunkId id;
  };
  struct PackPlaces {
    uint32_t pack;
    PackRow row;
    std::vector<Place> places;
  };
  absl::StatusOr<std::vector<PackPlaces>> PlanPacks() const;
  absl::Status ScrubPack(PackPlaces& pack, Report& report);
  absl::Status CheckChunk(const ChunkId& id, const ChunkRow& row) const;
  absl::Status Repair(Damage& damage);
  absl::Status MarkLost(const std::vector<Damage>& damages);
  absl::Status RestoreFound(Report& report);
  absl::Status StampPack(const PackPlaces& pack);

  const Database& db_;
  const ChunkReader& reader_;
  Clock& clock_;
  const Options options_;
  ChunkStore* const store_ = nullptr;  // null: only looks
  const std::vector<ChunkSource*> sources_;
};

}  // namespace graft::fileservice
