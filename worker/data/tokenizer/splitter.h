// Finding where to cut: a regular expression, a literal or a test of single characters. For the
// expressions of well-known tokenizers there are scanners written by hand (known_patterns.h).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/data/tokenizer/aligned_text.h"
#include "worker/data/tokenizer/regex.h"

namespace graft::data {

// What becomes of the matches; the names are the format's.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

class Finder {
 public:
  virtual ~Finder() = default;
  // Replaces `matches` by all matches in `text`, in order.
  virtual absl::Status Find(absl::string_view text, std::vector<Match>& matches) const = 0;
};

std::unique_ptr<Finder> MakeRegexFinder(Regex regex);
// Matches every single character for which `test` holds.
std::unique_ptr<Finder> MakeCharFinder(bool (*test)(uint32_t code_point));
std::unique_ptr<Finder> MakeCharFinder(uint32_t code_point);

// Cuts `piece`, whose text is `text`, at the matches and appends what is left of it to `out`. With
// `invert` what lies between the matches counts as the matches.
void SplitAt(absl::string_view text, const Piece& piece, const std::vector<Match>& matches,
             SplitBehavior behavior, bool invert, std::vector<Piece>& out);

}  // namespace graft::data
