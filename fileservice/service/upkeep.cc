#include "fileservice/service/upkeep.h"

#include <deque>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fileservice/cas/folder_source.h"
#include "fileservice/catalog/stats.h"

namespace graft::fileservice {
namespace {

constexpr size_t kFilesNamed = 20;

}  // namespace

Upkeep::Upkeep(Catalog& catalog, ChunkStore& store, Clock& clock, StoreMetrics& metrics,
               Options options)
    : catalog_(catalog),
      store_(store),
      clock_(clock),
      metrics_(metrics),
      options_(std::move(options)) {
  thread_ = std::thread([this] { Run(); });
}

Upkeep::~Upkeep() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    wake_.SignalAll();
  }
  thread_.join();
}

bool Upkeep::stopping() {
  MutexLock lock(mu_);
  return stopping_;
}

bool Upkeep::Pause(absl::Duration time) {
  const absl::Time end = clock_.Now() + time;
  MutexLock lock(mu_);
  while (!stopping_ && clock_.Now() < end) wake_.WaitFor(mu_, end - clock_.Now());
  return !stopping_;
}

void Upkeep::Run() {
  Step("counting", [this] { return Show(); });
  if (options_.interval <= absl::ZeroDuration()) return;
  while (Pause(options_.interval)) {
    Step("retention", [this] { return Retain(); });
    Step("re-encoding", [this] { return Reencode(); });
    Step("garbage collection", [this] { return Collect(); });
    Step("scrub", [this] { return Scrub(); });
    Step("counting", [this] { return Show(); });
  }
}

void Upkeep::Step(absl::string_view what, const std::function<absl::Status()>& step) {
  if (stopping()) return;
  const absl::Status status = step();
  if (status.ok()) return;
  metrics_.CountFailure();
  LOG_ERROR("a step of the upkeep ended with an error",
            {{"step", what}, {"status", status.ToString()}});
}

absl::Status Upkeep::Retain() {
  GRAFT_ASSIGN_OR_RETURN(const int64_t removed, catalog_.ApplyRetention());
  if (removed > 0) LOG_INFO("retention rules removed versions", {{"versions", removed}});
  return absl::OkStatus();
}

absl::Status Upkeep::Reencode() {
  if (options_.versions_per_keyframe == 0) return absl::OkStatus();
  Reencoder::Options options;
  options.versions_per_keyframe = options_.versions_per_keyframe;
  options.stop = [this] { return stopping(); };
  GRAFT_ASSIGN_OR_RETURN(const Reencoder::Report report,
                         Reencoder(catalog_, store_, options).Run());
  metrics_.Count(report);
  if (report.chunks > 0) {
    LOG_INFO("stored old checkpoints as differences", {{"versions", report.versions},
                                                       {"chunks", report.chunks},
                                                       {"bytes_before", report.bytes_before},
                                                       {"bytes_after", report.bytes_after}});
  }
  return absl::OkStatus();
}

absl::Status Upkeep::Collect() {
  const absl::Time begin = clock_.Now();
  GRAFT_ASSIGN_OR_RETURN(const Collector::Report report,
                         Collector(catalog_, store_, clock_, options_.collecting).Run());
  metrics_.Count(report, clock_.Now() - begin);
  LOG_INFO("collected garbage", {{"live_bytes", report.live_bytes},
                                 {"trashed_bytes", report.trashed_bytes},
                                 {"removed_packs", report.removed_packs},
                                 {"compacted_packs", report.compacted_packs}});
  return absl::OkStatus();
}

absl::Status Upkeep::Scrub() {
  if (options_.scrub_bytes_per_second == 0) return absl::OkStatus();
  // Retention and collections wait for at most as long as they would anyhow.
  const absl::Time end = clock_.Now() + options_.interval;
  Scrubber::Options options;
  options.bytes_per_second = options_.scrub_bytes_per_second;
  options.not_again_within = options_.scrub_cycle;
  options.pause = [this, end](absl::Duration time) { return Pause(time) && clock_.Now() < end; };
  std::deque<FolderSource> folders(options_.repair_from.begin(), options_.repair_from.end());
  std::vector<ChunkSource*> sources;
  for (FolderSource& folder : folders) sources.push_back(&folder);
  GRAFT_ASSIGN_OR_RETURN(const Scrubber::Report report,
                         Scrubber(store_, sources, clock_, options).Run());
  metrics_.Count(report);
  if (report.damages.empty()) return absl::OkStatus();
  absl::flat_hash_set<ChunkId> lost;
  for (const Scrubber::Damage& damage : report.damages) {
    if (!damage.repaired) lost.insert(damage.id);
  }
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> files,
                         FilesWithChunks(store_.db(), lost, kFilesNamed));
  LOG_ERROR("the disk has damaged chunks",
            {{"damaged", report.damages.size()},
             {"repaired", static_cast<int64_t>(report.damages.size()) - report.lost()},
             {"files_to_upload_again", absl::StrJoin(files, ", ")}});
  return absl::OkStatus();
}

absl::Status Upkeep::Show() {
  GRAFT_ASSIGN_OR_RETURN(const StoreStats stats, CountStore(store_.db()));
  metrics_.Show(stats);
  return absl::OkStatus();
}

}  // namespace graft::fileservice
