#include "worker/data/tokenizer/pre_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/json_fields.h"
#include "worker/data/tokenizer/known_patterns.h"
#include "worker/data/tokenizer/splitter.h"
#include "worker/data/unicode/unicode.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr absl::string_view kPreTokenizer = "pre_tokenizer";

// Rebuilds the text from its pieces, each edited by `edit`.
template <typename Edit>
absl::Status RewritePieces(PreTokenized& text, Edit edit) {
  std::string rewritten;
  std::vector<Origin> origins;
  std::vector<Piece> pieces;
  for (const Piece& piece : text.pieces) {
    EditableText editable(text.text, piece);
    if (piece.token == Piece::kNone) GRAFT_RETURN_IF_ERROR(edit(editable));
    const auto begin = static_cast<uint32_t>(rewritten.size());
    editable.AppendTo(rewritten, origins);
    if (rewritten.size() > begin) {
      pieces.push_back({begin, static_cast<uint32_t>(rewritten.size()), piece.token});
    }
  }
  text.text = AlignedText(std::move(rewritten), std::move(origins));
  text.pieces = std::move(pieces);
  return absl::OkStatus();
}

class SplitPreTokenizer final : public PreTokenizer {
 public:
  SplitPreTokenizer(std::unique_ptr<Finder> finder, SplitBehavior behavior, bool invert = false)
      : finder_(std::move(finder)), behavior_(behavior), invert_(invert) {}

  absl::Status Apply(PreTokenized& text) const override {
    std::vector<Piece> pieces;
    pieces.reserve(text.pieces.size() + text.text.text().size() / 4);
    std::vector<Match> matches;
    for (const Piece& piece : text.pieces) {
      if (piece.token != Piece::kNone) {
        pieces.push_back(piece);
        continue;
      }
      const absl::string_view slice = text.text.Slice(piece);
      GRAFT_RETURN_IF_ERROR(finder_->Find(slice, matches));
      SplitAt(slice, piece, matches, behavior_, invert_, pieces);
    }
    text.pieces = std::move(pieces);
    return absl::OkStatus();
  }

 private:
  std::unique_ptr<Finder> finder_;
  SplitBehavior behavior_;
  bool invert_;
};

class SequencePreTokenizer final : public PreTokenizer {
 public:
  explicit SequencePreTokenizer(std::vector<std::unique_ptr<PreTokenizer>> parts)
      : parts_(std::move(parts)) {}
  absl::Status Apply(PreTokenized& text) const override {
    for (const auto& part : parts_) GRAFT_RETURN_IF_ERROR(part->Apply(text));
    return absl::OkStatus();
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

// The space that ByteLevel puts before each piece that has none.
class PrefixSpacePreTokenizer final : public PreTokenizer {
 public:
  absl::Status Apply(PreTokenized& text) const override {
    return RewritePieces(text, [](EditableText& piece) {
      if (!piece.empty() && piece.text()[0] != ' ') piece.Prepend(" ");
      return absl::OkStatus();
    });
  }
};

class PrintableBytesPreTokenizer final : public PreTokenizer {
 public:
  absl::Status Apply(PreTokenized& text) const override {
    ToPrintableBytes(text);
    return absl::OkStatus();
  }
};

class MetaspacePreTokenizer final : public PreTokenizer {
 public:
  enum class Prepend { kFirst, kAlways, kNever };

  MetaspacePreTokenizer(uint32_t replacement, Prepend prepend) : prepend_(prepend) {
    AppendCodePoint(replacement, replacement_);
  }
  absl::Status Apply(PreTokenized& text) const override {
    return RewritePieces(text, [this](EditableText& piece) {
      std::vector<Match> spaces;
      for (size_t at = piece.text().find(' '); at != absl::string_view::npos;
           at = piece.text().find(' ', at + 1)) {
        spaces.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(at + 1)});
      }
      const uint32_t origin = piece.first_origin();
      piece.Replace(spaces, replacement_);
      const bool wanted =
          prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && origin == 0);
      if (wanted && piece.text().substr(0, replacement_.size()) != replacement_) {
        piece.Prepend(replacement_);
      }
      return absl::OkStatus();
    });
  }

 private:
  std::string replacement_;
  Prepend prepend_;
};

class FixedLengthPreTokenizer final : public PreTokenizer {
 public:
  explicit FixedLengthPreTokenizer(int64_t length) : length_(length) {}
  absl::Status Apply(PreTokenized& text) const override {
    std::vector<Piece> pieces;
    for (const Piece& piece : text.pieces) {
      if (piece.token != Piece::kNone) {
        pieces.push_back(piece);
        continue;
      }
      for (uint32_t at = piece.begin; at < piece.end;) {
        const uint32_t begin = at;
        for (int64_t i = 0; i < length_ && at < piece.end; ++i) {
          at += Utf8Length(text.text.text()[at]);
        }
        pieces.push_back({begin, at});
      }
    }
    text.pieces = std::move(pieces);
    return absl::OkStatus();
  }

 private:
  int64_t length_;
};

