#include "fileservice/commands.h"

#include <cerrno>
#include <cstdio>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/cas/folder_source.h"
#include "fileservice/cas/scrub.h"
#include "fileservice/catalog/catalog.h"
#include "fileservice/catalog/collector.h"
#include "fileservice/catalog/fsck.h"
#include "fileservice/catalog/rebuild.h"
#include "fileservice/catalog/stats.h"
#include "fileservice/service/settings.h"

namespace graft::fileservice {
namespace {

constexpr size_t kMaxOpenPacks = 64;
constexpr size_t kFilesNamed = 100;
constexpr absl::string_view kUsage =
    R"(  fsck [--rebuild-index]   do index and packs agree? or: make the index from the packs alone
  gc [--dry-run]           give back what no version and no session needs
  scrub [--repair] [--from DIR] [--rate BYTES]
                           read every chunk; mend what is damaged from another data folder, DIR
  stats                    what lies in the store
 each with --data DIR or --config FILE, and --json. fsck, gc --dry-run, scrub and stats look only,
 beside a running daemon; with --rebuild-index, --repair and without --dry-run it must not run.
 gc also takes --max-share F (0.3: refuses to take a larger share of all bytes at once).
 exit codes: 0 done and sound, 1 could not be done, 2 wrong usage, 3 damage was found
)";

struct Arguments {
  Settings settings;
  bool json = false;
  bool rebuild_index = false;
  bool dry_run = false;
  bool repair = false;
  std::vector<std::string> from;
  int64_t rate = 0;
  double max_share = 0;  // 0: what the settings say
};

absl::StatusOr<Arguments> Parse(const std::string& name, const std::vector<std::string>& args) {
  Arguments result;
  std::vector<std::string> others;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& arg = args[i];
    const bool has_value = i + 1 < args.size();
    if (arg == "--json") {
      result.json = true;
    } else if (arg == "--rebuild-index" && name == "fsck") {
      result.rebuild_index = true;
    } else if (arg == "--dry-run" && name == "gc") {
      result.dry_run = true;
    } else if (arg == "--repair" && name == "scrub") {
      result.repair = true;
    } else if (arg == "--from" && name == "scrub" && has_value) {
      result.from.push_back(args[++i]);
    } else if (arg == "--rate" && name == "scrub" && has_value &&
               absl::SimpleAtoi(args[i + 1], &result.rate) && result.rate > 0) {
      ++i;
    } else if (arg == "--max-share" && name == "gc" && has_value &&
               absl::SimpleAtod(args[i + 1], &result.max_share) && result.max_share > 0) {
      ++i;
    } else {
      others.push_back(arg);
    }
  }
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> words,
                         ReadSettings(others, result.settings));
  if (!words.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unknown word ", words[0]));
  }
  if (!FileExists(result.settings.data())) {
    return absl::NotFoundError(absl::StrCat("there is no folder ", result.settings.data()));
  }
  return result;
}

std::string Bytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

absl::StatusOr<std::unique_ptr<Database>> OpenView(const Settings& settings) {
  return Database::Open(IndexFolder(settings), {.read_only = true});
}

// A store that no daemon runs on.
struct OpenStore {
  RealClock clock;
  SecureRandom random;
  std::unique_ptr<Database> db;
  std::unique_ptr<ChunkStore> store;
  std::unique_ptr<Catalog> catalog;

  absl::Status Open(const Settings& settings) {
    GRAFT_ASSIGN_OR_RETURN(
        db, Database::Open(IndexFolder(settings), {.watermark_dir = WatermarkFolder(settings)}));
    ChunkStore::Options options;
    options.directory = PackFolder(settings);
    options.pack_bytes = settings.pack_bytes();
    options.reserve_bytes = settings.reserve_bytes();
    GRAFT_ASSIGN_OR_RETURN(store, ChunkStore::Open(*db, RealFiles(), clock, options));
    catalog = std::make_unique<Catalog>(*db, *store, clock, random, Catalog::Options());
    return catalog->Open();
  }
};

void PrintJson(const Json::Object& object) { std::cout << Json(object).Dump() << "\n"; }

Json Lines(const std::vector<std::string>& lines) {
  Json::Array array;
  for (const std::string& line : lines) array.emplace_back(line);
  return Json(std::move(array));
}

