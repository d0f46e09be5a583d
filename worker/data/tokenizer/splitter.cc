#include "worker/data/tokenizer/splitter.h"

#include <algorithm>
#include <utility>

#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

class RegexFinder final : public Finder {
 public:
  explicit RegexFinder(Regex regex) : regex_(std::move(regex)) {}
  absl::Status Find(absl::string_view text, std::vector<Match>& matches) const override {
    return regex_.FindAll(text, matches);
  }

 private:
  Regex regex_;
};

template <typename Test>
class CharFinder final : public Finder {
 public:
  explicit CharFinder(Test test) : test_(test) {}
  absl::Status Find(absl::string_view text, std::vector<Match>& matches) const override {
    matches.clear();
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      if (!test_(NextCodePoint(text, at))) continue;
      matches.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(at)});
    }
    return absl::OkStatus();
  }

 private:
  Test test_;
};

// A stretch of the text; `match` where it is to be cut out.
struct Part {
  uint32_t begin;
  uint32_t end;
  bool match;
};

std::vector<Part> PartsOf(size_t size, const std::vector<Match>& matches, bool invert) {
  std::vector<Part> parts;
  uint32_t at = 0;
  for (const Match& match : matches) {
    if (at != match.begin) parts.push_back({at, match.begin, invert});
    parts.push_back({match.begin, match.end, !invert});
    at = match.end;
  }
  if (at != size) parts.push_back({at, static_cast<uint32_t>(size), invert});
  return parts;
}

// Joins neighbours: with `contiguous` those of one kind, else each match to what is before it.
std::vector<Part> Joined(const std::vector<Part>& parts, bool contiguous) {
  std::vector<Part> joined;
  bool previous_match = false;
  for (const Part& part : parts) {
    const bool join = contiguous ? part.match == previous_match : part.match && !previous_match;
    if (join && !joined.empty()) {
      joined.back().end = part.end;
    } else {
      joined.push_back({part.begin, part.end, false});
    }
    previous_match = part.match;
  }
  return joined;
}

std::vector<Part> JoinedToNext(const std::vector<Part>& parts) {
  std::vector<Part> joined;
  bool previous_match = false;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->match && !previous_match && !joined.empty()) {
      joined.back().begin = part->begin;
    } else {
      joined.push_back({part->begin, part->end, false});
    }
    previous_match = part->match;
  }
  std::reverse(joined.begin(), joined.end());
  return joined;
}

}  // namespace

std::unique_ptr<Finder> MakeRegexFinder(Regex regex) {
  return std::make_unique<RegexFinder>(std::move(regex));
}

std::unique_ptr<Finder> MakeCharFinder(bool (*test)(uint32_t)) {
  return std::make_unique<CharFinder<bool (*)(uint32_t)>>(test);
}

std::unique_ptr<Finder> MakeCharFinder(uint32_t wanted) {
  const auto test = [wanted](uint32_t code_point) { return code_point == wanted; };
  return std::make_unique<CharFinder<decltype(test)>>(test);
}

void SplitAt(absl::string_view text, const Piece& piece, const std::vector<Match>& matches,
             SplitBehavior behavior, bool invert, std::vector<Piece>& out) {
  const auto add = [&](uint32_t begin, uint32_t end) {
    if (begin < end) out.push_back({piece.begin + begin, piece.begin + end});
  };
  if (behavior == SplitBehavior::kIsolated) {
    uint32_t at = 0;
    for (const Match& match : matches) {
      add(at, match.begin);
      add(match.begin, match.end);
      at = match.end;
    }
    add(at, static_cast<uint32_t>(text.size()));
    return;
  }
  std::vector<Part> parts = PartsOf(text.size(), matches, invert);
  if (behavior == SplitBehavior::kContiguous) {
    parts = Joined(parts, true);
  } else if (behavior == SplitBehavior::kMergedWithPrevious) {
    parts = Joined(parts, false);
  } else if (behavior == SplitBehavior::kMergedWithNext) {
    parts = JoinedToNext(parts);
  }
  for (const Part& part : parts) {
    if (behavior != SplitBehavior::kRemoved || !part.match) add(part.begin, part.end);
  }
}

}  // namespace graft::data