// Cuts where the script changes. Characters of class 0 go with what is before them; as in the
// reference they are lost where nothing is.
class ScriptsPreTokenizer final : public PreTokenizer {
 public:
  absl::Status Apply(PreTokenized& text) const override {
    std::vector<Piece> pieces;
    for (const Piece& piece : text.pieces) {
      if (piece.token != Piece::kNone) {
        pieces.push_back(piece);
        continue;
      }
      uint8_t last = 0;
      bool open = false;
      uint32_t begin = piece.begin;
      for (size_t at = piece.begin; at < piece.end;) {
        const auto start = static_cast<uint32_t>(at);
        const uint8_t script = RecordOf(NextCodePoint(text.text.text(), at)).splitter_class;
        if (script == 0 || (open && script == last)) continue;
        if (open) pieces.push_back({begin, start});
        open = true;
        begin = start;
        last = script;
      }
      if (open) pieces.push_back({begin, piece.end});
    }
    text.pieces = std::move(pieces);
    return absl::OkStatus();
  }
};

bool IsNumeric(uint32_t c) { return HasFlag(c, kNumericFlag); }
bool IsPunctuation(uint32_t c) { return HasFlag(c, kPunctuationFlag); }

// \w+|[^\w\s]+, what is between the matches removed.
class WordFinder final : public Finder {
 public:
  absl::Status Find(absl::string_view text, std::vector<Match>& matches) const override {
    enum Kind { kSpace, kWord, kOther };
    const auto kind_of = [](uint32_t c) {
      return IsWord(c) ? kWord : IsWhiteSpace(c) ? kSpace : kOther;
    };
    matches.clear();
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      const Kind kind = kind_of(NextCodePoint(text, at));
      for (size_t next = at; at < text.size(); at = next) {
        if (kind_of(NextCodePoint(text, next)) != kind) break;
      }
      if (kind == kSpace) continue;
      matches.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(at)});
    }
    return absl::OkStatus();
  }
};

absl::StatusOr<SplitBehavior> BehaviorField(const Json& json, SplitBehavior fallback) {
  const Json* value = json.Find("behavior");
  if (value == nullptr) return fallback;
  const std::string name = value->is_string() ? value->as_string() : "";
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return WrongField(kPreTokenizer, "behavior",
                    "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", value);
}

using Parts = std::vector<std::unique_ptr<PreTokenizer>>;

absl::Status ParseSplit(const Json& json, Parts& parts) {
  GRAFT_ASSIGN_OR_RETURN(const SplitBehavior behavior,
                         BehaviorField(json, SplitBehavior::kIsolated));
  GRAFT_ASSIGN_OR_RETURN(const bool invert, BoolField(json, kPreTokenizer, "invert", false));
  const Json* pattern = json.Find("pattern");
  const Json* regex = pattern == nullptr ? nullptr : pattern->Find("Regex");
  if (regex != nullptr && regex->is_string()) {
    if (auto known = MakeKnownPatternFinder(regex->as_string())) {
      parts.push_back(std::make_unique<SplitPreTokenizer>(std::move(known), behavior, invert));
      return absl::OkStatus();
    }
  }
  GRAFT_ASSIGN_OR_RETURN(Regex compiled, PatternField(json, kPreTokenizer));
  parts.push_back(
      std::make_unique<SplitPreTokenizer>(MakeRegexFinder(std::move(compiled)), behavior, invert));
  return absl::OkStatus();
}

absl::Status ParseByteLevel(const Json& json, Parts& parts) {
  GRAFT_ASSIGN_OR_RETURN(const bool prefix,
                         BoolField(json, kPreTokenizer, "add_prefix_space", true));
  GRAFT_ASSIGN_OR_RETURN(const bool use_regex, BoolField(json, kPreTokenizer, "use_regex", true));
  if (prefix) parts.push_back(std::make_unique<PrefixSpacePreTokenizer>());
  if (use_regex) {
    parts.push_back(std::make_unique<SplitPreTokenizer>(MakeKnownPatternFinder(kGpt2Pattern),
                                                        SplitBehavior::kIsolated));
  }
  return absl::OkStatus();
}

absl::Status ParseMetaspace(const Json& json, Parts& parts) {
  using Prepend = MetaspacePreTokenizer::Prepend;
  GRAFT_ASSIGN_OR_RETURN(const uint32_t replacement, CharField(json, kPreTokenizer, "replacement"));
  GRAFT_ASSIGN_OR_RETURN(const bool split, BoolField(json, kPreTokenizer, "split", true));
  GRAFT_ASSIGN_OR_RETURN(const bool prefix,
                         BoolField(json, kPreTokenizer, "add_prefix_space", true));
  const std::string scheme = json.GetString("prepend_scheme", "always");
  Prepend prepend = Prepend::kNever;
  if (scheme == "first") {
    prepend = Prepend::kFirst;
  } else if (scheme == "always") {
    prepend = Prepend::kAlways;
  } else if (scheme != "never") {
    return WrongField(kPreTokenizer, "prepend_scheme", "first, always or never",
                      json.Find("prepend_scheme"));
  }
  if (!prefix && prepend != Prepend::kNever) {
    if (json.Find("prepend_scheme") != nullptr) {
      return absl::InvalidArgumentError(
          "tokenizer.json: pre_tokenizer.add_prefix_space and prepend_scheme contradict each "
          "other");
    }
    return absl::InvalidArgumentError(
        "tokenizer.json: pre_tokenizer.add_prefix_space is false, which needs prepend_scheme "
        "never");
  }
  parts.push_back(std::make_unique<MetaspacePreTokenizer>(replacement, prepend));
  if (split) {
    parts.push_back(std::make_unique<SplitPreTokenizer>(MakeCharFinder(replacement),
                                                        SplitBehavior::kMergedWithNext));
  }
  return absl::OkStatus();
}

