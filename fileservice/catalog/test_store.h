// A store with its catalog in memory, used as a client uses it: files are cut, asked for, sent,
// staged and published. For tests alone.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/cas/chunker.h"
#include "fileservice/cas/faulty_files.h"
#include "fileservice/catalog/catalog.h"
#include "fileservice/catalog/collector.h"
#include "rocksdb/env.h"

namespace graft::fileservice {

using Contents = std::map<std::string, std::string>;  // path -> content

class TestStore {
 public:
  struct Options {
    uint64_t seed = 1;
    int64_t pack_bytes = 256 << 10;
    // Of the index; null: one of its own, in memory.
    rocksdb::Env* env = nullptr;
    std::string watermark_dir;
    Collector::Options collecting = {
        .grace = absl::ZeroDuration(), .trash_time = absl::ZeroDuration(), .max_share = 1};
  };
  explicit TestStore(Options options)
      : options_(std::move(options)),
        random_(options_.seed),
        files_(options_.seed + 1),
        memory_(rocksdb::NewMemEnv(rocksdb::Env::Default())) {}

  // Opens the store, again if it is open.
  absl::Status Open() {
    Close();
    rocksdb::Env* const env = options_.env != nullptr ? options_.env : memory_.get();
    GRAFT_ASSIGN_OR_RETURN(
        db_, Database::Open("/db", {.watermark_dir = options_.watermark_dir, .env = env}));
    ChunkStore::Options store;
    store.directory = "/packs";
    store.pack_bytes = options_.pack_bytes;
    store.commit_interval = absl::Milliseconds(1);
    GRAFT_ASSIGN_OR_RETURN(store_, ChunkStore::Open(*db_, files_, clock_, store));
    catalog_ = std::make_unique<Catalog>(*db_, *store_, clock_, random_, Catalog::Options());
    return catalog_->Open();
  }
  // From the next Open on.
  void UseEnv(rocksdb::Env* env) { options_.env = env; }
  void Close() {
    catalog_.reset();
    store_.reset();
    db_.reset();
  }

  absl::Status MakeFileset(const std::string& name, int purpose = 0) {
    FilesetRecord fileset;
    fileset.workspace = "ws";
    fileset.name = name;
    fileset.purpose = purpose;
    return catalog_->CreateFileset(fileset, "").status();
  }
  absl::StatusOr<std::string> Session(const std::string& fileset) {
    SessionRecord session;
    session.workspace = "ws";
    session.fileset = fileset;
    GRAFT_ASSIGN_OR_RETURN(session, catalog_->CreateSession(session, ""));
    return session.id;
  }
  absl::Status Stage(const std::string& session, const std::string& path,
                     const std::string& content) {
    ChunkProfile profile = ProfileForName(path);
    const int64_t size = static_cast<int64_t>(content.size());
    const auto chunker = MakeChunker(&profile, content, size);
    FilePage file;
    file.profile = profile;
    std::vector<ChunkId> ids;
    std::vector<absl::string_view> pieces;
    for (absl::string_view rest = content; !rest.empty();) {
      const size_t cut = chunker->Next(rest.substr(0, chunker->max_bytes()));
      pieces.push_back(rest.substr(0, cut));
      ids.push_back(Sha256::Of(pieces.back()));
      file.chunks.push_back({ids.back(), static_cast<uint32_t>(cut)});
      rest.remove_prefix(cut);
    }
    GRAFT_ASSIGN_OR_RETURN(const std::vector<uint32_t> missing,
                           store_->FindMissing("ws", session, ids));
    std::vector<ChunkStore::Ticket> tickets;
    for (const uint32_t i : missing) {
      GRAFT_ASSIGN_OR_RETURN(const auto put,
                             store_->Put({.id = ids[i],
                                          .raw = pieces[i],
                                          .compressible = profile == ChunkProfile::kText,
                                          .session = session}));
      tickets.push_back(put.ticket);
    }
    if (!tickets.empty()) {
      GRAFT_RETURN_IF_ERROR(store_->WaitDurable(tickets.front(), tickets.back()));
    }
    Entry entry;
    entry.size = size;
    entry.sha256 = Sha256::Of(content);
    return catalog_->StageFile(session, path, entry, file);
  }
  absl::StatusOr<int64_t> Publish(const std::string& fileset, const Contents& contents,
                                  const std::string& ref = "") {
    GRAFT_ASSIGN_OR_RETURN(const std::string session, Session(fileset));
    for (const auto& [path, content] : contents) {
      GRAFT_RETURN_IF_ERROR(Stage(session, path, content));
    }
    GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version,
                           catalog_->Publish({.session = session, .ref = ref}));
    return version.version.number;
  }

  absl::StatusOr<Contents> ReadVersion(const ResolvedVersion& version) const {
    std::map<std::string, Entry> entries;
    GRAFT_RETURN_IF_ERROR(
        catalog_->VisitEntries(version, "", "", [&](absl::string_view path, const Entry& entry) {
          entries[std::string(path)] = entry;
          return true;
        }));
    Contents contents;
    for (const auto& [path, entry] : entries) {
      std::string& content = contents[path];
      GRAFT_ASSIGN_OR_RETURN(const FilePage file, catalog_->GetFile(entry.sha256));
      for (const ChunkRef& chunk : file.chunks) {
        GRAFT_ASSIGN_OR_RETURN(const std::string piece, store_->Read(chunk.id));
        content += piece;
      }
      if (Sha256::Of(content) != entry.sha256) {
        return absl::DataLossError(version.name() + "/" + path + " has other bytes");
      }
    }
    return contents;
  }
  absl::StatusOr<Contents> Read(const std::string& fileset, const std::string& version) const {
    GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion resolved,
                           catalog_->Resolve({"ws", fileset}, version));
    return ReadVersion(resolved);
  }
  // Reads every file of every version whole.
  absl::Status ReadEverything(const std::string& fileset) const {
    GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record, catalog_->GetFileset({"ws", fileset}));
    GRAFT_ASSIGN_OR_RETURN(const std::vector<VersionRecord> versions,
                           catalog_->ListVersions(record, INT64_MAX, SIZE_MAX));
    for (const VersionRecord& version : versions) {
      GRAFT_RETURN_IF_ERROR(ReadVersion({record, version}).status());
    }
    return absl::OkStatus();
  }
  absl::StatusOr<Collector::Report> Collect() {
    GRAFT_RETURN_IF_ERROR(store_->SealOpenPack());
    return Collector(*catalog_, *store_, clock_, options_.collecting).Run();
  }
  int64_t PackBytes() {
    int64_t bytes = 0;
    for (const std::string& path : files_.paths()) {
      bytes += static_cast<int64_t>(files_.content(path).size());
    }
    return bytes;
  }

  Collector::Options& collecting() { return options_.collecting; }
  FakeClock& clock() { return clock_; }
  SeededRandom& random() { return random_; }
  FaultyFiles& files() { return files_; }
  Database& db() { return *db_; }
  ChunkStore& store() { return *store_; }
  Catalog& catalog() { return *catalog_; }

 private:
  Options options_;
  FakeClock clock_;
  SeededRandom random_;
  FaultyFiles files_;
  const std::unique_ptr<rocksdb::Env> memory_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<ChunkStore> store_;
  std::unique_ptr<Catalog> catalog_;
};

}  // namespace graft::fileservice
