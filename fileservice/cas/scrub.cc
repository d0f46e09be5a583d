#include "fileservice/cas/scrub.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fileservice/cas/codec.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {

int64_t Scrubber::Report::lost() const {
  return std::count_if(damages.begin(), damages.end(),
                       [](const Damage& damage) { return !damage.repaired; });
}

absl::StatusOr<Scrubber::Report> Scrubber::Run() {
  Report report;
  GRAFT_ASSIGN_OR_RETURN(std::vector<PackPlaces> packs, PlanPacks());
  const absl::Time begin = clock_.Now();
  for (PackPlaces& pack : packs) {
    const size_t damages_before = report.damages.size();
    GRAFT_RETURN_IF_ERROR(ScrubPack(pack, report));
    ++report.packs;
    if (store_ != nullptr && damages_before == report.damages.size()) {
      GRAFT_RETURN_IF_ERROR(StampPack(pack));
    }
    absl::Duration ahead;
    if (options_.bytes_per_second > 0) {
      ahead = absl::Seconds(static_cast<double>(report.bytes) /
                            static_cast<double>(options_.bytes_per_second)) -
              (clock_.Now() - begin);
    }
    if (!options_.pause(std::max(ahead, absl::ZeroDuration()))) break;
  }
  if (store_ == nullptr) return report;
  for (Damage& damage : report.damages) GRAFT_RETURN_IF_ERROR(Repair(damage));
  GRAFT_RETURN_IF_ERROR(MarkLost(report.damages));
  GRAFT_RETURN_IF_ERROR(RestoreFound(report));
  return report;
}

absl::StatusOr<std::vector<Scrubber::PackPlaces>> Scrubber::PlanPacks() const {
  std::map<uint32_t, PackPlaces> packs;
  const Database::Snapshot at = db_.TakeSnapshot();
  const int64_t before_s = absl::ToUnixSeconds(clock_.WallNow() - options_.not_again_within);
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kPack, at, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        const uint32_t pack = Decoder(key).BigEndian32();
        GRAFT_ASSIGN_OR_RETURN(const PackRow row, PackRow::Decode(value));
        if (row.scrubbed_at_s <= before_s) packs[pack] = {pack, row, {}};
        return absl::OkStatus();
      }));
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kChunk, at, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
        const auto pack = packs.find(row.pack);
        if (pack != packs.end()) {
          pack->second.places.push_back({row.offset, DigestFromBytes(key)});
        }
        return absl::OkStatus();
      }));
  std::vector<PackPlaces> plan;
  for (auto& [number, pack] : packs) plan.push_back(std::move(pack));
  std::stable_sort(plan.begin(), plan.end(), [](const PackPlaces& a, const PackPlaces& b) {
    return a.row.scrubbed_at_s < b.row.scrubbed_at_s;
  });
  return plan;
}

absl::Status Scrubber::ScrubPack(PackPlaces& pack, Report& report) {
  std::sort(pack.places.begin(), pack.places.end(),
            [](const Place& a, const Place& b) { return a.offset < b.offset; });
  for (const Place& place : pack.places) {
    const absl::StatusOr<ChunkRow> row = reader_.Find(place.id);
    if (absl::IsNotFound(row.status())) continue;  // collected meanwhile
    GRAFT_RETURN_IF_ERROR(row.status());
    ++report.chunks;
    report.bytes += row->stored_bytes;
    const absl::Status status = CheckChunk(place.id, *row);
    if (status.ok()) continue;
    const absl::StatusOr<ChunkRow> now = reader_.Find(place.id);
    if (!now.ok() || now->pack != row->pack || now->offset != row->offset) continue;  // was moved
    report.damages.push_back({place.id, *row, false, std::string(status.message())});
  }
  return absl::OkStatus();
}

