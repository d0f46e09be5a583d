#include "worker/data/dataset/token_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace graft::data {
namespace {

constexpr absl::string_view kEnding = ".tokens";

struct KeptFile {
  std::string path;
  int64_t bytes = 0;
  timespec used = {};
};

// Marks a file as used now, so that it is the last to go. Where that fails it goes sooner.
void Touch(const std::string& path) { utimensat(AT_FDCWD, path.c_str(), nullptr, 0); }

// Removes what was used longest ago until the others and `newest` fit into `max_bytes`.
void MakeRoom(const std::string& folder, const std::string& newest, int64_t max_bytes) {
  const absl::StatusOr<std::vector<std::string>> names = ListDirectory(folder);
  if (!names.ok()) return;
  std::vector<KeptFile> files;
  int64_t sum = 0;
  for (const std::string& name : *names) {
    KeptFile file = {JoinPath(folder, name)};
    struct stat info;
    if (!absl::EndsWith(name, kEnding) || stat(file.path.c_str(), &info) != 0) continue;
    file.bytes = info.st_size;
    file.used = info.st_mtim;
    sum += file.bytes;
    if (file.path != newest) files.push_back(std::move(file));
  }
  std::sort(files.begin(), files.end(), [](const KeptFile& a, const KeptFile& b) {
    return std::make_pair(a.used.tv_sec, a.used.tv_nsec) <
           std::make_pair(b.used.tv_sec, b.used.tv_nsec);
  });
  for (const KeptFile& file : files) {
    if (sum <= max_bytes) return;
    if (unlink(file.path.c_str()) == 0) sum -= file.bytes;
  }
}

}  // namespace

absl::StatusOr<CachedTokens> TokenizeCached(const Dataset& dataset, const Tokenizer& tokenizer,
                                            const TokenizeOptions& options,
                                            const TokenSources& sources, const std::string& folder,
                                            int64_t max_bytes) {
  GRAFT_ASSIGN_OR_RETURN(const std::string rows, dataset.ContentDigest());
  const std::string key =
      TokenizedKey(rows, sources.tokenizer_digest, sources.template_digest, options);
  CachedTokens out;
  out.path = JoinPath(folder, absl::StrCat(key, kEnding));
  if (FileExists(out.path)) {
    absl::StatusOr<TokenizedDataset> loaded = TokenizedDataset::Load(out.path, key);
    if (loaded.ok()) {
      Touch(out.path);
      out.data = *std::move(loaded);
      out.from_cache = true;
      return out;
    }
  }
  GRAFT_ASSIGN_OR_RETURN(out.data, TokenizeDataset(dataset, tokenizer, options));
  out.kept = MakeDirectories(folder);
  if (out.kept.ok()) out.kept = out.data.Save(out.path, key);
  if (out.kept.ok()) MakeRoom(folder, out.path, max_bytes);
  return out;
}

}  // namespace graft::data