// A pre-tokenizer of one type without members, or with simple ones.
absl::Status ParseSimple(const std::string& type, const Json& json, Parts& parts) {
  const auto add = [&parts](std::unique_ptr<Finder> finder, SplitBehavior behavior,
                            bool invert = false) {
    parts.push_back(std::make_unique<SplitPreTokenizer>(std::move(finder), behavior, invert));
    return absl::OkStatus();
  };
  if (type == "Whitespace")
    return add(std::make_unique<WordFinder>(), SplitBehavior::kRemoved, true);
  if (type == "WhitespaceSplit") {
    return add(MakeCharFinder(IsWhiteSpace), SplitBehavior::kRemoved);
  }
  if (type == "BertPreTokenizer") {
    GRAFT_RETURN_IF_ERROR(add(MakeCharFinder(IsWhiteSpace), SplitBehavior::kRemoved));
    return add(MakeCharFinder(IsPunctuation), SplitBehavior::kIsolated);
  }
  if (type == "Punctuation") {
    GRAFT_ASSIGN_OR_RETURN(const SplitBehavior behavior,
                           BehaviorField(json, SplitBehavior::kIsolated));
    return add(MakeCharFinder(IsPunctuation), behavior);
  }
  if (type == "Digits") {
    GRAFT_ASSIGN_OR_RETURN(const bool single,
                           BoolField(json, kPreTokenizer, "individual_digits", false));
    return add(MakeCharFinder(IsNumeric),
               single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "CharDelimiterSplit") {
    GRAFT_ASSIGN_OR_RETURN(const uint32_t delimiter, CharField(json, kPreTokenizer, "delimiter"));
    return add(MakeCharFinder(delimiter), SplitBehavior::kRemoved);
  }
  if (type == "FixedLength") {
    int64_t length = 5;
    if (json.Find("length") != nullptr) {
      GRAFT_ASSIGN_OR_RETURN(length, IntField(json, kPreTokenizer, "length", 1, 1 << 30));
    }
    parts.push_back(std::make_unique<FixedLengthPreTokenizer>(length));
    return absl::OkStatus();
  }
  if (type == "UnicodeScripts") {
    parts.push_back(std::make_unique<ScriptsPreTokenizer>());
    return absl::OkStatus();
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json: the pre-tokenizer '", type, "' is not known"));
}

// `byte_level`: the part before was a ByteLevel whose bytes have not been put into printable form.
absl::Status ParsePreTokenizer(const Json& json, int depth, Parts& parts, bool& byte_level) {
  if (depth > kMaxPartDepth) {
    return absl::InvalidArgumentError("tokenizer.json: pre-tokenizers are nested too deeply");
  }
  GRAFT_ASSIGN_OR_RETURN(const std::string type, TypeField(json, kPreTokenizer));
  if (type == "Sequence") {
    const Json* members = json.Find("pretokenizers");
    if (members == nullptr || !members->is_array()) {
      return WrongField(kPreTokenizer, "pretokenizers", "an array", members);
    }
    for (const Json& member : members->as_array()) {
      GRAFT_RETURN_IF_ERROR(ParsePreTokenizer(member, depth + 1, parts, byte_level));
    }
    return absl::OkStatus();
  }
  if (byte_level) parts.push_back(std::make_unique<PrintableBytesPreTokenizer>());
  byte_level = false;
  if (type == "Split") return ParseSplit(json, parts);
  if (type == "Metaspace") return ParseMetaspace(json, parts);
  if (type == "ByteLevel") {
    byte_level = true;
    return ParseByteLevel(json, parts);
  }
  return ParseSimple(type, json, parts);
}

}  // namespace

absl::StatusOr<PreTokenizerParts> ParsePreTokenizer(const Json* json) {
  PreTokenizerParts result;
  if (json == nullptr || json->is_null()) return result;
  Parts parts;
  GRAFT_RETURN_IF_ERROR(ParsePreTokenizer(*json, 0, parts, result.byte_level));
  if (parts.size() == 1) {
    result.splitter = std::move(parts[0]);
  } else if (!parts.empty()) {
    result.splitter = std::make_unique<SequencePreTokenizer>(std::move(parts));
  }
  return result;
}

void ToPrintableBytes(PreTokenized& text) {
  const absl::Status status = RewritePieces(text, [](EditableText& piece) {
    piece.ToPrintableBytes();
    return absl::OkStatus();
  });
  (void)status;  // the edit cannot fail
}

}  // namespace graft::data
