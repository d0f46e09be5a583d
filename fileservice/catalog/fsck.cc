#include "fileservice/catalog/fsck.h"

#include <functional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunk_reader.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/catalog/names.h"
#include "fileservice/catalog/records.h"

namespace graft::fileservice {
namespace {

constexpr size_t kProblemsKept = 1000;
constexpr size_t kOpenPacksInCheck = 64;

class Check {
 public:
  Check(const Database& db, Files& files, const std::string& directory)
      : db_(db), at_(db.TakeSnapshot()), reader_(db, files, directory, kOpenPacksInCheck) {}

  absl::StatusOr<FsckReport> Run() {
    GRAFT_RETURN_IF_ERROR(CheckPacks());
    GRAFT_RETURN_IF_ERROR(CheckChunks());
    GRAFT_RETURN_IF_ERROR(CheckFiles());
    GRAFT_RETURN_IF_ERROR(CheckVersions());
    return std::move(report_);
  }

 private:
  void Problem(std::string what) {
    ++report_.problem_count;
    if (report_.problems.size() < kProblemsKept) report_.problems.push_back(std::move(what));
  }
  // A row that cannot be read is a problem too.
  absl::Status Each(
      Column column,
      const std::function<absl::Status(absl::string_view, absl::string_view)>& visit) {
    return db_.Scan(
        column, "",
        [&](absl::string_view key, absl::string_view value) {
          const absl::Status status = visit(key, value);
          if (!status.ok()) Problem(std::string(status.message()));
          return true;
        },
        at_);
  }
  absl::Status CheckPacks();
  absl::Status CheckChunks();
  absl::Status CheckFiles();
  absl::Status CheckVersions();

  const Database& db_;
  const Database::Snapshot at_;
  ChunkReader reader_;
  FsckReport report_;
  absl::flat_hash_map<ChunkId, uint32_t> raw_bytes_;
  absl::flat_hash_set<ChunkId> deltas_;
  struct FileState {
    int64_t size = 0;
    int64_t chunk_count = 0;
    int64_t chunks_seen = 0;
    int64_t bytes_seen = 0;
    bool whole = true;
  };
  absl::flat_hash_map<Sha256Digest, FileState> files_;
};

absl::Status Check::CheckPacks() {
  return Each(Column::kPack, [&](absl::string_view key, absl::string_view value) -> absl::Status {
    ++report_.packs;
    const uint32_t pack = Decoder(key).BigEndian32();
    GRAFT_ASSIGN_OR_RETURN(const PackRow row, PackRow::Decode(value));
    const auto opened = reader_.OpenPack(pack);
    // A collection removes the file first. Chunks that still point into it are found below.
    if (absl::IsNotFound(opened.status())) return absl::OkStatus();
    GRAFT_RETURN_IF_ERROR(opened.status());
    const ReadableFile* file = opened->get();
    if (file->size() < row.committed_bytes) {
      return absl::DataLossError(absl::StrCat(PackFileName(pack), " has ", file->size(), " of its ",
                                              row.committed_bytes, " bytes"));
    }
    std::string header(kPackHeaderBytes, '\0');
    GRAFT_RETURN_IF_ERROR(file->ReadAt(0, header.size(), header.data()));
    return CheckPackHeader(header, pack);
  });
}

absl::Status Check::CheckChunks() {
  std::vector<std::pair<ChunkId, ChunkId>> bases;
  GRAFT_RETURN_IF_ERROR(
      Each(Column::kChunk, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        ++report_.chunks;
        const ChunkId id = DigestFromBytes(key);
        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
        raw_bytes_[id] = row.raw_bytes;
        if (row.encoding == ChunkEncoding::kDeltaPlanesZstd) {
          deltas_.insert(id);
          bases.emplace_back(id, row.base);
        }
        return reader_.CheckHeader(id, row);
      }));
  for (const auto& [id, base] : bases) {
    if (!raw_bytes_.contains(base) || deltas_.contains(base)) {
      Problem(absl::StrCat("chunk ", ToHex(id), " lacks its base ", ToHex(base)));
    }
  }
  return absl::OkStatus();
}

absl::Status Check::CheckFiles() {
  return Each(Column::kFile, [&](absl::string_view key, absl::string_view value) -> absl::Status {
    const Sha256Digest file = DigestFromBytes(key);
    GRAFT_ASSIGN_OR_RETURN(const FilePage page, FilePage::Decode(value));
    FileState& state = files_[file];
    state.size = page.size;
    state.chunk_count = page.chunk_count;
    for (const ChunkRef& chunk : page.chunks) {
      ++state.chunks_seen;
      state.bytes_seen += chunk.size;
      const auto known = raw_bytes_.find(chunk.id);
      if (known == raw_bytes_.end() || known->second != chunk.size) state.whole = false;
    }
    return absl::OkStatus();
  });
}

absl::Status Check::CheckVersions() {
  // uid and number -> its name, empty for what lies outside of the store.
  absl::flat_hash_map<std::string, std::string> names;
  absl::flat_hash_set<std::string> in_place;
  absl::flat_hash_map<std::string, std::string> filesets;
  GRAFT_RETURN_IF_ERROR(
      Each(Column::kFileset, [&](absl::string_view, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const FilesetRecord fileset, FilesetRecord::Decode(value));
        filesets[fileset.uid] = FilesetName{fileset.workspace, fileset.name}.ToString();
        return absl::OkStatus();
      }));
  GRAFT_RETURN_IF_ERROR(
      Each(Column::kVersion, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        ++report_.versions;
        GRAFT_ASSIGN_OR_RETURN(const VersionRecord version, VersionRecord::Decode(value));
        const std::string uid(Decoder(key).KeyString());
        const auto fileset = filesets.find(uid);
        if (fileset == filesets.end()) {
          return absl::DataLossError(
              absl::StrCat("version ", version.number, " is of no fileset (uid ", uid, ")"));
        }
        names[std::string(key)] = absl::StrCat(fileset->second, "/versions/", version.number);
        if (!version.in_place_root.empty()) in_place.insert(std::string(key));
        return absl::OkStatus();
      }));
  return Each(Column::kEntry, [&](absl::string_view key, absl::string_view value) -> absl::Status {
    ++report_.files;
    Decoder in(key);
    const size_t uid_bytes = in.KeyString().size() + 1;
    const std::string version(key.substr(0, uid_bytes + sizeof(uint64_t)));
    const absl::string_view path = key.substr(version.size());
    GRAFT_ASSIGN_OR_RETURN(const Entry entry, Entry::Decode(value));
    const auto name = names.find(version);
    if (name == names.end()) {
      return absl::DataLossError(absl::StrCat("\"", path, "\" is in no version"));
    }
    if (in_place.contains(version)) return absl::OkStatus();
    const auto file = files_.find(entry.sha256);
    if (file != files_.end() && file->second.whole && file->second.size == entry.size &&
        file->second.chunks_seen == file->second.chunk_count &&
        file->second.bytes_seen == entry.size) {
      return absl::OkStatus();
    }
    return absl::DataLossError(
        absl::StrCat(name->second, "/", path, ": ",
                     file == files_.end() ? "its chunk list is gone" : "it lacks chunks"));
  });
}

}  // namespace

absl::StatusOr<FsckReport> CheckStore(const Database& db, Files& files,
                                      const std::string& pack_directory) {
  return Check(db, files, pack_directory).Run();
}

}  // namespace graft::fileservice