absl::Status Scrubber::CheckChunk(const ChunkId& id, const ChunkRow& row) const {
  GRAFT_RETURN_IF_ERROR(reader_.CheckHeader(id, row));
  if (row.encoding == ChunkEncoding::kDeltaPlanesZstd) {
    GRAFT_RETURN_IF_ERROR(reader_.ReadStored(row).status());
    // A damaged base is its own finding; once it is repaired the delta is what it was.
    const absl::StatusOr<ChunkRow> base = reader_.Find(row.base);
    if (base.ok() && !reader_.Verify(row.base).ok()) return absl::OkStatus();
  }
  std::string raw(row.raw_bytes, '\0');
  GRAFT_RETURN_IF_ERROR(reader_.ReadRow(row, raw.data()));
  if (Sha256::Of(raw) == id) return absl::OkStatus();
  return absl::DataLossError("the bytes have another SHA-256 than their name");
}

absl::Status Scrubber::Repair(Damage& damage) {
  absl::StatusOr<std::string> raw = reader_.Read(damage.id);  // when its header alone is damaged
  if (raw.ok() && Sha256::Of(*raw) != damage.id) raw = absl::DataLossError("");
  for (ChunkSource* source : sources_) {
    if (raw.ok()) break;
    raw = source->Fetch(damage.id, damage.row.raw_bytes);
    if (raw.ok() && Sha256::Of(*raw) != damage.id) {
      LOG_WARNING("a source of chunks answered wrong bytes", {{"chunk", ToHex(damage.id)}});
      raw = absl::DataLossError("");
    }
  }
  if (!raw.ok()) return absl::OkStatus();
  ChunkRow row;
  row.kind = damage.row.kind;
  row.raw_bytes = static_cast<uint32_t>(raw->size());
  GRAFT_ASSIGN_OR_RETURN(const ChunkStore::Ticket ticket, store_->Rewrite(damage.id, *raw, row));
  GRAFT_RETURN_IF_ERROR(store_->WaitDurable(ticket));
  damage.repaired = true;
  return absl::OkStatus();
}

// With what is a delta to it: nobody can read that either.
absl::Status Scrubber::MarkLost(const std::vector<Damage>& damages) {
  absl::flat_hash_set<ChunkId> lost;
  for (const Damage& damage : damages) {
    if (!damage.repaired) lost.insert(damage.id);
  }
  if (lost.empty()) return absl::OkStatus();
  Database::Batch batch(store_->db());
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kChunk, nullptr, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
        const bool needs_lost =
            row.encoding == ChunkEncoding::kDeltaPlanesZstd && lost.contains(row.base);
        if (!needs_lost && !lost.contains(DigestFromBytes(key))) return absl::OkStatus();
        batch.Put(Column::kLost, key, value);
        batch.Delete(Column::kChunk, key);
        return absl::OkStatus();
      }));
  return store_->db().Commit(batch);
}

absl::Status Scrubber::RestoreFound(Report& report) {
  Database::Batch batch(store_->db());
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kLost, nullptr, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        const ChunkId id = DigestFromBytes(key);
        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
        const bool there = reader_.Find(id).ok();
        if (!there && !CheckChunk(id, row).ok()) return absl::OkStatus();
        if (!there) batch.Put(Column::kChunk, key, value);
        batch.Delete(Column::kLost, key);
        ++report.found_again;
        return absl::OkStatus();
      }));
  return store_->db().Commit(batch);
}

absl::Status Scrubber::StampPack(const PackPlaces& pack) {
  Database& db = store_->db();
  const absl::StatusOr<std::string> value = db.Get(Column::kPack, PackKey(pack.pack));
  if (absl::IsNotFound(value.status())) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(value.status());
  GRAFT_ASSIGN_OR_RETURN(PackRow row, PackRow::Decode(*value));
  if (!row.sealed) return absl::OkStatus();  // its row is the store's thread's
  row.scrubbed_at_s = absl::ToUnixSeconds(clock_.WallNow());
  Database::Batch batch(db);
  batch.Put(Column::kPack, PackKey(pack.pack), row.Encode());
  return db.Commit(batch, Database::Durability::kEventual);
}

}  // namespace graft::fileservice
