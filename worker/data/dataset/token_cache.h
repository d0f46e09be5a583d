// Tokens that are kept beside their dataset, so that a second look at the same rows (the job's
// check and then its training, a resumed run, the ranks of one node) maps them instead of making
// them again.
//
//   GRAFT_ASSIGN_OR_RETURN(CachedTokens made, TokenizeCached(dataset, tokenizer, options,
//       {.tokenizer_digest = ..., .template_digest = ...}, "/cache/tokens"));
//
// A file's name and content carry the key of everything that the tokens hang on (TokenizedKey), so
// a changed row, tokenizer, template or option makes new ones and never reads old ones.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/dataset/dataset.h"
#include "worker/data/dataset/tokenized.h"

namespace graft::data {

// Digests of what cannot be asked for its own: the bytes of the tokenizer's file and the text of
// the template (empty without one).
struct TokenSources {
  std::string tokenizer_digest;
  std::string template_digest;
};

struct CachedTokens {
  TokenizedDataset data;
  bool from_cache = false;
  std::string path;
  // Why they could not be kept, where they could not: the tokens themselves are good.
  absl::Status kept;
};

// Bytes that a folder of tokens may hold, about five thousand million tokens' worth; beyond them
// the files that were used longest ago go.
constexpr int64_t kMaxTokenCacheBytes = int64_t{24} << 30;

// The tokens of `dataset` from `folder` (made where it is not there), or made and put there. A torn
// file is made again. Several processes may do so at the same time: each writes a whole file and
// the last one stays; one that goes while it is mapped stays readable. Errors are those of
// TokenizeDataset().
absl::StatusOr<CachedTokens> TokenizeCached(const Dataset& dataset, const Tokenizer& tokenizer,
                                            const TokenizeOptions& options,
                                            const TokenSources& sources, const std::string& folder,
                                            int64_t max_bytes = kMaxTokenCacheBytes);

}  // namespace graft::data