// Puts a made index in the old one's place, which is kept under another name.
absl::Status Exchange(const std::string& made, const std::string& place, const std::string& kept) {
  if (FileExists(place) && std::rename(place.c_str(), kept.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot rename ", place, " to ", kept));
  }
  if (std::rename(made.c_str(), place.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot rename ", made, " to ", place));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Rebuild(const Arguments& arguments) {
  const Settings& settings = arguments.settings;
  GRAFT_RETURN_IF_ERROR(Database::CheckUnused(IndexFolder(settings)));
  RealClock clock;
  const std::string made = absl::StrCat(IndexFolder(settings), ".new");
  const std::string made_watermark = absl::StrCat(WatermarkFolder(settings), ".new");
  GRAFT_RETURN_IF_ERROR(RemoveTree(made));
  GRAFT_RETURN_IF_ERROR(RemoveTree(made_watermark));
  RebuildReport report;
  {
    GRAFT_ASSIGN_OR_RETURN(const auto db, Database::Open(made, {.watermark_dir = made_watermark}));
    GRAFT_ASSIGN_OR_RETURN(report, RebuildIndex(*db, RealFiles(), PackFolder(settings), clock));
  }
  const std::string kept = absl::StrCat(".lost-", absl::ToUnixSeconds(clock.WallNow()));
  GRAFT_RETURN_IF_ERROR(
      Exchange(made_watermark, WatermarkFolder(settings), WatermarkFolder(settings) + kept));
  GRAFT_RETURN_IF_ERROR(Exchange(made, IndexFolder(settings), IndexFolder(settings) + kept));
  GRAFT_RETURN_IF_ERROR(SyncDirectory(settings.data()));
  if (arguments.json) {
    PrintJson({{"packs", report.packs},
               {"chunks", report.chunks},
               {"chunk_bytes", report.chunk_bytes},
               {"filesets", report.filesets},
               {"versions", report.versions},
               {"refs", report.refs},
               {"losses", Lines(report.losses)}});
  } else {
    std::cout << "made the index from " << report.packs << " packs: " << report.chunks
              << " chunks (" << Bytes(report.chunk_bytes) << "), " << report.filesets
              << " filesets, " << report.versions << " versions, " << report.refs << " refs\n"
              << "the old one is kept as " << IndexFolder(settings) << kept << "\n"
              << "gone are pins (the scheduler puts its own again), upload sessions and request "
                 "ids; versions deleted shortly before may be back\n";
    for (const std::string& loss : report.losses) std::cout << "lost: " << loss << "\n";
  }
  return report.losses.empty() ? kExitSound : kExitDamage;
}

absl::StatusOr<int> Fsck(const Arguments& arguments) {
  if (arguments.rebuild_index) return Rebuild(arguments);
  GRAFT_ASSIGN_OR_RETURN(const auto db, OpenView(arguments.settings));
  GRAFT_ASSIGN_OR_RETURN(const FsckReport report,
                         CheckStore(*db, RealFiles(), PackFolder(arguments.settings)));
  if (arguments.json) {
    PrintJson({{"packs", report.packs},
               {"chunks", report.chunks},
               {"versions", report.versions},
               {"files", report.files},
               {"problem_count", report.problem_count},
               {"problems", Lines(report.problems)}});
  } else {
    std::cout << "looked at " << report.packs << " packs, " << report.chunks << " chunks, "
              << report.versions << " versions with " << report.files << " files\n";
    for (const std::string& problem : report.problems) std::cout << "problem: " << problem << "\n";
    if (report.problem_count == 0) {
      std::cout << "index and packs agree\n";
    } else {
      std::cout << report.problem_count << " problems; where chunks are gone, upload the files "
                << "again or run `graft-fileservice scrub --repair --from ANOTHER_STORE`; where "
                   "rows are wrong, run `graft-fileservice fsck --rebuild-index`\n";
    }
  }
  return report.problem_count == 0 ? kExitSound : kExitDamage;
}

void PrintCollection(const Collector::Report& report, bool dry_run, bool json) {
  if (json) {
    PrintJson({{"dry_run", dry_run},
               {"live_chunks", report.live_chunks},
               {"live_bytes", report.live_bytes},
               {"trashed_chunks", report.trashed_chunks},
               {"trashed_bytes", report.trashed_bytes},
               {"removed_packs", report.removed_packs},
               {"compacted_packs", report.compacted_packs}});
    return;
  }
  std::cout << "needed: " << report.live_chunks << " chunks, " << Bytes(report.live_bytes) << "\n"
            << (dry_run ? "would go: " : "gone to the trash: ") << report.trashed_chunks
            << " chunks, " << Bytes(report.trashed_bytes) << "\n";
  if (!dry_run) {
    std::cout << "removed " << report.removed_packs << " packs, of which " << report.compacted_packs
              << " were rewritten\n";
  }
}

absl::StatusOr<int> Gc(const Arguments& arguments) {
  const Settings& settings = arguments.settings;
  Collector::Options options;
  options.grace = absl::Seconds(settings.gc_grace_s());
  options.trash_time = absl::Seconds(settings.gc_trash_s());
  options.max_share = static_cast<double>(settings.gc_max_percent()) / 100;
  if (arguments.max_share > 0) options.max_share = arguments.max_share;
  if (arguments.dry_run) {
    GRAFT_ASSIGN_OR_RETURN(const auto db, OpenView(settings));
    RealClock clock;
    GRAFT_ASSIGN_OR_RETURN(const Collector::Report report, Collector::DryRun(*db, clock, options));
    PrintCollection(report, true, arguments.json);
    return kExitSound;
  }
  OpenStore open;
  GRAFT_RETURN_IF_ERROR(open.Open(settings));
  Collector collector(*open.catalog, *open.store, open.clock, options);
  GRAFT_ASSIGN_OR_RETURN(const Collector::Report report, collector.Run());
  PrintCollection(report, false, arguments.json);
  return kExitSound;
}

absl::StatusOr<int> PrintScrub(const Database& db, const Scrubber::Report& report, bool json) {
  absl::flat_hash_set<ChunkId> lost;
  std::vector<std::string> findings;
  for (const Scrubber::Damage& damage : report.damages) {
    if (!damage.repaired) lost.insert(damage.id);
    findings.push_back(absl::StrCat(ToHex(damage.id), " in ", PackFileName(damage.row.pack), " at ",
                                    damage.row.offset, damage.repaired ? " (repaired): " : ": ",
                                    damage.what));
  }
  std::vector<std::string> files;
  if (!lost.empty()) {
    GRAFT_ASSIGN_OR_RETURN(files, FilesWithChunks(db, lost, kFilesNamed));
  }
  const int64_t repaired = static_cast<int64_t>(report.damages.size()) - report.lost();
  if (json) {
    PrintJson({{"packs", report.packs},
               {"chunks", report.chunks},
               {"bytes", report.bytes},
               {"damaged", static_cast<int64_t>(report.damages.size())},
               {"repaired", repaired},
               {"found_again", report.found_again},
               {"findings", Lines(findings)},
               {"files", Lines(files)}});
  } else {
    std::cout << "read " << report.chunks << " chunks (" << Bytes(report.bytes) << ") of "
              << report.packs << " packs: " << report.damages.size() << " damaged, " << repaired
              << " repaired, " << report.found_again << " found again\n";
    for (const std::string& finding : findings) std::cout << "damaged: " << finding << "\n";
    for (const std::string& file : files) std::cout << "cannot be read: " << file << "\n";
    if (!lost.empty()) {
      std::cout
          << "to mend them upload these files again, or run `graft-fileservice scrub --repair "
             "--from ANOTHER_STORE` while the daemon is stopped\n";
    }
  }
  return lost.empty() ? kExitSound : kExitDamage;
}

absl::StatusOr<int> Scrub(const Arguments& arguments) {
  Scrubber::Options options;
  options.bytes_per_second = arguments.rate;
  options.pause = [](absl::Duration time) {
    absl::SleepFor(time);
    return true;
  };
  if (!arguments.repair) {
    GRAFT_ASSIGN_OR_RETURN(const auto db, OpenView(arguments.settings));
    RealClock clock;
    const ChunkReader reader(*db, RealFiles(), PackFolder(arguments.settings), kMaxOpenPacks);
    GRAFT_ASSIGN_OR_RETURN(const Scrubber::Report report,
                           Scrubber(*db, reader, clock, options).Run());
    return PrintScrub(*db, report, arguments.json);
  }
  OpenStore open;
  GRAFT_RETURN_IF_ERROR(open.Open(arguments.settings));
  std::vector<std::unique_ptr<FolderSource>> folders;
  std::vector<ChunkSource*> sources;
  for (const std::string& folder : arguments.from) {
    folders.push_back(std::make_unique<FolderSource>(folder));
    GRAFT_RETURN_IF_ERROR(folders.back()->Open());
    sources.push_back(folders.back().get());
  }
  GRAFT_ASSIGN_OR_RETURN(const Scrubber::Report report,
                         Scrubber(*open.store, sources, open.clock, options).Run());
  return PrintScrub(*open.db, report, arguments.json);
}

absl::StatusOr<int> Stats(const Arguments& arguments) {
  GRAFT_ASSIGN_OR_RETURN(const auto db, OpenView(arguments.settings));
  GRAFT_ASSIGN_OR_RETURN(const StoreStats stats, CountStore(*db));
  if (arguments.json) {
    Json::Object workspaces;
    for (const auto& [name, workspace] : stats.workspaces) {
      workspaces.emplace_back(name, Json::Object{{"logical_bytes", workspace.logical_bytes},
                                                 {"reserved_bytes", workspace.reserved_bytes},
                                                 {"physical_bytes", workspace.physical_bytes}});
    }
    PrintJson({{"filesets", stats.filesets},
               {"versions", stats.versions},
               {"files", stats.files},
               {"open_sessions", stats.open_sessions},
               {"logical_bytes", stats.logical_bytes()},
               {"chunks", stats.chunks},
               {"raw_bytes", stats.raw_bytes},
               {"stored_bytes", stats.stored_bytes},
               {"dedup_ratio", stats.dedup_ratio()},
               {"packs", stats.packs},
               {"pack_bytes", stats.pack_bytes},
               {"liveness", stats.liveness()},
               {"trash_bytes", stats.trash_bytes},
               {"lost_chunks", stats.lost_chunks},
               {"index_bytes", stats.index_bytes},
               {"workspaces", Json(std::move(workspaces))}});
    return kExitSound;
  }
  std::cout << absl::StrFormat(
      "filesets      %d (%d versions, %d files, %d open uploads)\n"
      "files         %s in all versions\n"
      "chunks        %d: %s raw, %s stored; a stored byte holds %.2f bytes of files\n"
      "packs         %d: %s, %.0f %% of it live\n"
      "trash         %s\n"
      "lost          %d chunks\n"
      "index         %s\n",
      stats.filesets, stats.versions, stats.files, stats.open_sessions,
      Bytes(stats.logical_bytes()), stats.chunks, Bytes(stats.raw_bytes), Bytes(stats.stored_bytes),
      stats.dedup_ratio(), stats.packs, Bytes(stats.pack_bytes), 100 * stats.liveness(),
      Bytes(stats.trash_bytes), stats.lost_chunks, Bytes(stats.index_bytes));
  for (const auto& [name, workspace] : stats.workspaces) {
    std::cout << absl::StrFormat("workspace %s: %s logical, %s reserved, %s physical\n", name,
                                 Bytes(workspace.logical_bytes), Bytes(workspace.reserved_bytes),
                                 Bytes(workspace.physical_bytes));
  }
  return kExitSound;
}

using Command = absl::StatusOr<int> (*)(const Arguments&);

Command FindCommand(const std::string& name) {
  if (name == "fsck") return Fsck;
  if (name == "gc") return Gc;
  if (name == "scrub") return Scrub;
  if (name == "stats") return Stats;
  return nullptr;
}

}  // namespace

bool IsCommand(const std::string& name) { return FindCommand(name) != nullptr; }

std::string CommandUsage() { return std::string(kUsage); }

int RunCommand(const std::string& name, const std::vector<std::string>& args) {
  const absl::StatusOr<Arguments> arguments = Parse(name, args);
  if (!arguments.ok()) {
    std::cerr << "graft-fileservice " << name << ": " << arguments.status().message() << "\n"
              << kUsage;
    return kExitUsage;
  }
  const absl::StatusOr<int> code = FindCommand(name)(*arguments);
  if (code.ok()) return *code;
  std::cerr << "graft-fileservice " << name << ": " << code.status().message() << "\n";
  return kExitFailed;
}

}  // namespace graft::fileservice
