#include "fileservice/service/store_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <array>

namespace graft::fileservice {
namespace {

struct GaugeRow {
  const char* name;
  const char* help;
  double (*value)(const StoreStats&);
};

template <int64_t StoreStats::*kField>
double Field(const StoreStats& stats) {
  return static_cast<double>(stats.*kField);
}

constexpr GaugeRow kGauges[] = {
    {"graft_store_logical_bytes", "Bytes of all versions, each file where it appears.",
     [](const StoreStats& stats) { return static_cast<double>(stats.logical_bytes()); }},
    {"graft_store_raw_bytes", "Bytes of all chunks before encoding.",
     Field<&StoreStats::raw_bytes>},
    {"graft_store_stored_bytes", "Bytes of all chunks as they lie in packs.",
     Field<&StoreStats::stored_bytes>},
    {"graft_store_dedup_ratio", "Bytes of files that a stored byte holds.",
     [](const StoreStats& stats) { return stats.dedup_ratio(); }},
    {"graft_store_chunks", "Chunks.", Field<&StoreStats::chunks>},
    {"graft_store_lost_chunks", "Chunks that are damaged and that nobody had; alert on it.",
     Field<&StoreStats::lost_chunks>},
    {"graft_store_packs", "Packs.", Field<&StoreStats::packs>},
    {"graft_store_pack_bytes", "Bytes of packs.", Field<&StoreStats::pack_bytes>},
    {"graft_store_pack_liveness", "Share of the packs that chunks take, 0 to 1.",
     [](const StoreStats& stats) { return stats.liveness(); }},
    {"graft_store_trash_bytes", "Bytes that wait for their end.", Field<&StoreStats::trash_bytes>},
    {"graft_store_index_bytes", "Bytes of the index's tables.", Field<&StoreStats::index_bytes>},
    {"graft_store_open_sessions", "Upload sessions that are open.",
     Field<&StoreStats::open_sessions>},
};

// The rows of kCounters.
enum Counted : size_t {
  kGcRuns,
  kGcSeconds,
  kGcTrashedBytes,
  kGcRemovedPacks,
  kGcCompactedPacks,
  kReencodedChunks,
  kReencodeSavedBytes,
  kScrubbedBytes,
  kDamagedChunks,
  kRepairedChunks,
  kFailures,
  kCountedCount,
};
struct CounterRow {
  const char* name;
  const char* help;
};
constexpr CounterRow kCounters[] = {
    {"graft_gc_runs_total", "Collections that ended well."},
    {"graft_gc_seconds_total", "Time that collections took."},
    {"graft_gc_trashed_bytes_total", "Bytes of chunks that nobody named any more."},
    {"graft_gc_removed_packs_total", "Packs that were removed."},
    {"graft_gc_compacted_packs_total", "Packs that were rewritten."},
    {"graft_reencoded_chunks_total", "Chunks that became deltas."},
    {"graft_reencode_saved_bytes_total", "Bytes that deltas take less."},
    {"graft_scrub_bytes_total", "Bytes that were read to be checked."},
    {"graft_scrub_damaged_chunks_total", "Damaged chunks that were found."},
    {"graft_scrub_repaired_chunks_total", "Damaged chunks that were mended."},
    {"graft_upkeep_failures_total", "Steps of the upkeep that ended with an error."},
};
static_assert(std::size(kCounters) == kCountedCount);

}  // namespace

struct StoreMetrics::Families {
  explicit Families(prometheus::Registry& registry)
      : workspace_bytes(prometheus::BuildGauge()
                            .Name("graft_store_workspace_bytes")
                            .Help("Bytes by workspace and kind: logical, reserved, physical.")
                            .Register(registry)) {
    for (size_t i = 0; i < gauges.size(); ++i) {
      const GaugeRow& row = kGauges[i];
      gauges[i] =
          &prometheus::BuildGauge().Name(row.name).Help(row.help).Register(registry).Add({});
    }
    for (size_t i = 0; i < counters.size(); ++i) {
      const CounterRow& row = kCounters[i];
      counters[i] =
          &prometheus::BuildCounter().Name(row.name).Help(row.help).Register(registry).Add({});
    }
  }
  void Add(Counted what, int64_t value) { counters[what]->Increment(static_cast<double>(value)); }

  std::array<prometheus::Gauge*, std::size(kGauges)> gauges;
  std::array<prometheus::Counter*, kCountedCount> counters;
  prometheus::Family<prometheus::Gauge>& workspace_bytes;
};

StoreMetrics::StoreMetrics(prometheus::Registry& registry)
    : families_(std::make_unique<Families>(registry)) {}

StoreMetrics::~StoreMetrics() = default;

void StoreMetrics::Show(const StoreStats& stats) {
  for (size_t i = 0; i < std::size(kGauges); ++i) {
    families_->gauges[i]->Set(kGauges[i].value(stats));
  }
  for (const auto& [name, workspace] : stats.workspaces) {
    const auto set = [&, of = name](const char* kind, int64_t bytes) {
      families_->workspace_bytes.Add({{"workspace", of}, {"kind", kind}})
          .Set(static_cast<double>(bytes));
    };
    set("logical", workspace.logical_bytes);
    set("reserved", workspace.reserved_bytes);
    set("physical", workspace.physical_bytes);
  }
}

void StoreMetrics::Count(const Collector::Report& report, absl::Duration took) {
  families_->Add(kGcRuns, 1);
  families_->counters[kGcSeconds]->Increment(absl::ToDoubleSeconds(took));
  families_->Add(kGcTrashedBytes, report.trashed_bytes);
  families_->Add(kGcRemovedPacks, report.removed_packs);
  families_->Add(kGcCompactedPacks, report.compacted_packs);
}

void StoreMetrics::Count(const Reencoder::Report& report) {
  families_->Add(kReencodedChunks, report.chunks);
  families_->Add(kReencodeSavedBytes, report.bytes_before - report.bytes_after);
}

void StoreMetrics::Count(const Scrubber::Report& report) {
  const auto damaged = static_cast<int64_t>(report.damages.size());
  families_->Add(kScrubbedBytes, report.bytes);
  families_->Add(kDamagedChunks, damaged);
  families_->Add(kRepairedChunks, damaged - report.lost());
}

void StoreMetrics::CountFailure() { families_->Add(kFailures, 1); }

}  // namespace graft::fileservice
