#include "worker/data/dataset/token_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace graft::data {

absl::StatusOr<CachedTokens> TokenizeCached(const Dataset& dataset, const Tokenizer& tokenizer,
                                            const TokenizeOptions& options,
                                            const TokenSources& sources,
                                            const std::string& folder) {
  GRAFT_ASSIGN_OR_RETURN(const std::string rows, dataset.ContentDigest());
  const std::string key =
      TokenizedKey(rows, sources.tokenizer_digest, sources.template_digest, options);
  CachedTokens out;
  out.path = JoinPath(folder, absl::StrCat(key, ".tokens"));
  if (FileExists(out.path)) {
    absl::StatusOr<TokenizedDataset> loaded = TokenizedDataset::Load(out.path, key);
    if (loaded.ok()) {
      out.data = *std::move(loaded);
      out.from_cache = true;
      return out;
    }
  }
  GRAFT_ASSIGN_OR_RETURN(out.data, TokenizeDataset(dataset, tokenizer, options));
  out.kept = MakeDirectories(folder);
  if (out.kept.ok()) out.kept = out.data.Save(out.path, key);
  return out;
}

}  // namespace graft::data
