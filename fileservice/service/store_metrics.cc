#include "fileservice/service/store_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <string>

namespace graft::fileservice {
namespace {

prometheus::Gauge& MakeGauge(prometheus::Registry& registry, const std::string& name,
                             const std::string& help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Counter& MakeCounter(prometheus::Registry& registry, const std::string& name,
                                 const std::string& help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

void Set(prometheus::Gauge& gauge, int64_t value) { gauge.Set(static_cast<double>(value)); }
void Add(prometheus::Counter& counter, int64_t value) {
  counter.Increment(static_cast<double>(value));
}

}  // namespace

struct StoreMetrics::Families {
  explicit Families(prometheus::Registry& r) : registry(r) {}

  prometheus::Registry& registry;
  prometheus::Gauge& logical = MakeGauge(registry, "graft_store_logical_bytes",
                                         "Bytes of all versions, each file where it appears.");
  prometheus::Gauge& raw =
      MakeGauge(registry, "graft_store_raw_bytes", "Bytes of all chunks before encoding.");
  prometheus::Gauge& stored =
      MakeGauge(registry, "graft_store_stored_bytes", "Bytes of all chunks as they lie in packs.");
  prometheus::Gauge& dedup =
      MakeGauge(registry, "graft_store_dedup_ratio", "Bytes of files that a stored byte holds.");
  prometheus::Gauge& chunks = MakeGauge(registry, "graft_store_chunks", "Chunks.");
  prometheus::Gauge& lost = MakeGauge(registry, "graft_store_lost_chunks",
                                      "Chunks that are damaged and that nobody had; alert on it.");
  prometheus::Gauge& packs = MakeGauge(registry, "graft_store_packs", "Packs.");
  prometheus::Gauge& pack_bytes = MakeGauge(registry, "graft_store_pack_bytes", "Bytes of packs.");
  prometheus::Gauge& liveness = MakeGauge(registry, "graft_store_pack_liveness",
                                          "Share of the packs that chunks take, 0 to 1.");
  prometheus::Gauge& trash =
      MakeGauge(registry, "graft_store_trash_bytes", "Bytes that wait for their end.");
  prometheus::Gauge& index =
      MakeGauge(registry, "graft_store_index_bytes", "Bytes of the index's tables.");
  prometheus::Gauge& sessions =
      MakeGauge(registry, "graft_store_open_sessions", "Upload sessions that are open.");
  prometheus::Family<prometheus::Gauge>& workspace_bytes =
      prometheus::BuildGauge()
          .Name("graft_store_workspace_bytes")
          .Help("Bytes by workspace and kind: logical, reserved, physical.")
          .Register(registry);

  prometheus::Counter& gc_runs =
      MakeCounter(registry, "graft_gc_runs_total", "Collections that ended well.");
  prometheus::Counter& gc_seconds =
      MakeCounter(registry, "graft_gc_seconds_total", "Time that collections took.");
  prometheus::Counter& gc_trashed = MakeCounter(registry, "graft_gc_trashed_bytes_total",
                                                "Bytes of chunks that nobody named any more.");
  prometheus::Counter& gc_removed =
      MakeCounter(registry, "graft_gc_removed_packs_total", "Packs that were removed.");
  prometheus::Counter& gc_compacted =
      MakeCounter(registry, "graft_gc_compacted_packs_total", "Packs that were rewritten.");
  prometheus::Counter& reencoded =
      MakeCounter(registry, "graft_reencoded_chunks_total", "Chunks that became deltas.");
  prometheus::Counter& reencode_saved =
      MakeCounter(registry, "graft_reencode_saved_bytes_total", "Bytes that deltas take less.");
  prometheus::Counter& scrubbed =
      MakeCounter(registry, "graft_scrub_bytes_total", "Bytes that were read to be checked.");
  prometheus::Counter& damaged =
      MakeCounter(registry, "graft_scrub_damaged_chunks_total", "Damaged chunks that were found.");
  prometheus::Counter& repaired = MakeCounter(registry, "graft_scrub_repaired_chunks_total",
                                              "Damaged chunks that were mended.");
  prometheus::Counter& failures = MakeCounter(registry, "graft_upkeep_failures_total",
                                              "Steps of the upkeep that ended with an error.");
};

StoreMetrics::StoreMetrics(prometheus::Registry& registry)
    : families_(std::make_unique<Families>(registry)) {}

StoreMetrics::~StoreMetrics() = default;

void StoreMetrics::Show(const StoreStats& stats) {
  Families& f = *families_;
  Set(f.logical, stats.logical_bytes());
  Set(f.raw, stats.raw_bytes);
  Set(f.stored, stats.stored_bytes);
  f.dedup.Set(stats.dedup_ratio());
  Set(f.chunks, stats.chunks);
  Set(f.lost, stats.lost_chunks);
  Set(f.packs, stats.packs);
  Set(f.pack_bytes, stats.pack_bytes);
  f.liveness.Set(stats.liveness());
  Set(f.trash, stats.trash_bytes);
  Set(f.index, stats.index_bytes);
  Set(f.sessions, stats.open_sessions);
  for (const auto& [name, workspace] : stats.workspaces) {
    Set(f.workspace_bytes.Add({{"workspace", name}, {"kind", "logical"}}), workspace.logical_bytes);
    Set(f.workspace_bytes.Add({{"workspace", name}, {"kind", "reserved"}}),
        workspace.reserved_bytes);
    Set(f.workspace_bytes.Add({{"workspace", name}, {"kind", "physical"}}),
        workspace.physical_bytes);
  }
}

void StoreMetrics::Count(const Collector::Report& report, absl::Duration took) {
  families_->gc_runs.Increment();
  families_->gc_seconds.Increment(absl::ToDoubleSeconds(took));
  Add(families_->gc_trashed, report.trashed_bytes);
  Add(families_->gc_removed, report.removed_packs);
  Add(families_->gc_compacted, report.compacted_packs);
}

void StoreMetrics::Count(const Reencoder::Report& report) {
  Add(families_->reencoded, report.chunks);
  Add(families_->reencode_saved, report.bytes_before - report.bytes_after);
}

void StoreMetrics::Count(const Scrubber::Report& report) {
  Add(families_->scrubbed, report.bytes);
  Add(families_->damaged, static_cast<int64_t>(report.damages.size()));
  Add(families_->repaired, static_cast<int64_t>(report.damages.size()) - report.lost());
}

void StoreMetrics::CountFailure() { families_->failures.Increment(); }

}  // namespace graft::fileservice
